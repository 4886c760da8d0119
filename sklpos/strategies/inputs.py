"""Checks of the parameters of a constraint."""

from __future__ import annotations

import reprlib
from numbers import Integral

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


def tensor_of(name: str, values: ArrayLike | Tensor) -> Tensor:
    """Read numbers as a tensor, keeping their dtype.

    Parameters
    ----------
    name : str
        Of the parameter, for the message.
    values : array-like or torch.Tensor

    Returns
    -------
    torch.Tensor
        A copy, unless a tensor is given.

    Raises
    ------
    ValueError
        If these are no numbers.
    """
    if isinstance(values, Tensor):
        return values
    try:
        # torch warns of read-only arrays and refuses negative strides, so copy.
        return torch.as_tensor(np.array(values, order="C"))
    except (TypeError, ValueError) as error:
        shown = reprlib.repr(values)
        raise ValueError(
            f"{name}={shown} must be numbers, in an array or tensor of a numeric dtype."
        ) from error


def as_tensor(name: str, values: ArrayLike | Tensor) -> Tensor:
    """Read numbers as a detached floating-point tensor of at least float32.

    Parameters
    ----------
    name : str
        Of the parameter, for the message.
    values : array-like or torch.Tensor

    Returns
    -------
    torch.Tensor

    Raises
    ------
    ValueError
        If these are no numbers.
    """
    # Targets or bounds with a gradient would tie the term to their own graph.
    values = tensor_of(name, values).detach()
    if values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"{name} has dtype {values.dtype}; it must be real numbers.")
    if not values.is_floating_point():
        return values.to(torch.get_default_dtype())
    return values.to(torch.promote_types(values.dtype, torch.float32))


def check_count(name: str, value: int) -> None:
    """Refuse values that are not positive whole numbers.

    Parameters
    ----------
    name : str
    value : int

    Raises
    ------
    ValueError
    """
    # ``isinstance(True, Integral)`` holds, but True is not a count.
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < 1:
        raise ValueError(f"{name}={value!r} must be a positive whole number.")


def target_tensor(
    y: ArrayLike | Tensor | None, n_samples: int | None, n_outputs: int
) -> Tensor:
    """Targets as a matrix, or zeros of the right shape if there are none.

    Parameters
    ----------
    y : array-like or torch.Tensor of shape (n_samples,) or (n_samples, n_outputs)
    n_samples : int or None
    n_outputs : int

    Returns
    -------
    torch.Tensor of shape (n_samples, n_outputs)

    Raises
    ------
    ValueError
        If neither or both of `y` and `n_samples` are given, or `y` is not finite.
    """
    if (y is None) == (n_samples is None):
        raise ValueError(
            f"pass either y, the targets of all rows, or n_samples={n_samples!r}."
        )
    if y is None:
        check_count("n_samples", n_samples)
        check_count("n_outputs", n_outputs)
        return torch.zeros(n_samples, n_outputs)
    targets = as_tensor("y", y)
    targets = targets[:, None] if targets.ndim == 1 else targets
    if targets.ndim != 2 or targets.numel() == 0:
        raise ValueError(
            f"y has shape {tuple(targets.shape)}; pass (n_samples,) or "
            "(n_samples, n_outputs)."
        )
    # 1 is the default and cannot be told from a value that the user gave.
    if n_outputs not in (1, targets.shape[1]):
        raise ValueError(
            f"n_outputs={n_outputs!r}, but y has {targets.shape[1]}; pass y alone."
        )
    if not targets.isfinite().all():
        raise ValueError("y contains NaN or infinity; drop or fill these rows.")
    return targets


def row_weights(weight: ArrayLike | None, targets: Tensor) -> Tensor | None:
    """Sample weights with mean 1.

    Parameters
    ----------
    weight : array-like of shape (n_samples,) or None
    targets : torch.Tensor of shape (n_samples, n_outputs)

    Returns
    -------
    torch.Tensor of shape (n_samples, 1) or None

    Raises
    ------
    ValueError
        If they are not one non-negative, finite number per row, or all are 0.
    """
    if weight is None:
        return None
    weights = as_tensor("weight", weight).to(targets)
    if weights.shape != targets.shape[:1]:
        raise ValueError(
            f"weight has shape {tuple(weights.shape)}; pass one number for each of the "
            f"{len(targets)} rows."
        )
    if not ((weights >= 0) & weights.isfinite()).all() or not (weights > 0).any():
        raise ValueError(
            "weight must be finite and at least 0 in every row, and above 0 in one."
        )
    # Mean 1 keeps the term, and so the meaning of alpha, independent of their unit.
    return (weights / weights.mean())[:, None]


def target_scale(targets: Tensor, weights: Tensor | None) -> Tensor:
    """(Weighted) standard deviation of each output; 1 where it is constant.

    Parameters
    ----------
    targets : torch.Tensor of shape (n_samples, n_outputs)
    weights : torch.Tensor of shape (n_samples, 1) or None
        With mean 1.

    Returns
    -------
    torch.Tensor of shape (n_outputs,)
    """
    # In float32 the variance of targets far from 0 would be mostly rounding.
    exact = targets.double()
    share = torch.ones_like(exact[:, :1]) if weights is None else weights.double()
    mean = (share * exact).mean(0)
    deviation = (share * (exact - mean) ** 2).mean(0).sqrt()
    # Equal targets may differ in the last digits; dividing by that would blow it up.
    rounding = 4 * torch.finfo(targets.dtype).eps * exact.abs().amax(0)
    return torch.where(deviation > rounding, deviation, 1.0).to(targets)


def spread_scale(scale: ArrayLike | Tensor, targets: Tensor) -> Tensor:
    """Spread a scale to one number per output, like the targets.

    Parameters
    ----------
    scale : float or array-like of shape (n_outputs,)
    targets : torch.Tensor of shape (n_samples, n_outputs)

    Returns
    -------
    torch.Tensor of shape (n_outputs,)

    Raises
    ------
    ValueError
        If there are more or fewer, or if one is not finite and positive.
    """
    given = as_tensor("scale", scale).to(targets)
    n_outputs = targets.shape[1]
    if given.shape not in ((), (1,), (n_outputs,)):
        raise ValueError(
            f"scale has shape {tuple(given.shape)}; pass one number, or one for each "
            f"of the {n_outputs} outputs."
        )
    if not ((given > 0) & given.isfinite()).all():
        raise ValueError(f"scale={given.tolist()} must be finite and positive.")
    return given.expand(n_outputs).clone()
