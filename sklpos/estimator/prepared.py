"""Fits that are made before they are asked for, as those of a search may be."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])


class FitSource(Protocol):
    """Something that fits estimators in another way."""

    def fit(self, alone: Callable[[], Any], estimator: Any, *rows: Any, **more: Any):
        """Fit an estimator.

        Parameters
        ----------
        alone : callable
            Fits it by itself.
        estimator : PositiveOutputRegressor
        *rows, **more : object
            As its `fit` is given them.
        """


# Of the present thread, so that a fit in another one is what it always is.
_SOURCE: ContextVar[FitSource | None] = ContextVar("_SOURCE", default=None)


@contextmanager
def fits_from(source: FitSource | None) -> Iterator[None]:
    """Let a source make the fits of this thread; None lets estimators fit themselves.

    Parameters
    ----------
    source : FitSource or None
    """
    token = _SOURCE.set(source)
    try:
        yield
    finally:
        _SOURCE.reset(token)


def may_be_prepared(method: Method) -> Method:
    """Decorate the `fit` of an estimator, so that a source may make it.

    Parameters
    ----------
    method : callable

    Returns
    -------
    callable
    """

    @functools.wraps(method)
    def fit(estimator, *rows, **more):
        source = _SOURCE.get()
        if source is None:
            return method(estimator, *rows, **more)
        alone = functools.partial(method, estimator, *rows, **more)
        return source.fit(alone, estimator, *rows, **more)

    return fit
