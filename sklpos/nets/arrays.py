"""Conversions between tensors and arrays: what users pass in, what torch can read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

#: Errors that numpy, torch and scikit-learn raise for values they cannot read.
UNREADABLE = (TypeError, ValueError, OverflowError, NotImplementedError)
_NUMPY_DTYPES = (torch.float16, torch.float32, torch.float64)


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
        if known and re.search(r"\b(X|y|sample_weight)\b", str(error)):
            raise
        # Callers expect one of these two; torch and numpy raise others as well.
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error


def check_range(X: NDArray, dtype: torch.dtype, largest: float = math.inf) -> None:
    """Raise ValueError if X is too large for a net.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
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
    row, column = np.argwhere(np.abs(X) > largest)[0]
    raise ValueError(
        f"X[{row}, {column}]={X[row, column]:.3g} is too large: in {name} sums of this "
        f"model may overflow beyond {largest:.3g}; correct this row or leave it out."
    )


def largest_size(X: NDArray) -> float:
    """Largest absolute value of an array; NaN if it holds any.

    Parameters
    ----------
    X : ndarray

    Returns
    -------
    float
    """
    # Both ends and not abs(), which would copy X. A NaN goes first, or max() drops it.
    return float(max(X.max(), -X.min()))


def without_torch(values: ArrayLike) -> ArrayLike:
    """Convert a tensor to an array; anything else is returned as it is.

    scikit-learn's validation only reads tensors that are on the CPU, have no gradient
    and have a dtype that numpy knows. This function lifts these restrictions.

    Parameters
    ----------
    values : array-like or torch.Tensor

    Returns
    -------
    array-like

    Examples
    --------
    >>> import torch
    >>> without_torch(torch.tensor([1.5], dtype=torch.bfloat16, requires_grad=True))
    array([1.5], dtype=float32)
    """
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    if values.is_floating_point() and values.dtype not in _NUMPY_DTYPES:
        # numpy has neither bfloat16 nor the floating dtypes of 8 bits.
        values = values.float()
    return values.numpy()


def for_torch(X: NDArray) -> NDArray:
    """Make an array readable for torch: writeable, native, without negative strides.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        X itself if torch can read it, otherwise a copy.

    Examples
    --------
    >>> import numpy as np
    >>> for_torch(np.ones((3, 2), dtype=">f4")[::-1]).dtype.isnative
    True
    """
    # torch warns of read-only memory, and raises for the other two.
    if X.flags.writeable and X.dtype.isnative and min(X.strides) >= 0:
        return X
    return np.array(X, dtype=X.dtype.newbyteorder("="), order="C")


def finite_rows(X: ArrayLike, name: str = "X") -> NDArray:
    """Validate rows of finite numbers, as a float64 array.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
    name : str, default="X"
        Name of the parameter in error messages.

    Returns
    -------
    ndarray of shape (n_samples, n_features)

    Raises
    ------
    ValueError
        If X has another shape, no rows, NaN or infinity.

    Examples
    --------
    >>> finite_rows([[1, 2]])
    array([[1., 2.]])
    """
    with naming(name):
        rows = np.array(without_torch(X), dtype=np.float64)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(
            f"{name} must have shape (n_samples, n_features); got {rows.shape}."
        )
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return rows
