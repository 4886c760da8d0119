"""Inequality multipliers, one a row and output: plain and augmented Lagrangian."""

from __future__ import annotations

import torch
from torch import Tensor

from sklpos.strategies.base import (
    ConstraintStrategy,
    StrategyState,
    raise_alpha_if_stalled,
)


class Lagrangian(ConstraintStrategy):
    """``lambda * g`` with projected ascent ``lambda <- relu(lambda + dual_lr * g)``.

    Descent on the weights, ascent on the multipliers. ``alpha`` is not used.

    Parameters
    ----------
    dual_lr : float, default=0.2
        Step of the ascent; dimensionless.

    References
    ----------
    .. [1] K. J. Arrow, L. Hurwicz, H. Uzawa (1958), "Studies in linear and non-linear
       programming", Stanford University Press.

    Examples
    --------
    >>> import torch
    >>> strategy = Lagrangian(dual_lr=0.5)
    >>> strategy.setup(torch.zeros(1, 1), lower_bound=torch.zeros(1), alpha=1.0)
    >>> strategy.dual_step(torch.tensor([[2.0]]), torch.tensor([0]))
    >>> float(strategy.state_.multiplier)
    1.0
    """

    guarantee = "training"
    row_by_row = True

    def __init__(self, dual_lr: float = 0.2):
        self.dual_lr = dual_lr

    def setup(self, y: Tensor, *, lower_bound: Tensor, alpha: float) -> None:
        """Allocate the multipliers, at 0."""
        self.state_ = StrategyState(
            alpha=y.new_tensor(alpha), multiplier=torch.zeros_like(y)
        )

    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return ``lambda * violation``."""
        return self.state_.multiplier[index] * violation

    def penalty_gradient(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return the multipliers."""
        return self.state_.multiplier[index]

    def dual_step(self, violation: Tensor, index: Tensor) -> None:
        """Ascend on the rows of the batch; the others keep theirs."""
        self._ascend(violation, index, self.dual_lr)

    def multipliers(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return the stored multipliers."""
        return self.state_.multiplier[index]

    def _ascend(self, violation: Tensor, index: Tensor, step) -> None:
        multiplier = self.state_.multiplier
        multiplier[index] = (step * violation).add_(multiplier[index]).relu_()


class AugmentedLagrangian(Lagrangian):
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
    >>> strategy.setup(torch.zeros(1, 1), lower_bound=torch.zeros(1), alpha=2.0)
    >>> float(strategy.penalty(torch.tensor([[0.5]]), torch.tensor([0])))
    0.5
    """

    needs_alpha = True
    row_by_row = True

    def __init__(
        self,
        dual_lr: float = 0.05,
        tolerance: float = 1e-4,
        max_curvature: float = 1000.0,
        growth: float = 1.06,
    ):
        super().__init__(dual_lr)
        self.tolerance = tolerance
        self.max_curvature = max_curvature
        self.growth = growth

    def setup(self, y: Tensor, *, lower_bound: Tensor, alpha: float) -> None:
        """Allocate the multipliers, at 0, and what the schedule of c remembers."""
        self.state_ = StrategyState(
            alpha=y.new_tensor(alpha),
            multiplier=torch.zeros_like(y),
            max_alpha=y.new_tensor(max(self.max_curvature / 2, alpha)),
            last_violation=y.new_tensor(float("inf")),
        )

    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return ``lambda a + c a**2 / 2`` with ``a = max(g, -lambda / c)``."""
        multiplier, curvature = self.state_.multiplier[index], 2 * self._alpha(index)
        tiny = torch.finfo(violation.dtype).tiny  # c -> 0 gives lambda * g
        reach = torch.maximum(violation, -multiplier / curvature.clamp(min=tiny))
        return multiplier * reach + curvature * reach**2 / 2

    def penalty_gradient(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return ``relu(lambda + c * violation)``."""
        multiplier, alpha = self.state_.multiplier[index], self._alpha(index)
        return torch.addcmul(multiplier, alpha, violation, value=2).relu_()

    def dual_step(self, violation: Tensor, index: Tensor) -> None:
        """Ascend by a fraction of c, on the rows of the batch."""
        self._ascend(violation, index, 2 * self.dual_lr * self._alpha(index))

    def on_epoch_end(self, max_violation: float) -> None:
        """Raise c while the bound is violated and no progress is made."""
        raise_alpha_if_stalled(self.state_, max_violation, self.tolerance, self.growth)

    def _alpha(self, index: Tensor) -> Tensor:
        """Return half of c, of these rows."""
        return self.state_.alpha
