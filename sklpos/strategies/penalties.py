"""Strategies without multipliers: nothing, a quadratic and an absolute penalty."""

from __future__ import annotations

import torch
from torch import Tensor

from sklpos.strategies.base import (
    ConstraintStrategy,
    StrategyState,
    raise_alpha_if_stalled,
)


class Unconstrained(ConstraintStrategy):
    """No constraint at all: the baseline of every comparison.

    Examples
    --------
    >>> Unconstrained().guarantee
    'none'
    """

    guarantee = "none"
    row_by_row = True

    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(violation)

    def penalty_gradient(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(violation)


class QuadraticPenalty(ConstraintStrategy):
    """Soft: ``alpha * relu(g)**2``; violations shrink as alpha grows, never vanish.

    A constant fitted to the one target ``y = -1`` ends at ``-1 / (1 + alpha)``, not
    at 0.

    Notes
    -----
    The term is a mean over rows, so its optimum does not depend on the batch size.
    Summing over a batch of ``b`` rows instead would end at ``y / (1 + alpha * b)``.

    References
    ----------
    .. [1] R. Courant (1943), "Variational methods for the solution of problems of
       equilibrium and vibrations", doi:10.1090/S0002-9904-1943-07818-4.

    Examples
    --------
    >>> import torch
    >>> strategy = QuadraticPenalty()
    >>> strategy.setup(torch.zeros(1, 1), lower_bound=torch.zeros(1), alpha=2.0)
    >>> float(strategy.penalty(torch.tensor([[0.5]]), torch.tensor([0])))
    0.5
    """

    guarantee = "none"
    row_by_row = True

    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return ``alpha * relu(violation)**2``."""
        return self.state_.alpha * torch.relu(violation) ** 2

    def penalty_gradient(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return ``2 * alpha * relu(violation)``."""
        half = self.state_.alpha * torch.relu(violation)
        return half + half


class ExactPenalty(ConstraintStrategy):
    """The l1 penalty ``alpha * relu(g)``: exact once alpha exceeds every multiplier.

    Once alpha is large enough the predictions cross the bound back and forth, before
    they do not. So ``alpha`` doubles after `patience` epochs in all of which the
    largest violation was above `tolerance`, and the smallest of these has not shrunk
    to a quarter, up to ``max(max_alpha, alpha)``. The kink needs a learning rate that
    decays; with a constant one the violation settles near it.

    Parameters
    ----------
    patience : int, default=10
        Epochs between two looks.
    tolerance : float, default=1e-3
        Violation, in standard deviations of y, that counts as none.
    max_alpha : float, default=1000.0
        Largest alpha the schedule may reach.

    References
    ----------
    .. [1] W. I. Zangwill (1967), "Non-linear programming via penalty functions",
       doi:10.1287/mnsc.13.5.344.

    Examples
    --------
    >>> import torch
    >>> strategy = ExactPenalty()
    >>> strategy.setup(torch.zeros(1, 1), lower_bound=torch.zeros(1), alpha=2.0)
    >>> float(strategy.penalty(torch.tensor([[0.5]]), torch.tensor([0])))
    1.0
    """

    guarantee = "training"
    row_by_row = True
    needs_alpha = True
    estimates_multipliers = True

    def __init__(
        self, patience: int = 10, tolerance: float = 1e-3, max_alpha: float = 1000.0
    ):
        self.patience = patience
        self.tolerance = tolerance
        self.max_alpha = max_alpha

    def setup(self, y: Tensor, *, lower_bound: Tensor, alpha: float) -> None:
        """Allocate alpha and what its schedule remembers."""
        infinite = y.new_tensor(float("inf"))
        self.state_ = StrategyState(
            alpha=y.new_tensor(alpha),
            max_alpha=y.new_tensor(max(self.max_alpha, alpha)),
            last_violation=infinite,
            smallest_violation=infinite.clone(),
            n_epochs=torch.tensor(0),
        )

    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return ``alpha * relu(violation)``."""
        return self.state_.alpha * torch.relu(violation)

    def penalty_gradient(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return alpha where the bound is violated."""
        return self.state_.alpha * (violation > 0)

    def on_epoch_end(self, max_violation: float) -> None:
        """Double alpha if the bound was violated in every epoch of the window."""
        state = self.state_
        smallest = min(float(state.smallest_violation), max_violation)
        state.n_epochs.add_(1)
        if int(state.n_epochs) % self.patience == 0:
            raise_alpha_if_stalled(state, smallest, self.tolerance, 2.0)
            smallest = float("inf")
        state.smallest_violation.fill_(smallest)
