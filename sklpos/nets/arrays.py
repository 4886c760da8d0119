"""Arrays on their way to torch: tensors of any kind in, arrays it can read out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

#: What numpy, torch and scikit-learn raise of values that they cannot read.
UNREADABLE = (TypeError, ValueError, OverflowError, NotImplementedError)
_OF_NUMPY = (torch.float16, torch.float32, torch.float64)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Let every error be a ValueError or TypeError that names the parameter.

    Parameters
    ----------
    name : str
        Put before a message that names neither X nor y nor sample_weight.

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
        known = isinstance(error, (TypeError, ValueError))
        if known and re.search(r"\b(X|y|sample_weight)\b", str(error)):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error


def check_range(X: NDArray, dtype: torch.dtype) -> None:
    """Raise ValueError if X is beyond the range of a dtype.

    Parameters
    ----------
    X : ndarray
    dtype : torch.dtype
        That of the net.

    Raises
    ------
    ValueError
    """
    if X.dtype.itemsize <= dtype.itemsize:
        return
    if (size := float(max(X.max(), -X.min()))) > torch.finfo(dtype).max:
        name = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"X has a size of {size:.3g}, which {name} does not hold; standardise X, "
            "or use dtype='float64'."
        )


def without_torch(values: ArrayLike) -> ArrayLike:
    """Return a tensor as an array, and all else as it is.

    scikit-learn's validation reads tensors on the CPU, without a gradient, of a dtype
    that numpy knows; these are no reasons to refuse one.

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
    if values.is_floating_point() and values.dtype not in _OF_NUMPY:
        values = values.float()  # bfloat16 and the dtypes of 8 bits
    return values.numpy()


def for_torch(X: NDArray) -> NDArray:
    """Return an array that torch reads: writeable, native, of no negative stride.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        X itself where it will do.

    Examples
    --------
    >>> import numpy as np
    >>> for_torch(np.ones((3, 2), dtype=">f4")[::-1]).dtype.isnative
    True
    """
    if X.flags.writeable and X.dtype.isnative and min(X.strides) >= 0:
        return X
    return np.array(X, dtype=X.dtype.newbyteorder("="), order="C")
