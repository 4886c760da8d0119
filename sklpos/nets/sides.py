"""One side of the bounds: read from what users pass, and rounded to a dtype."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


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
    values = _numbers(given, free)
    if values.ndim > 1 or (values.ndim == 1 and len(values) not in (1, n_outputs)):
        raise ValueError(
            f"{name}={given!r} has shape {values.shape}; pass one number, or one for "
            f"each of the {n_outputs} outputs."
        )
    if np.isnan(values).any() or (values == -free).any():
        raise ValueError(
            f"{name}={given!r} must be a finite number, or {free} for no bound; or one "
            "of these for each output, in order."
        )
    # broadcast_to repeats one number in read-only memory.
    return np.broadcast_to(values, (n_outputs,)).copy()


def rounded_inwards(side: NDArray, end: float, dtype: torch.dtype) -> NDArray:
    """Round bounds to a dtype, towards an end of the number line.

    Parameters
    ----------
    side : ndarray of shape (n_outputs,)
    end : float
        ``inf`` for lower bounds, ``-inf`` for upper ones.
    dtype : torch.dtype

    Returns
    -------
    ndarray of the same shape
        float64.
    """
    exact = torch.as_tensor(side)
    near = exact.to(dtype)
    further = torch.nextafter(near, torch.full_like(near, end))
    outside = near.double() < exact if end > 0 else near.double() > exact
    return torch.where(outside, further, near).double().numpy()


def _numbers(given, free: float) -> NDArray:
    """As float64; what cannot be read is NaN, and None is free."""
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
    if isinstance(given, (list, tuple)):
        given = [free if value is None else value for value in given]
    try:
        return np.asarray(free if given is None else given, dtype=np.float64)
    except (TypeError, ValueError):
        return np.array(np.nan)
