"""Errors of the system, in one sentence that names the parameter."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sklpos.nets.hints import shown


@contextmanager
def named_refusals(parameter: str, done: str) -> Iterator[None]:
    """Raise errors of the system once more, with the parameter that leads to them.

    The new error has the number of the system's error, and so its class. A ValueError
    stays what it is, and so does an error that has nothing to do with the system.

    Parameters
    ----------
    parameter : str
        With its value, such as ``"path='fit.ckpt'"``.
    done : str
        What cannot be done, such as ``"written"``.

    Raises
    ------
    OSError
        If an OSError is raised inside, or is the reason for an error of torch there.

    Examples
    --------
    >>> import errno
    >>> with named_refusals("path='fit.ckpt'", "written"):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    OSError: [Errno 28] path='fit.ckpt' cannot be written: No space left on device.
    """
    handled = sys.exc_info()[1]
    try:
        yield
    except Exception as error:
        refusal = _system_error(error, handled)
        if isinstance(error, ValueError) or refusal is None:
            raise
        reason = refusal.strerror or shown(refusal)
        if refusal.filename is not None:
            name = os.path.basename(str(refusal.filename))
            reason += f" ({shown(name)})"
        number = [] if refusal.errno is None else [refusal.errno]
        # With a number, OSError makes the subclass that belongs to it.
        raise OSError(*number, f"{parameter} cannot be {done}: {reason}.") from error


def _system_error(
    error: BaseException | None, handled: BaseException | None
) -> OSError | None:
    """The error of the system behind an error, which torch replaces by its own."""
    # Further back are errors that the caller was handling before.
    while error is not None and error is not handled:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None
