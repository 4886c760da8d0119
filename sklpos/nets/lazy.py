"""Attributes that are computed when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

Value = TypeVar("Value")


class lazy(Generic[Value]):
    """Attribute that a method computes once, for all threads.

    That of ``functools`` has one lock for all objects before Python 3.12: threads wait
    for each other, and a process that is forked meanwhile never ends its wait. Here,
    threads may compute it at the same time, but the first value counts for all.

    Parameters
    ----------
    method : callable
        Of the object.

    Examples
    --------
    >>> class Square:
    ...     side = 3
    ...
    ...     @lazy
    ...     def area(self):
    ...         return self.side**2
    >>> square = Square()
    >>> square.area, "area" in vars(square)
    (9, True)
    """

    def __init__(self, method: Callable[[Any], Value]) -> None:
        self.method = method
        self.name = method.__name__
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Value: ...
    def __get__(self, instance, owner):
        if instance is None:
            return self
        # In one operation, and not through a frozen `__setattr__`.
        return vars(instance).setdefault(self.name, self.method(instance))
