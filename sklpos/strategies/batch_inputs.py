"""Checks of the predictions, row numbers and weights of a batch."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sklpos.strategies.inputs import as_tensor, tensor_of


def check_predictions(y_pred: Tensor, n_outputs: int) -> Tensor:
    """Refuse predictions that would be broadcast to another shape.

    Parameters
    ----------
    y_pred : torch.Tensor of shape (batch, n_outputs)
    n_outputs : int

    Returns
    -------
    torch.Tensor of shape (batch, n_outputs)

    Raises
    ------
    ValueError
        If the shape differs, or the values are not floating-point numbers.
    """
    if not isinstance(y_pred, Tensor):
        raise ValueError(
            f"y_pred is a {type(y_pred).__name__}; pass a torch.Tensor of shape "
            f"(batch, {n_outputs})."
        )
    if not y_pred.is_floating_point():
        raise ValueError(
            f"y_pred has dtype {y_pred.dtype}; pass floating-point numbers."
        )
    # Predictions of shape (batch,) against (batch, 1) would broadcast to (batch, batch)
    # without an error.
    if y_pred.ndim != 2 or y_pred.shape[1] != n_outputs:
        hint = "; use y_pred[:, None]" if y_pred.ndim == 1 and n_outputs == 1 else ""
        raise ValueError(
            f"y_pred has shape {tuple(y_pred.shape)}, but (batch, {n_outputs}) is "
            f"needed{hint}."
        )
    return y_pred


def check_index(index: ArrayLike | Tensor, n_rows: int, n_samples: int) -> Tensor:
    """Row numbers of a batch.

    Parameters
    ----------
    index : array-like or torch.Tensor of shape (n_rows,)
    n_rows : int
        Of the predictions.
    n_samples : int
        Of the training set.

    Returns
    -------
    torch.Tensor of shape (n_rows,)

    Raises
    ------
    ValueError
        If they are not whole numbers from 0 to ``n_samples - 1``, one per prediction.
    """
    index = tensor_of("index", index)
    whole = not (index.is_floating_point() or index.is_complex())
    # An empty list becomes a float tensor, which is fine as it holds no row number.
    if index.numel() and (index.dtype == torch.bool or not whole):
        raise ValueError(
            f"index has dtype {index.dtype}; pass row numbers, which are integers."
        )
    if index.shape != (n_rows,):
        raise ValueError(
            f"index has shape {tuple(index.shape)}; pass the row number of each of the "
            f"{n_rows} predictions, shape ({n_rows},)."
        )
    index = index.long()
    # A compiled graph cannot look at values, and an empty tensor has no minimum.
    if torch.compiler.is_compiling() or not n_rows:
        return index
    # A negative number would wrap around to another row without an error.
    smallest, largest = index.min().item(), index.max().item()
    if smallest < 0 or largest >= n_samples:
        wrong = smallest if smallest < 0 else largest
        raise ValueError(
            f"index contains {wrong}, but the row numbers of {n_samples} rows go from "
            f"0 to {n_samples - 1}."
        )
    return index


def batch_weight(weight: ArrayLike | Tensor, y_pred: Tensor) -> Tensor:
    """Weights of the predictions of a batch.

    Parameters
    ----------
    weight : array-like or torch.Tensor of shape (batch,) or (batch, n_outputs)
    y_pred : torch.Tensor of shape (batch, n_outputs)

    Returns
    -------
    torch.Tensor of shape (batch, 1) or (batch, n_outputs)

    Raises
    ------
    ValueError
        If the shape does not fit, or a weight is negative or not finite.
    """
    weight = as_tensor("weight", weight)
    n_rows, n_outputs = y_pred.shape
    if weight.shape not in ((n_rows,), (n_rows, 1), (n_rows, n_outputs)):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; pass one number for each of the "
            f"{n_rows} predictions, or one for each of their {n_outputs} outputs."
        )
    # A compiled graph cannot look at values.
    if not torch.compiler.is_compiling():
        valid = (weight >= 0) & weight.isfinite()
        if not valid.all():
            raise ValueError("weight must be finite and at least 0 in every row.")
    return weight[:, None] if weight.ndim == 1 else weight
