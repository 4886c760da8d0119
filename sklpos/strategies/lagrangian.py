"""Inequality multipliers, one per row and column: plain and augmented Lagrangian."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sklpos.nets.rules import Number
from sklpos.strategies.base import ConstraintStrategy, StrategyState
from sklpos.strategies.schedule import raise_if_stalled


class Lagrangian(ConstraintStrategy):
    """``lambda * g``, with lambda set by a PI controller from the violation g.

    The integral part of the controller [2]_ is the projected ascent
    ``nu <- relu(nu + dual_lr * k * g)``. Descent on the weights and ascent alone circle
    around the solution, so the violation counts directly, too:
    ``lambda = relu(nu + damping * dual_lr * k * g)``. The gain k starts at 1 and grows
    after an epoch whose largest violation is above `tolerance` and has not shrunk to a
    quarter. ``alpha`` is not used.

    Parameters
    ----------
    dual_lr : float, default=0.1
        First step of the ascent; dimensionless.
    damping : float, default=20.0
        Weight of the violation itself, in units of the step. 0 is plain ascent.
    tolerance : float, default=1e-4
        Violation, in standard deviations of y, that counts as none.
    max_gain : float, default=500.0
        Largest k the schedule may reach; 1 keeps the first step.
    growth : float, default=1.06
        Factor on k.

    Notes
    -----
    In a training step the proportional part does what the curvature does in
    `AugmentedLagrangian`; with ``alpha = 1`` the defaults of both make the same step.
    They differ where a term is evaluated more than once per dual step (LBFGS). As
    there, lower `max_gain` or lr with plain gradient descent. ``damping=0, growth=1``
    is plain gradient ascent [1]_.

    References
    ----------
    .. [1] K. J. Arrow, L. Hurwicz, H. Uzawa (1958), "Studies in linear and non-linear
       programming", Stanford University Press.
    .. [2] M. Sohrabi et al. (2024), "On PI controllers for updating Lagrange
       multipliers in constrained optimization", doi:10.48550/arXiv.2406.04558.

    Examples
    --------
    >>> import torch
    >>> strategy = Lagrangian(dual_lr=0.5, damping=3.0)
    >>> strategy.setup(torch.zeros(1, 1), alpha=1.0)
    >>> strategy.dual_step(torch.tensor([[2.0]]), torch.tensor([0]))
    >>> float(strategy.state_.multiplier), float(strategy.state_.proportional)
    (1.0, 3.0)
    """

    guarantee = "training"
    uses_alpha = False
    rules: ClassVar = {
        "dual_lr": Number(),
        "damping": Number(),
        "tolerance": Number(),
        "max_gain": Number(infinite=True),
        "growth": Number(1.0),
    }

    def __init__(
        self,
        dual_lr: float = 0.1,
        damping: float = 20.0,
        tolerance: float = 1e-4,
        max_gain: float = 500.0,
        growth: float = 1.06,
    ):
        self.dual_lr = dual_lr
        self.damping = damping
        self.tolerance = tolerance
        self.max_gain = max_gain
        self.growth = growth

    def setup(self, room: Tensor, *, alpha: float) -> None:
        """Allocate the multipliers, at 0, and what the schedule of k remembers."""
        self.state_ = StrategyState(
            alpha=room.new_tensor(alpha),
            multiplier=torch.zeros_like(room),
            proportional=torch.zeros_like(room),
            gain=room.new_tensor(1.0),
            max_gain=room.new_tensor(max(self.max_gain, 1.0)),
            last_violation=room.new_tensor(float("inf")),
        )

    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """``lambda * violation``."""
        return self.multipliers(violation, index) * violation

    def term_and_slope(self, violation: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """``lambda * violation`` and ``lambda``."""
        multiplier = self.multipliers(violation, index)
        return multiplier * violation, multiplier

    def dual_step(self, violation: Tensor, index: Tensor) -> None:
        """Ascend on the rows of the batch; the others keep theirs."""
        state, step = self.state_, self.dual_lr * self.state_.gain * violation
        multiplier = (step + state.multiplier[index]).relu_()
        state.multiplier[index] = multiplier
        # The proportional part is kept apart: added to the multiplier, it would pile up
        # and hold back rows on their way inside the bound.
        state.proportional[index] = torch.maximum(self.damping * step, -multiplier)

    def multipliers(self, violation: Tensor, index: Tensor) -> Tensor:
        """Sum of both parts, as of the last dual step."""
        return self.state_.multiplier[index] + self.state_.proportional[index]

    def on_epoch_end(self, max_violation: float) -> None:
        """Raise k while the bound is violated and no progress is made."""
        raise_if_stalled(
            self.state_, max_violation, self.tolerance, self.growth, name="gain"
        )


class AugmentedLagrangian(ConstraintStrategy):
    """Powell-Hestenes-Rockafellar: ``(relu(lambda + c g)**2 - lambda**2) / (2 c)``.

    ``c = 2 * alpha``: with all multipliers 0 the term is the quadratic penalty of the
    same alpha. A dual step is ``lambda <- relu(lambda + dual_lr * c * g)``. ``c``
    grows after an epoch whose largest violation is above `tolerance` and has not
    shrunk to a quarter, up to ``max(max_curvature, 2 * alpha)``.

    Parameters
    ----------
    dual_lr : float, default=0.05
        Step of the ascent in units of c. A whole step (1) at every mini-batch does
        not converge.
    tolerance : float, default=1e-4
        Violation, in standard deviations of y, that counts as none.
    max_curvature : float, default=1000.0
        Largest c the schedule may reach. Where few rows hold a model of few weights,
        a mean over all rows needs a large one. Plain gradient descent is stable if
        ``lr * (2 + c)`` times the mean squared length of the head's features is below
        2: with SGD lower this, or lr.
    growth : float, default=1.06
        Factor on c. A fast growth raises multipliers that the weights had no time to
        follow, and these come down as slowly.

    References
    ----------
    .. [1] R. T. Rockafellar (1973), "The multiplier method of Hestenes and Powell
       applied to convex programming", doi:10.1007/BF00934777.

    Examples
    --------
    >>> import torch
    >>> strategy = AugmentedLagrangian()
    >>> strategy.setup(torch.zeros(1, 1), alpha=2.0)
    >>> float(strategy.penalty(torch.tensor([[0.5]]), torch.tensor([0])))
    0.5
    """

    guarantee = "training"
    rules: ClassVar = {
        "dual_lr": Number(),
        "tolerance": Number(),
        "max_curvature": Number(infinite=True),
        "growth": Number(1.0),
    }
    needs_alpha = True

    def __init__(
        self,
        dual_lr: float = 0.05,
        tolerance: float = 1e-4,
        max_curvature: float = 1000.0,
        growth: float = 1.06,
    ):
        self.dual_lr = dual_lr
        self.tolerance = tolerance
        self.max_curvature = max_curvature
        self.growth = growth

    def setup(self, room: Tensor, *, alpha: float) -> None:
        """Allocate the multipliers, at 0, and what the schedule of c remembers."""
        self.state_ = StrategyState(
            alpha=room.new_tensor(alpha),
            multiplier=torch.zeros_like(room),
            max_alpha=room.new_tensor(max(self.max_curvature / 2, alpha)),
            last_violation=room.new_tensor(float("inf")),
        )

    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """``lambda a + c a**2 / 2`` with ``a = max(g, -lambda / c)``."""
        multiplier, curvature = self.state_.multiplier[index], 2 * self.state_.alpha
        # For c -> 0 the term tends to ``lambda * g``; the clamp avoids 0 / 0 there.
        tiny = torch.finfo(curvature.dtype).tiny
        reach = torch.maximum(violation, -multiplier / curvature.clamp(min=tiny))
        return multiplier * reach + curvature * reach**2 / 2

    def term_and_slope(self, violation: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """``(slope**2 - lambda**2) / (2 c)`` with the slope ``relu(lambda + c g)``."""
        multiplier, alpha = self.state_.multiplier[index], self.state_.alpha
        # Fused kernels: in a small net, a call takes longer than its arithmetic.
        slope = torch.addcmul(multiplier, alpha, violation, value=2).relu_()
        gain = torch.addcmul(slope * slope, multiplier, multiplier, value=-1)
        return gain.div_(4 * alpha), slope

    def dual_step(self, violation: Tensor, index: Tensor) -> None:
        """Ascend by a fraction of c, on the rows of the batch."""
        multiplier, step = self.state_.multiplier, 2 * self.dual_lr
        moved = torch.addcmul(
            multiplier[index], self.state_.alpha, violation, value=step
        )
        multiplier[index] = moved.relu_()

    def multipliers(self, violation: Tensor, index: Tensor) -> Tensor:
        """Stored multipliers."""
        return self.state_.multiplier[index]

    def on_epoch_end(self, max_violation: float) -> None:
        """Raise c while the bound is violated and no progress is made."""
        raise_if_stalled(self.state_, max_violation, self.tolerance, self.growth)
