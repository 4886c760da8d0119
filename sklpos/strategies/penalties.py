"""Strategies without multipliers: nothing, a quadratic and an absolute penalty."""

from __future__ import annotations

from math import inf
from typing import ClassVar

import torch
from torch import Tensor

from sklpos.nets.rules import Count, Number
from sklpos.strategies.base import ConstraintStrategy, StrategyState
from sklpos.strategies.schedule import raise_if_stalled


class Unconstrained(ConstraintStrategy):
    """No constraint at all, as a baseline for comparisons.

    Examples
    --------
    >>> Unconstrained().guarantee
    'none'
    """

    guarantee = "none"
    uses_alpha = False
    needs_dual_step = False

    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros_like(violation)


class QuadraticPenalty(ConstraintStrategy):
    """Soft penalty ``alpha * relu(g)**2``.

    Violations shrink as alpha grows but never vanish.

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
    >>> strategy.setup(torch.zeros(1, 1), alpha=2.0)
    >>> float(strategy.penalty(torch.tensor([[0.5]]), torch.tensor([0])))
    0.5
    """

    guarantee = "none"
    needs_dual_step = False

    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """``alpha * relu(violation)**2``."""
        return self.state_.alpha * torch.relu(violation) ** 2

    def term_and_slope(self, violation: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha * relu(violation)**2`` and ``2 * alpha * relu(violation)``."""
        missing = torch.relu(violation)
        half = self.state_.alpha * missing
        return half * missing, half + half


class ExactPenalty(ConstraintStrategy):
    """The l1 penalty ``alpha * relu(g)``: exact once alpha exceeds every multiplier.

    At the kink its slope is any number between 0 and alpha, and descent never settles
    there. So the kink is rounded: the slope is ``alpha * clip(u + g / width, 0, 1)``.
    Each row has a share u, and ``u <- clip(u + dual_lr * g / width, 0, 1)`` takes it to
    the one that holds the row on the bound: Bertsekas's multiplier method for a kink.
    The limit is the minimum of the sharp penalty for any width. u starts at 1: all the
    rounding is inside the bound, and noise in the violation does not lead across it.

    A row of share 1 that is still violated needs a larger alpha. So ``alpha`` doubles
    after `patience` epochs in all of which the largest violation of these rows was
    above `tolerance`, and the smallest of these has not shrunk to a quarter, up to
    ``max(max_alpha, alpha)``.

    Parameters
    ----------
    patience : int, default=10
        Epochs between two checks.
    tolerance : float, default=1e-3
        Violation, in standard deviations of y, that counts as none.
    max_alpha : float, default=1000.0
        Largest alpha the schedule may reach.
    width : float, default=0.1
        Width of the rounded kink, in standard deviations of y.
    dual_lr : float, default=0.1
        Step of the share of a violated row, in units of ``1 / width``.
    release : float, default=0.3
        The same for a row inside the bound, as a share of `dual_lr`. With a value
        below 1, rows that cross the bound by mini-batch noise end up inside it.

    References
    ----------
    .. [1] W. I. Zangwill (1967), "Non-linear programming via penalty functions",
       doi:10.1287/mnsc.13.5.344.
    .. [2] D. P. Bertsekas (1975), "Nondifferentiable optimization via approximation",
       doi:10.1007/BFb0120696.

    Examples
    --------
    >>> import torch
    >>> strategy = ExactPenalty(width=0.2)
    >>> strategy.setup(torch.zeros(1, 1), alpha=2.0)
    >>> violation = torch.tensor([[-0.2], [-0.1], [0.0], [0.5]])
    >>> index = torch.zeros(4, dtype=int)
    >>> strategy.term_and_slope(violation, index)[1].ravel().tolist()
    [0.0, 1.0, 2.0, 2.0]
    """

    guarantee = "training"
    rules: ClassVar = {
        "patience": Count(),
        "tolerance": Number(),
        "max_alpha": Number(infinite=True),
        "width": Number(above=True),
        "dual_lr": Number(),
        "release": Number(most=1.0),
    }
    needs_alpha = True
    estimates_multipliers = True

    def __init__(
        self,
        patience: int = 10,
        tolerance: float = 1e-3,
        max_alpha: float = 1000.0,
        width: float = 0.1,
        dual_lr: float = 0.1,
        release: float = 0.3,
    ):
        self.patience = patience
        self.tolerance = tolerance
        self.max_alpha = max_alpha
        self.width = width
        self.dual_lr = dual_lr
        self.release = release

    def setup(self, room: Tensor, *, alpha: float) -> None:
        """Allocate alpha, what its schedule remembers, and the shares."""
        infinite = room.new_tensor(float("inf"))
        self.state_ = StrategyState(
            alpha=room.new_tensor(alpha),
            max_alpha=room.new_tensor(max(self.max_alpha, alpha)),
            last_violation=infinite,
            smallest_violation=infinite.clone(),
            held_back=torch.zeros_like(infinite),
            n_epochs=torch.tensor(0),
            share=torch.ones_like(room),
        )

    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """Integral of the slope; 0 where that is 0."""
        return self.term_and_slope(violation, index)[0]

    def term_and_slope(self, violation: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Integral of the slope, and ``alpha * clip(u + violation / width, 0, 1)``."""
        reach = self.state_.share[index] + violation / self.width
        share = reach.clamp(0, 1)
        slope = self.state_.alpha * share
        return self.width * slope * (reach - share / 2), slope

    def dual_step(self, violation: Tensor, index: Tensor) -> None:
        """Move the shares of the rows of the batch that are violated or in the band."""
        # An empty batch, as an idle process has it, has no maximum.
        if violation.numel() == 0:
            return
        state, share = self.state_, self.state_.share[index]
        # A row of share 1 is already pushed by all of alpha. Only such a row, if it is
        # still violated, shows that alpha is too small.
        beyond = torch.where(share == 1, violation, 0.0).amax()
        state.held_back.copy_(torch.maximum(state.held_back, beyond))
        step = torch.where(violation > 0, 1.0, self.release) * violation / self.width
        moved = (share + self.dual_lr * step).clamp(0, 1)
        # The share of a row far inside has no effect; keep it ready for a violation.
        near = violation > -self.width
        state.share[index] = torch.where(near, moved, share)

    def on_epoch_end(self, max_violation: float) -> None:
        """Double alpha if it was too small in every epoch of the window."""
        state = self.state_
        smallest = torch.minimum(state.smallest_violation, state.held_back)
        state.held_back.zero_()
        state.n_epochs.add_(1)
        # Alpha never comes down again, so one noisy epoch must not double it: the
        # smallest violation of a window decides.
        due = state.n_epochs % self.patience == 0
        raise_if_stalled(state, smallest, self.tolerance, 2.0, due=due)
        state.smallest_violation.copy_(torch.where(due, inf, smallest))
