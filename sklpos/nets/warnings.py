"""Warnings that point at a line of the user's code."""

from __future__ import annotations

import inspect
import warnings

# Libraries between this package and the user's code: a warning that points into one
# of them does not help. `functools` calls the functions that read a model by its type.
# `pickle`, `copy` and `skops` are on the way from the user to an object that is loaded.
_LIBRARIES = frozenset(
    {
        "contextlib",
        "copy",
        "dataclasses",
        "functools",
        "joblib",
        "numpy",
        "pickle",
        "sklearn",
        "sklpos",
        "skops",
        "skorch",
        "torch",
    }
)


def warn_user(message: str | Warning, category: type[Warning] = UserWarning) -> None:
    """Warn from the line of the user's code that called the package.

    Frames of the package, and of the libraries between it and its user, are skipped.

    Parameters
    ----------
    message : str or Warning
    category : type of Warning, default=UserWarning
        Not used if `message` is a warning, which has its own.
    """
    # skip_file_prefixes of warnings.warn needs Python 3.12, and takes paths, not names.
    frame = inspect.currentframe()
    # stacklevel=1 would be this function.
    level = 1
    while frame.f_back is not None and _belongs_to_a_library(frame):
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)


def _belongs_to_a_library(frame) -> bool:
    module = frame.f_globals.get("__name__") or ""
    return module.partition(".")[0] in _LIBRARIES
