"""Ctrl-C during training, told apart from callbacks that ask to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sklearn.exceptions import ConvergenceWarning

from sklpos.nets.warnings import warn_user


class InterruptWatch:
    """Notes whether Ctrl-C was pressed.

    The callbacks of skorch end training by a ``KeyboardInterrupt``, too, so the
    exception alone does not tell.

    Attributes
    ----------
    pressed : bool

    Examples
    --------
    >>> watch = InterruptWatch()
    >>> with watch.watching():
    ...     total = sum(range(10))
    >>> watch.pressed
    False
    """

    def __init__(self):
        self.pressed = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for Ctrl-C in the main thread; no other thread receives it."""
        own = threading.current_thread() is threading.main_thread()
        previous = signal.getsignal(signal.SIGINT)
        # The signal may be ignored, or belong to code that is not Python.
        if not (own and callable(previous)):
            yield
            return

        def note(number, frame):
            try:
                previous(number, frame)
            except KeyboardInterrupt:
                self.pressed = True
                raise

        try:
            signal.signal(signal.SIGINT, note)
            yield
        finally:
            # A callback may have put a handler of its own in this place.
            if signal.getsignal(signal.SIGINT) is note:
                signal.signal(signal.SIGINT, previous)


def report_interrupt(outcome, n_epochs: int, on_interrupt: str) -> None:
    """Say so if a fit was interrupted; the model is that of its last finished epoch.

    Parameters
    ----------
    outcome : Outcome or Fit
        With ``interrupted`` and ``n_iter``, the number of epochs that were finished.
    n_epochs : int
        Epochs that were planned.
    on_interrupt : {"warn", "raise"}

    Raises
    ------
    KeyboardInterrupt
        If `on_interrupt` is ``"raise"``.
    """
    if not outcome.interrupted:
        return
    epoch = min(outcome.n_iter + 1, n_epochs)
    message = (
        f"training was interrupted at epoch {epoch} of {n_epochs}; the model is that "
        f"of epoch {outcome.n_iter}"
    )
    if on_interrupt == "raise":
        raise KeyboardInterrupt(f"{message}.")
    warn_user(
        f"{message}. In a search, set on_interrupt='raise' to stop the search as well.",
        ConvergenceWarning,
    )
