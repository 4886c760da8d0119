"""One thread at a time changes an estimator."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from sklpos.nets.process import at_the_end, leaves_no_trace

Method = TypeVar("Method", bound=Callable[..., Any])


class _Turn(NamedTuple):
    thread: int
    call: str
    # Two calls of one thread are not the same turn.
    mark: object


# By the id of the estimator, which lives at least as long as the call.
_TURNS: dict[int, _Turn] = {}


def changes_estimator(method: Method) -> Method:
    """Decorate a method, or a function, that replaces the fit of its estimator.

    While it runs, a second one of the same estimator is refused: both would start from
    the same fit, and the one that ends first would be lost.

    Parameters
    ----------
    method : callable
        Its first parameter is the estimator.

    Returns
    -------
    callable
        It leaves no trace in the process, either, see `leaves_no_trace`.

    Raises
    ------
    RuntimeError
        By the method, if another one has its turn.
    """

    @functools.wraps(method)
    def call(estimator, *args, **kwargs):
        with turn(estimator, method.__name__):
            return method(estimator, *args, **kwargs)

    return leaves_no_trace(call)


@contextmanager
def turn(estimator, call: str) -> Iterator[None]:
    """Keep other threads, and callbacks, from changing an estimator meanwhile.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    call : str
        Name of the method, for the message.

    Raises
    ------
    RuntimeError
        If another call has its turn.
    """
    own = _Turn(threading.get_ident(), call, object())
    try:
        # One operation, so that no two threads find the same place empty.
        present = _TURNS.setdefault(id(estimator), own)
        if present is not own:
            where = "in another thread; call it again when that has ended"
            if present.thread == own.thread:
                where = "and called it; a callback may predict, or change a copy"
            raise RuntimeError(
                f"{call} cannot change this estimator while {present.call} of the same "
                f"estimator is running {where}."
            )
        yield
    finally:
        if _TURNS.get(id(estimator)) is own:
            del _TURNS[id(estimator)]


@at_the_end
def _end_turns_of_this_thread() -> None:
    """End the turns that Ctrl-C kept from ending."""
    for key, own in list(_TURNS.items()):
        if own.thread == threading.get_ident():
            del _TURNS[key]


def _end_other_turns() -> None:
    """In a forked child, only the thread that forked lives on."""
    for key, own in list(_TURNS.items()):
        if own.thread != threading.get_ident():
            del _TURNS[key]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_other_turns)
