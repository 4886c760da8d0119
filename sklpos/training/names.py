"""Names of classes in stored objects: those that a file may have made."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from skorch.callbacks import Callback, EarlyStopping, EpochTimer, PassthroughScoring
from skorch.utils import noop
from torch import nn

from sklpos.nets.values import finite_rows
from sklpos.strategies.base import ConstraintStrategy

# With the dot that ends the name of a package.
_PACKAGES = ("sklpos.", "torch.nn.", "torch.optim.")
# A checkpoint writes to a path that the file would choose, so users must trust it.
_TRUSTED_BY_USERS = ("sklpos.training.checkpoint.",)
# No other functions are stored; these are harmless.
_FUNCTIONS = {
    "skorch.utils.noop": noop,
    "builtins.print": print,
    "sklpos.nets.values.finite_rows": finite_rows,
}
_KNOWN = _FUNCTIONS | {
    f"{thing.__module__}.{thing.__qualname__}": thing
    for thing in (EarlyStopping, EpochTimer, PassthroughScoring)
}
_OPENED = (nn.Module, Callback, ConstraintStrategy)


def find_name(name: str) -> Any:
    """Find a class of this package or of torch, or one of a few harmless objects.

    Parameters
    ----------
    name : str
        Module and name, with a dot between.

    Returns
    -------
    type or callable

    Raises
    ------
    ValueError
        If it is anything else.

    Examples
    --------
    >>> find_name("torch.nn.modules.linear.Linear")
    <class 'torch.nn.modules.linear.Linear'>
    """
    module, _, attribute = name.rpartition(".")
    if name in _KNOWN:
        return _KNOWN[name]
    if _is_in(module, _PACKAGES) and not _is_in(module, _TRUSTED_BY_USERS):
        found = getattr(import_module(module), attribute, None)
        # Defined there and not imported, or a file could name any class in reach.
        if isinstance(found, type) and found.__module__ == module:
            return found
    raise ValueError(f"{name!r} is not a class of sklpos, torch.nn, torch.optim.")


def function_name(thing: Any) -> str | None:
    """Name by which `find_name` finds a function.

    Parameters
    ----------
    thing : object

    Returns
    -------
    str or None
        None for anything but a few harmless functions.

    Examples
    --------
    >>> function_name(print)
    'builtins.print'
    """
    # Ray, for instance, puts a function of its own in the place of ``print``.
    if thing is print:
        return "builtins.print"
    return next((name for name, known in _FUNCTIONS.items() if known is thing), None)


def is_known(cls: type) -> bool:
    """Whether a file may have an object of a class made without the user's trust.

    Parameters
    ----------
    cls : type

    Returns
    -------
    bool
    """
    try:
        return find_name(f"{cls.__module__}.{cls.__qualname__}") is cls
    except ValueError:
        return False


def is_usual(cls: type) -> bool:
    """Whether a class is of this package or of torch.

    Parameters
    ----------
    cls : type

    Returns
    -------
    bool
    """
    return _is_in(cls.__module__, _PACKAGES)


def is_opened(cls: type) -> bool:
    """Whether objects of a class are stored by their attributes.

    Parameters
    ----------
    cls : type

    Returns
    -------
    bool
    """
    return issubclass(cls, _OPENED) or _is_in(cls.__module__, _PACKAGES[:1])


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return f"{module}.".startswith(packages)
