"""Tensors as arrays, whatever their device and dtype."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor

_NUMPY_DTYPES = (torch.float16, torch.float32, torch.float64)


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
