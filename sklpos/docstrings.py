"""Docstrings of methods that override documented ones."""

from __future__ import annotations

from typing import TypeVar

_Class = TypeVar("_Class")
_SECTIONS = ("Parameters\n", "Returns\n")


def complete_docstrings(cls: type[_Class]) -> type[_Class]:
    """Give the overriding methods of a class the sections of those they override.

    A summary of its own says what a method does; its parameters are those of the method
    that it overrides, which is the place to describe them.

    Parameters
    ----------
    cls : type

    Returns
    -------
    type
        The same one, so that this serves as a decorator.

    Examples
    --------
    >>> class Base:
    ...     def area(self, side):
    ...         '''Area of a shape.
    ...
    ...         Parameters
    ...         ----------
    ...         side : float
    ...         '''
    >>> @complete_docstrings
    ... class Square(Base):
    ...     def area(self, side):
    ...         '''Area of a square.'''
    >>> Square.area.__doc__.split()
    ['Area', 'of', 'a', 'square.', 'Parameters', '----------', 'side', ':', 'float']
    """
    for name, method in vars(cls).items():
        function = getattr(method, "__wrapped__", method)
        own = getattr(function, "__doc__", None)
        if name.startswith("_") or not own or _sections_of(own):
            continue
        for base in cls.__mro__[1:]:
            inherited = _sections_of(getattr(vars(base).get(name), "__doc__", None))
            if inherited:
                method.__doc__ = f"{own.rstrip()}\n\n{inherited}"
                break
    return cls


def _sections_of(text: str | None) -> str:
    """Part of a docstring from its first section on."""
    lines = (text or "").splitlines(keepends=True)
    for k, line in enumerate(lines):
        if line.strip() + "\n" in _SECTIONS:
            return "".join(lines[k:])
    return ""
