"""Slack variables with equality multipliers, one of each a row and output."""

from __future__ import annotations

import torch
from torch import Tensor

from sklpos.strategies.base import ConstraintStrategy, StrategyState


class SlackMultipliers(ConstraintStrategy):
    """``f - lower_bound = s**2`` with multiplier mu: ``mu h + alpha h**2``.

    ``h = f - lower_bound - s**2``. Descent on the weights and the slack s, ascent on
    mu, and ``alpha`` as damping, without which the three oscillate.

    Parameters
    ----------
    dual_lr : float, default=0.1
        Step of the ascent on mu, in units of ``2 * alpha``.
    slack_lr : float, default=0.5
        Step of the descent on s, in units of its inverse curvature
        ``8 alpha s**2 + 2 |mu + 2 alpha h|``; at most 1.
    min_slack : float, default=1e-3
        Floor of s. ``s = 0`` would be absorbing: its gradient ``-2 s (...)`` vanishes
        there, and the inequality would stay an equality for ever.

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
    >>> strategy.setup(torch.zeros(1, 1), lower_bound=torch.zeros(1), alpha=1.0)
    >>> round(float(strategy.state_.slack), 3)
    0.1
    """

    guarantee = "training"
    row_by_row = True
    needs_alpha = True

    def __init__(
        self,
        dual_lr: float = 0.1,
        slack_lr: float = 0.5,
        min_slack: float = 1e-3,
    ):
        self.dual_lr = dual_lr
        self.slack_lr = slack_lr
        self.min_slack = min_slack

    def setup(self, y: Tensor, *, lower_bound: Tensor, alpha: float) -> None:
        """Start mu at 0 and s where the targets want it, never at 0."""
        self.state_ = StrategyState(
            alpha=y.new_tensor(alpha),
            multiplier=torch.zeros_like(y),
            slack=torch.sqrt(torch.relu(y - lower_bound) + 1e-2),
        )

    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return ``mu h + alpha h**2``."""
        residual = -violation - self.state_.slack[index] ** 2
        return self.state_.multiplier[index] * residual + self.state_.alpha * (
            residual**2
        )

    def penalty_gradient(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return ``-(mu + 2 alpha h)``."""
        residual = -violation - self.state_.slack[index] ** 2
        return -(self.state_.multiplier[index] + 2 * self.state_.alpha * residual)

    def dual_step(self, violation: Tensor, index: Tensor) -> None:
        """Ascend on mu, then descend on s, on the rows of the batch."""
        state, slack = self.state_, self.state_.slack[index]
        residual = -violation - slack**2
        multiplier = state.multiplier[index] + self.dual_lr * 2 * state.alpha * residual
        pull = multiplier + 2 * state.alpha * residual
        # Gradient over curvature: a fixed step diverges where s is large.
        step = 2 * slack * pull / (8 * state.alpha * slack**2 + 2 * pull.abs())
        state.multiplier[index] = multiplier
        state.slack[index] = (slack + self.slack_lr * step).clamp(min=self.min_slack)

    def multipliers(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return ``-mu``: the inequality multiplier where the bound is active."""
        return -self.state_.multiplier[index]
