"""Schedule of strategies that push harder while the violation does not shrink."""

from __future__ import annotations

import torch
from torch import Tensor

from sklpos.strategies.base import StrategyState


def raise_if_stalled(
    state: StrategyState,
    max_violation: float | Tensor,
    tolerance: float,
    factor: float,
    name: str = "alpha",
    *,
    due: Tensor | None = None,
) -> None:
    """Multiply a buffer if the violation has not shrunk to a quarter.

    Parameters
    ----------
    state : StrategyState
        With the buffers `name`, ``max_`` + `name` and ``last_violation``.
    max_violation : float or torch.Tensor of shape ()
        Largest violation of the epoch, in scaled units.
    tolerance : float
        A smaller violation counts as none.
    factor : float
        Factor on the buffer, up to the value of the buffer ``max_`` + `name`.
    name : str, default="alpha"
        Name of the buffer to raise.
    due : torch.Tensor of shape (), optional
        Whether this epoch counts; by default it does.
    """
    # A multiplier method that works shrinks the violation by a constant factor, so only
    # slower progress needs a larger weight. ``last_violation`` starts at infinity, so
    # the first epoch is never taken for stalled.
    last, raised = state.last_violation, getattr(state, name)
    # Chosen where the numbers are, as asking for the answer would wait for the device.
    # Four times the violation is as exact as a quarter of the last one.
    stalled = (last < 4 * max_violation) & (max_violation > float(tolerance))
    most = torch.minimum(factor * raised, getattr(state, f"max_{name}"))
    if due is not None:
        stalled = stalled & due
        max_violation = torch.where(due, max_violation, last)
    raised.copy_(torch.where(stalled, most, raised))
    last.fill_(max_violation)
