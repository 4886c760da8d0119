"""Arrays that torch can read, and in which no sum overflows; errors name them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import issparse

from sklpos.nets.any_rows import Rows, chunks_of
from sklpos.nets.hints import shortened
from sklpos.nets.sparse import SparseRows

#: Errors that numpy, torch and scikit-learn raise for values they cannot read.
UNREADABLE = (TypeError, ValueError, OverflowError, NotImplementedError)
# Longer messages, of whatever library, are cut in the middle.
_LONGEST = 300
# scikit-learn's messages may show all of an array, of whatever length.
_WHOLE_ARRAY = re.compile(
    r"\n(?:array=\[|\[)[\s\S]*\]\.?\n|\n<[\s\S]*|(?<=Complex data not supported)[\s\S]*"
)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Turn every conversion error into one that names the parameter.

    Parameters
    ----------
    name : str
        Put in front of a message that names none of X, y and sample_weight.

    Raises
    ------
    ValueError, TypeError

    Examples
    --------
    >>> with naming("y"):
    ...     float("a")
    Traceback (most recent call last):
    ValueError: y: could not convert string to float: 'a'
    """
    try:
        yield
    except UNREADABLE as error:
        # scikit-learn's own messages name the parameter already.
        known = isinstance(error, (TypeError, ValueError))
        named = re.search(r"\b(X|y|sample_weight)\b", str(error))
        if known and named and len(str(error)) <= _LONGEST:
            raise
        # Callers expect one of these two; torch and numpy raise others as well.
        kind = TypeError if isinstance(error, TypeError) else ValueError
        said = shortened(_WHOLE_ARRAY.sub(" ", str(error)), 250)
        raise kind(f"{name}: {said}") from error


def check_range(X: Rows, dtype: torch.dtype, largest: float = math.inf) -> None:
    """Raise ValueError if X is too large for a net.

    Parameters
    ----------
    X : ndarray or SparseRows of shape (n_samples, n_features)
    dtype : torch.dtype
        That of the net.
    largest : float, default=inf
        Largest size of a feature for which no sum of the net can overflow.

    Raises
    ------
    ValueError
        The message names the first row that is too large.
    """
    most = torch.finfo(dtype).max
    size = largest_size(X)
    if size <= min(largest, most):
        return
    name = str(dtype).removeprefix("torch.")
    if size > most:
        raise ValueError(
            f"X has a size of {size:.3g}, which {name} does not hold; standardise X, "
            "or use dtype='float64'."
        )
    start = 0
    for chunk in chunks_of(X):
        for place in np.argwhere(np.abs(chunk) > largest)[:1].tolist():
            value, place = chunk[tuple(place)], [start + place[0], *place[1:]]
            raise ValueError(
                f"X{place}={value:.3g} is too large: in {name} sums of this model may "
                f"overflow beyond {largest:.3g}; correct this row or leave it out."
            )
        start += len(chunk)


def largest_size(X: Rows) -> float:
    """Largest absolute value of an array; NaN if it holds any.

    Parameters
    ----------
    X : ndarray or SparseRows

    Returns
    -------
    float
    """
    # Both ends and not abs(), which would copy X. A NaN goes first, or max() drops it.
    return float(max(X.max(), -X.min()))


def for_torch(X: Rows) -> Rows:
    """Make an array readable for torch: writeable, native, without negative strides.

    Parameters
    ----------
    X : ndarray, SparseRows or sparse matrix of shape (n_samples, n_features)

    Returns
    -------
    ndarray or SparseRows of shape (n_samples, n_features)
        X itself if torch can read it, otherwise a copy.

    Examples
    --------
    >>> import numpy as np
    >>> for_torch(np.ones((3, 2), dtype=">f4")[::-1]).dtype.isnative
    True
    """
    if issparse(X) or isinstance(X, SparseRows):
        return X if isinstance(X, SparseRows) else SparseRows.of(X)
    # torch warns of read-only memory, and raises for the other two.
    if not isinstance(X, np.ndarray):
        return X
    if X.flags.writeable and X.dtype.isnative and min(X.strides) >= 0:
        return X
    return np.array(X, dtype=X.dtype.newbyteorder("="), order="C")


def weight_tensor(weight: ArrayLike | None, n_rows: int) -> torch.Tensor:
    """Weights of rows for torch; equal ones stay a single number.

    Parameters
    ----------
    weight : array-like of shape (n_rows,) or None
        None for equal weights, which ``numpy.broadcast_to`` may make, too.
    n_rows : int

    Returns
    -------
    torch.Tensor of shape (n_rows,)
        float64.

    Examples
    --------
    >>> weight_tensor(None, 3)
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    equal = np.broadcast_to(1.0, n_rows)
    weight = np.asarray(equal if weight is None else weight, dtype=np.float64)
    if weight.strides == (0,):
        # Of a copy, as torch warns of memory that is read-only.
        return torch.as_tensor(weight[:1].copy()).expand(n_rows)
    return torch.as_tensor(weight)


def mean_over_rows(values: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """Weighted mean of each column.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns)
    weight : ndarray of shape (n_rows,) or None
        None for equal weights, which ``numpy.broadcast_to`` may make, too.

    Returns
    -------
    ndarray of shape (n_columns,)

    Examples
    --------
    >>> mean_over_rows(np.array([[1.0], [3.0]]), np.array([3.0, 1.0])).tolist()
    [1.5]
    """
    # Products with equal weights would only take memory.
    equal = weight is None or weight.strides == (0,)
    return np.average(values, axis=0, weights=None if equal else weight)
