"""One side of the bounds: read from what users pass, and rounded to a dtype."""

from __future__ import annotations

from math import isfinite

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sklpos.nets.arrays import UNREADABLE
from sklpos.nets.hints import shown
from sklpos.nets.tensors import without_torch


def read_side(
    name: str, given: ArrayLike | Tensor | None, n_outputs: int, *, free: float
) -> NDArray:
    """Validate the bounds of one side, and expand them to one number per output.

    Parameters
    ----------
    name : str
        Name of the parameter, for the message.
    given : float, array-like of shape (n_outputs,) or None
    n_outputs : int
    free : float
        The infinity that leaves an output free, as None does.

    Returns
    -------
    ndarray of shape (n_outputs,)
        float64.

    Raises
    ------
    ValueError
        If it has NaN, the other infinity or the wrong length.
    """
    # Most calls have one number or none, and there may be many.
    if given is None or (type(given) is float and isfinite(given)):
        return np.full(n_outputs, free if given is None else given)
    values = _numbers(given, free)
    listed = given.tolist() if hasattr(given, "tolist") else given
    if values.ndim > 1 or (values.ndim == 1 and len(values) not in (1, n_outputs)):
        raise ValueError(
            f"{name}={shown(listed)} has shape {values.shape}; pass one "
            f"number, or one for each of the {n_outputs} outputs."
        )
    if np.isnan(values).any() or (values == -free).any():
        raise ValueError(
            f"{name}={shown(listed)} must be a finite number, or {free} "
            "for no bound; or one of these for each output, in order."
        )
    # broadcast_to repeats one number in read-only memory.
    return np.broadcast_to(values, (n_outputs,)).copy()


def rounded_up(values: NDArray, dtype: torch.dtype) -> NDArray:
    """Round numbers to a dtype, upwards.

    Parameters
    ----------
    values : ndarray
    dtype : torch.dtype

    Returns
    -------
    ndarray of the same shape
        float64.
    """
    exact = torch.as_tensor(values)
    near = exact.to(dtype)
    above = torch.nextafter(near, torch.full_like(near, torch.inf))
    return torch.where(near.double() < exact, above, near).double().numpy()


def _numbers(given, free: float) -> NDArray:
    """As float64; what cannot be read is NaN, and None is free."""
    try:
        values = np.asarray(without_torch(given))
        # numpy would turn None into NaN, and drop the imaginary part of an array.
        flat = [free if value is None else value for value in values.ravel().tolist()]
        return np.array(flat, dtype=np.float64).reshape(values.shape)
    except UNREADABLE:
        return np.array(np.nan)
