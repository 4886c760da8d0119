"""Outputs in an order, such as quantiles: sums of steps that cannot be negative."""

from __future__ import annotations

import torch
from torch import Tensor

from sklpos.nets.bounds import Bounds


def accumulate(steps: Tensor, n_ordered: int, *, falls: bool) -> Tensor:
    """Sums of steps within groups of consecutive rows.

    Parameters
    ----------
    steps : torch.Tensor of shape (n_groups * n_ordered, ...)
    n_ordered : int
        Rows per group.
    falls : bool
        Whether to start from the last row of a group instead of the first.

    Returns
    -------
    torch.Tensor of the same shape

    Examples
    --------
    >>> accumulate(torch.tensor([1.0, 2.0, 10.0, 20.0]), 2, falls=False)
    tensor([ 1.,  3., 10., 30.])
    >>> accumulate(torch.tensor([1.0, 2.0, 10.0, 20.0]), 2, falls=True)
    tensor([ 3.,  2., 30., 20.])
    """
    groups = steps.unflatten(0, (-1, n_ordered))
    groups = groups.flip(1).cumsum(1).flip(1) if falls else groups.cumsum(1)
    return groups.flatten(0, 1)


def differences(sums: Tensor, n_ordered: int, *, falls: bool) -> Tensor:
    """Steps whose sums are given, see `accumulate`.

    Parameters
    ----------
    sums : torch.Tensor of shape (n_groups * n_ordered, ...)
    n_ordered : int
    falls : bool

    Returns
    -------
    torch.Tensor of the same shape

    Examples
    --------
    >>> differences(torch.tensor([1.0, 3.0, 10.0, 30.0]), 2, falls=False)
    tensor([ 1.,  2., 10., 20.])
    """
    groups = sums.unflatten(0, (-1, n_ordered))
    groups = groups.flip(1) if falls else groups
    steps = groups.diff(dim=1, prepend=torch.zeros_like(groups[:, :1]))
    return (steps.flip(1) if falls else steps).flatten(0, 1)


def largest_in_group(values: Tensor, n_ordered: int) -> Tensor:
    """Largest value of a group, for each of its rows.

    Parameters
    ----------
    values : torch.Tensor of shape (n_groups * n_ordered,)
    n_ordered : int

    Returns
    -------
    torch.Tensor of the same shape

    Examples
    --------
    >>> largest_in_group(torch.tensor([1.0, 3.0, 20.0, 10.0]), 2)
    tensor([ 3.,  3., 20., 20.])
    """
    groups = values.unflatten(0, (-1, n_ordered))
    return groups.amax(1, keepdim=True).expand_as(groups).flatten()


def running_max(values: Tensor, n_ordered: int) -> Tensor:
    """Replace each output by the largest one of its group so far.

    Parameters
    ----------
    values : torch.Tensor of shape (..., n_groups * n_ordered)
    n_ordered : int

    Returns
    -------
    torch.Tensor of the same shape

    Examples
    --------
    >>> running_max(torch.tensor([[2.0, 1.0, 3.0]]), 3)
    tensor([[2., 2., 3.]])
    """
    return values.unflatten(-1, (-1, n_ordered)).cummax(-1).values.flatten(-2)


def spread(
    weight: Tensor, bias: Tensor, bounds: Bounds, reserve: float
) -> tuple[Tensor, Tensor]:
    """Move heads apart until rounding cannot change the order of their outputs.

    Sums of k numbers, in any order, are off by at most ``k * eps`` times the sum of
    their sizes. Over features that cannot be negative, a distance of ``reserve`` times
    the sizes of two weights, in each of them, is as much at least.

    Parameters
    ----------
    weight : torch.Tensor of shape (n_outputs, n_features)
    bias : torch.Tensor of shape (n_outputs,)
        Both float64, and in order but for rounding.
    bounds : Bounds
        The biases stay within them where there is room.
    reserve : float

    Returns
    -------
    tuple of torch.Tensor
        Weight and bias.
    """
    lower, upper = torch.as_tensor(bounds.sides)
    # Away from the only bound, or up from the lower one and then down from the upper.
    rises = not (torch.isfinite(upper) & torch.isinf(lower)).all()
    weight = _apart(weight, bounds.n_ordered, reserve, falls=not rises)
    bias = _apart(bias, bounds.n_ordered, reserve, falls=not rises)
    if rises and torch.isfinite(upper).all():
        bias = _apart(bias.clamp(max=upper), bounds.n_ordered, reserve, falls=True)
    return weight, bias.clamp(lower, upper)


def _apart(values: Tensor, n_ordered: int, reserve: float, *, falls: bool) -> Tensor:
    rows = list(values.unflatten(0, (-1, n_ordered)).unbind(1))
    sign = -1 if falls else 1
    rows = rows[::-1] if falls else rows
    for j in range(1, n_ordered):
        gap = reserve * (rows[j - 1].abs() + rows[j].abs())
        rows[j] = sign * torch.maximum(sign * rows[j], sign * rows[j - 1] + gap)
    return torch.stack(rows[::-1] if falls else rows, dim=1).flatten(0, 1)
