"""Copies of callbacks that refer to each other."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from skorch.callbacks import Callback


def copy_callbacks(callbacks: list) -> list:
    """Copy callbacks, or named ones; those that share a callback share its copy.

    The copies are shallow, since callbacks may hold open files, except that a callback
    within a callback is copied as well.

    Parameters
    ----------
    callbacks : list of Callback, type, or (str, Callback or type)

    Returns
    -------
    list
        Items of the same kinds.

    Examples
    --------
    >>> from skorch.callbacks import Checkpoint, LoadInitState
    >>> saved = Checkpoint()
    >>> first, second = copy_callbacks([saved, ("load", LoadInitState(saved))])
    >>> second[1].checkpoint is first, first is saved
    (True, False)
    """
    copies: dict[int, Callback] = {}
    return [_copied(item, copies) for item in callbacks]


def inner_callbacks(callbacks: list) -> list[Callback]:
    """Callbacks within others that are in the list only there.

    Parameters
    ----------
    callbacks : list of Callback, type, or (str, Callback or type)

    Returns
    -------
    list of Callback
    """
    listed = list(_parts(callbacks))
    found = []
    # The list grows in the loop, so that each is looked into once.
    for callback in (every := list(listed)):
        for value in vars(callback).values():
            for part in _parts(value):
                if not any(part is known for known in every):
                    every.append(part)
                    found.append(part)
    return found


def _copied(value: Any, copies: dict[int, Callback]) -> Any:
    if isinstance(value, Callback):
        if id(value) not in copies:
            twin = copies[id(value)] = copy.copy(value)
            for name, part in vars(twin).items():
                vars(twin)[name] = _copied(part, copies)
        return copies[id(value)]
    # Any other container stays the same object, which its owner may look into later.
    if type(value) in (list, tuple) and any(_parts(value)):
        return type(value)(_copied(part, copies) for part in value)
    return value


def _parts(value: Any) -> Iterator[Callback]:
    """The callbacks that a value is or lists, named or not."""
    if isinstance(value, Callback):
        yield value
    elif type(value) in (list, tuple):
        for part in value:
            yield from _parts(part)
