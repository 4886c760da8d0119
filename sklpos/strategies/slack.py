"""Slack variables with equality multipliers, one of each per row and column."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sklpos.nets.rules import Number
from sklpos.strategies.base import ConstraintStrategy, StrategyState
from sklpos.strategies.schedule import raise_if_stalled


class SlackMultipliers(ConstraintStrategy):
    """``-g = s**2`` with multiplier mu: ``mu h + alpha h**2``.

    ``h = -g - s**2`` is the residual of the equality. Descent on the weights and the
    slack s, ascent on mu, and ``alpha`` as damping, without which the three oscillate.
    ``alpha`` grows after an epoch whose largest violation is above `tolerance` and has
    not shrunk to a quarter, up to ``max(max_curvature / 2, alpha)``.

    Parameters
    ----------
    dual_lr : float, default=0.05
        Step of the ascent on mu, in units of ``2 * alpha``.
    slack_lr : float, default=1.0
        Step of the descent on s, in units of its inverse curvature
        ``8 alpha s**2 + 2 |mu + 2 alpha h|``; at most 1.
    min_slack : float, default=1e-5
        Floor of s. ``s = 0`` would be absorbing: its gradient ``-2 s (...)`` vanishes
        there, and the inequality would stay an equality. Active rows end at
        the distance ``min_slack**2`` from the bound. Steps double s at most, so it
        takes a row 17 of them to get from 1e-5 to 1.
    tolerance : float, default=1e-4
        Violation, in standard deviations of y, that counts as none.
    max_curvature : float, default=1000.0
        Largest ``2 * alpha`` the schedule may reach. As in `AugmentedLagrangian`,
        lower this, or lr, with plain gradient descent.
    growth : float, default=1.06
        Factor on alpha.

    Notes
    -----
    ``multipliers_`` of the estimator is ``-mu``. A clearly negative entry is a row
    held at s = 0 although its target would lift it.

    References
    ----------
    .. [1] J. C. Platt, A. H. Barr (1988), "Constrained differential optimization",
       Neural Information Processing Systems (NIPS 1987), pp. 612-621.

    Examples
    --------
    >>> import torch
    >>> strategy = SlackMultipliers()
    >>> strategy.setup(torch.zeros(1, 1), alpha=1.0)
    >>> round(float(strategy.state_.slack), 3)
    0.1
    """

    guarantee = "training"
    rules: ClassVar = {
        "dual_lr": Number(),
        "slack_lr": Number(most=1.0, above=True),
        "min_slack": Number(most=1.0, above=True),
        "tolerance": Number(),
        "max_curvature": Number(infinite=True),
        "growth": Number(1.0),
    }
    needs_alpha = True

    def __init__(
        self,
        dual_lr: float = 0.05,
        slack_lr: float = 1.0,
        min_slack: float = 1e-5,
        tolerance: float = 1e-4,
        max_curvature: float = 1000.0,
        growth: float = 1.06,
    ):
        self.dual_lr = dual_lr
        self.slack_lr = slack_lr
        self.min_slack = min_slack
        self.tolerance = tolerance
        self.max_curvature = max_curvature
        self.growth = growth

    def setup(self, room: Tensor, *, alpha: float) -> None:
        """Start mu at 0 and s where the targets want it, never at 0."""
        self.state_ = StrategyState(
            alpha=room.new_tensor(alpha),
            multiplier=torch.zeros_like(room),
            # A row that started at s = 0 would stay an equality for all of training.
            slack=torch.sqrt(torch.relu(room) + 1e-2),
            max_alpha=room.new_tensor(max(self.max_curvature / 2, alpha)),
            last_violation=room.new_tensor(float("inf")),
        )

    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """``mu h + alpha h**2``."""
        return self.term_and_slope(violation, index)[0]

    def term_and_slope(self, violation: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """``mu h + alpha h**2`` and ``-(mu + 2 alpha h)``."""
        state, multiplier = self.state_, self.state_.multiplier[index]
        residual = -violation - state.slack[index] ** 2
        # Without damping, weights, slack and mu oscillate: measured, they had not
        # converged after 20,000 steps.
        damping = state.alpha * residual
        return (multiplier + damping) * residual, -(multiplier + 2 * damping)

    def dual_step(self, violation: Tensor, index: Tensor) -> None:
        """Ascend on mu, then descend on s, on the rows of the batch."""
        state, slack = self.state_, self.state_.slack[index]
        residual = -violation - slack**2
        # Plain ascent: Adam would be blind to the size of the violation, and its
        # momentum would move rows that are not in the batch.
        multiplier = state.multiplier[index] + self.dual_lr * 2 * state.alpha * residual
        pull = multiplier + 2 * state.alpha * residual
        # Gradient over curvature: a fixed step diverges where s is large.
        step = 2 * slack * pull / (8 * state.alpha * slack**2 + 2 * pull.abs())
        state.multiplier[index] = multiplier
        # The floor matters at every step, because s = 0 would never be left again.
        state.slack[index] = (slack + self.slack_lr * step).clamp(min=self.min_slack)

    def multipliers(self, violation: Tensor, index: Tensor) -> Tensor:
        """``-mu``: the inequality multiplier where the bound is active."""
        return -self.state_.multiplier[index]

    def on_epoch_end(self, max_violation: float) -> None:
        """Raise alpha while the bound is violated and no progress is made."""
        raise_if_stalled(self.state_, max_violation, self.tolerance, self.growth)
