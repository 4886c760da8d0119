"""Schedule of strategies that push harder while the violation does not shrink."""

from __future__ import annotations

import torch

from sklpos.strategies.base import StrategyState


def raise_if_stalled(
    state: StrategyState,
    max_violation: float,
    tolerance: float,
    factor: float,
    name: str = "alpha",
) -> None:
    """Multiply a buffer if the violation has not shrunk to a quarter.

    Parameters
    ----------
    state : StrategyState
        With the buffers `name`, ``max_`` + `name` and ``last_violation``.
    max_violation : float
        Largest violation of the epoch, in scaled units.
    tolerance : float
        A smaller violation counts as none.
    factor : float
        Factor on the buffer, up to the value of the buffer ``max_`` + `name`.
    name : str, default="alpha"
        Name of the buffer to raise.
    """
    # A multiplier method that works shrinks the violation by a constant factor, so only
    # slower progress needs a larger weight. ``last_violation`` starts at infinity, so
    # the first epoch is never taken for stalled.
    stalled = max_violation > 0.25 * float(state.last_violation)
    if max_violation > tolerance and stalled:
        raised = state.get_buffer(name)
        raised.copy_(torch.minimum(factor * raised, state.get_buffer(f"max_{name}")))
    state.last_violation.fill_(max_violation)
