"""What belongs to the process or the thread, left as it was by every call."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch

from sklpos.nets.default_device import tensors_on_cpu
from sklpos.nets.precision import autocast_state, set_autocast_state

Function = TypeVar("Function", bound=Callable[..., Any])

# The outermost call of the package in each thread.
_here = threading.local()
# What such a call releases at its end, for its thread.
_RELEASES: list[Callable[[], None]] = []
# The call of the main thread that hears Ctrl-C, if there is one.
_LISTENING: list[_Interrupts] = []


def leaves_no_trace(function: Function, *, brief: bool = False) -> Function:
    """Decorate a public function, so that it leaves its process as it found it.

    Ctrl-C may strike anywhere, also while a context such as ``torch.no_grad`` opens or
    closes, which then leaves its mode behind. The outermost call of a thread restores
    the modes of torch and numpy, and gives back what the thread has borrowed. While it
    does so, Ctrl-C waits.

    Parameters
    ----------
    function : callable
    brief : bool, default=False
        For a function that takes microseconds: Ctrl-C does not wait, and autocast is
        not looked at.

    Returns
    -------
    callable
        With the same signature.

    Examples
    --------
    >>> @leaves_no_trace
    ... def careless():
    ...     torch.set_grad_enabled(False)
    >>> _ = careless()
    >>> torch.is_grad_enabled()
    True
    """

    @functools.wraps(function)
    def call(*args, **kwargs):
        if getattr(_here, "call", None) is not None:
            return function(*args, **kwargs)
        outermost = _Call(brief)
        try:
            try:
                outermost.begin()
                # What takes microseconds makes no tensors without naming a device.
                with nullcontext() if brief else tensors_on_cpu():
                    return function(*args, **kwargs)
            except (KeyboardInterrupt, SystemExit) as error:
                outermost.cut_by(error)
                raise
            finally:
                outermost.end()
        finally:
            # Once more, in case that Ctrl-C came just before the first could hold it.
            outermost.end()

    return call


def at_the_end(release: Callable[[], None]) -> Callable[[], None]:
    """Have a function called at the end of each outermost call, in its thread.

    Parameters
    ----------
    release : callable
        Gives back what the present thread still holds, if it holds anything.

    Returns
    -------
    callable
        The same.
    """
    _RELEASES.append(release)
    return release


def n_interrupts() -> int:
    """Number of times that Ctrl-C was pressed in the present call.

    The callbacks of skorch end training by a ``KeyboardInterrupt``, too, so the
    exception alone does not tell. Only the main thread receives Ctrl-C.

    Returns
    -------
    int
    """
    call = getattr(_here, "call", None)
    return 0 if call is None else call.interrupts.n_pressed


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C until the end of the context, in a public call.

    Yields
    ------
    None

    Examples
    --------
    >>> @leaves_no_trace
    ... def total():
    ...     with uninterrupted():
    ...         return sum(range(10))
    >>> total()
    45
    """
    interrupts = _here.call.interrupts
    interrupts.held = True
    try:
        yield
    finally:
        interrupts.release()


class _Call:
    """The outermost call of the package in a thread, and the modes it began with."""

    def __init__(self, brief: bool):
        self.interrupts = _Interrupts()
        self.gradients = torch.is_grad_enabled()
        self.autocast: dict[str, Any] | None = None
        self.brief = brief
        self.float_errors = np.geterr()
        self.filters = warnings.filters
        # Of the caller, who may call while handling an exception.
        self.handled = sys.exception()
        self.cut = False
        self.ended = False

    def begin(self) -> None:
        _here.call = self
        if not self.brief:
            self.interrupts.listen()
            # It counts up and down, which Ctrl-C must not cut.
            self.autocast = autocast_state()
        self.interrupts.release()

    def cut_by(self, error: BaseException) -> None:
        """Drop what an exception keeps alive: contexts that it kept from closing."""
        self.cut = True
        seen: set[int] = set()
        inner: BaseException | None = error
        # Contexts that close when they are deleted must not do so at some later time.
        while inner not in (None, self.handled) and id(inner) not in seen:
            seen.add(id(inner))
            traceback.clear_frames(inner.__traceback__)
            inner = inner.__context__

    def end(self) -> None:
        """Restore everything, unless that was done; to do it twice does no harm."""
        if self.ended:
            return
        self.interrupts.held = True
        for release in _RELEASES:
            release()
        if torch.is_grad_enabled() is not self.gradients:
            torch.set_grad_enabled(self.gradients)
        if self.autocast is not None:
            set_autocast_state(self.autocast)
        if np.geterr() != self.float_errors:
            np.seterr(**self.float_errors)
        self._restore_filters()
        _here.call = None
        self.interrupts.stop()
        self.ended = True

    def _restore_filters(self) -> None:
        # They are those of all threads, so they are left alone unless there is a need.
        cut = self.cut or self.interrupts.n_pressed
        if cut and warnings.filters is not self.filters:
            warnings.filters = self.filters
            # Tells the warnings module that they have changed.
            with warnings.catch_warnings():
                pass


class _Interrupts:
    """Ctrl-C in the main thread: counted, passed on, and put off while it is held."""

    def __init__(self):
        self.n_pressed = 0
        self.held = True
        self.pending = False
        self.thread = threading.get_ident()
        self.previous: Any = None
        # One object, as each access to a method makes a new one.
        self.handler = self._note

    def listen(self) -> None:
        main = threading.current_thread() is threading.main_thread()
        previous = signal.getsignal(signal.SIGINT)
        # The signal may be ignored, or belong to code that is not Python.
        if main and callable(previous):
            self.previous = previous
            _LISTENING.append(self)
            signal.signal(signal.SIGINT, self.handler)

    def stop(self) -> None:
        """Put the handler of the caller back, and let it hear what came meanwhile."""
        if self in _LISTENING:
            # A callback may have put a handler of its own in this place.
            if signal.getsignal(signal.SIGINT) is self.handler:
                signal.signal(signal.SIGINT, self.previous)
            _LISTENING.remove(self)
        # A handler that calls this one may outlive the call.
        self.release()

    def release(self) -> None:
        """Pass Ctrl-C on from now on, and what came meanwhile."""
        self.held = False
        if self.pending:
            self.pending = False
            self._note(signal.SIGINT, sys._getframe())

    def _note(self, number, frame):
        if self.held:
            self.pending = True
            return
        try:
            self.previous(number, frame)
        except KeyboardInterrupt:
            self.n_pressed += 1
            raise


def _forget_other_threads() -> None:
    """In a forked child, only the thread that forked lives on."""
    for interrupts in list(_LISTENING):
        if interrupts.thread != threading.get_ident():
            interrupts.pending = False
            interrupts.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)
