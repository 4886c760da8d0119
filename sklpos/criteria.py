"""Losses for counts, amounts and quantiles, beside those of ``torch.nn``.

For any training loop, and as ``criterion`` of the estimator. Two class attributes say
what a criterion is for; one of your own may declare them as well:

- ``elicits``: what its minimiser is, such as ``"mean"`` or ``"quantile"``;
- ``targets``: ``"any"`` if targets may be standardised, ``"raw"`` if they have to keep
  their zero and may only be divided. In another unit, such a loss is multiplied by a
  constant: that of ``c * y`` and ``c * mu`` by ``c ** (2 - power)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor, nn

from sklpos.docstrings import complete_docstrings

_REDUCTIONS = {"none": lambda loss: loss, "mean": Tensor.mean, "sum": Tensor.sum}
# Measured on counts with a mean of 1: a gradient of 1e3 or more, of a single row, keeps
# Adam's steps small for a long time. An `MLP` ended with a test deviance of .50 to .11
# with this floor, and of .62 to .47 with 1e-6.
_FLOOR = 1e-2


class Criterion(nn.Module):
    """Base class: one loss per prediction, then the reduction.

    Parameters
    ----------
    reduction : {"none", "mean", "sum"}, default="none"
        As in ``torch.nn``, where the default is ``"mean"``. The estimator needs
        ``"none"``.
    """

    elicits: ClassVar[str] = "mean"
    targets: ClassVar[str] = "any"

    def __init__(self, reduction: str = "none"):
        super().__init__()
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"reduction={reduction!r} must be one of {', '.join(_REDUCTIONS)}."
            )
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Loss of predictions.

        Parameters
        ----------
        input : torch.Tensor
            Predictions.
        target : torch.Tensor
            Of the same shape.

        Returns
        -------
        torch.Tensor
            Of that shape, or a scalar for ``"mean"`` and ``"sum"``.

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        self._check_shapes(input, target)
        return _REDUCTIONS[self.reduction](self.loss(input, target))

    def loss(self, input: Tensor, target: Tensor) -> Tensor:
        """Loss of each prediction, not reduced.

        Parameters
        ----------
        input, target : torch.Tensor

        Returns
        -------
        torch.Tensor
        """
        raise NotImplementedError

    def _check_shapes(self, input: Tensor, target: Tensor) -> None:
        # Shapes that broadcast, such as (n, 1) and (n,), would compare all pairs.
        if input.shape != target.shape:
            raise ValueError(
                f"input has shape {tuple(input.shape)}, but target has shape "
                f"{tuple(target.shape)}; they must be equal."
            )


@complete_docstrings
class TweedieDeviance(Criterion):
    """Deviance of a Tweedie distribution, as scikit-learn's `mean_tweedie_deviance`.

    The variance of a target is taken to grow as ``mean ** power``. Predictions are
    means, with the identity as link: they are not exponentiated.

    Parameters
    ----------
    power : float, default=1.5
        At least 1. 1 is the Poisson deviance and 2 the gamma deviance. Between them,
        targets are amounts that may be exactly 0, such as rain or claims; from 2 on,
        they are positive.
    reduction : {"none", "mean", "sum"}, default="none"
    eps : float, default=1e-2
        Smallest prediction for which the loss is the deviance; it is meant for targets
        with a mean of about 1. Below it, the loss goes on as a straight line that
        falls towards ``eps``, so that its gradient is bounded and leads predictions of
        0 or less back. Much smaller values make training slow.

    Examples
    --------
    >>> y, mu = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0])
    >>> TweedieDeviance(1.0)(mu, y)
    tensor([2.0000, 0.7726])
    """

    targets = "raw"

    def __init__(
        self, power: float = 1.5, reduction: str = "none", eps: float = _FLOOR
    ):
        super().__init__(reduction)
        if not (isinstance(power, Real) and 1 <= power < math.inf):
            raise ValueError(f"power={power!r} must be a number of at least 1.")
        if not (isinstance(eps, Real) and 0 < eps < math.inf):
            raise ValueError(f"eps={eps!r} must be a positive number.")
        self.power = power
        self.eps = eps

    def loss(self, input: Tensor, target: Tensor) -> Tensor:
        """Deviance of each prediction, with a straight line below the floor."""
        mu = input.clamp(min=self.eps)
        slope = 2 * (mu - target) / mu**self.power
        return self._deviance(mu, target) + slope.abs() * (mu - input)

    def _deviance(self, mu: Tensor, y: Tensor) -> Tensor:
        p = self.power
        if p == 1:
            # y * log(y / mu) is 0 for y = 0, without a logarithm of 0.
            return 2 * (mu - y - y * torch.log(mu / torch.where(y > 0, y, 1.0)))
        if p == 2:
            return 2 * (torch.log(mu / y) + y / mu - 1)
        return 2 * (
            y ** (2 - p) / ((1 - p) * (2 - p))
            - y * mu ** (1 - p) / (1 - p)
            + mu ** (2 - p) / (2 - p)
        )

    def extra_repr(self) -> str:
        """Parameters."""
        return f"power={self.power}, reduction={self.reduction!r}, eps={self.eps}"


class PoissonDeviance(TweedieDeviance):
    """Deviance of counts, as scikit-learn's `mean_poisson_deviance`.

    ``2 * (mu - y + y * log(y / mu))`` for targets of at least 0. An error counts less
    where the prediction is large. Predictions are means, with the identity as link;
    ``torch.nn.PoissonNLLLoss`` expects logarithms.

    Parameters
    ----------
    reduction : {"none", "mean", "sum"}, default="none"
    eps : float, default=1e-2
        As in `TweedieDeviance`.

    Examples
    --------
    >>> PoissonDeviance()(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 3.0]))
    tensor([2., 0.])
    """

    def __init__(self, reduction: str = "none", eps: float = _FLOOR):
        super().__init__(1, reduction, eps)


class GammaDeviance(TweedieDeviance):
    """Deviance of positive amounts, as scikit-learn's `mean_gamma_deviance`.

    ``2 * (log(mu / y) + y / mu - 1)`` for positive targets: relative errors count,
    whatever the size of the target.

    Parameters
    ----------
    reduction : {"none", "mean", "sum"}, default="none"
    eps : float, default=1e-2
        As in `TweedieDeviance`.

    Examples
    --------
    >>> GammaDeviance()(torch.tensor([1.0, 100.0]), torch.tensor([2.0, 200.0]))
    tensor([0.6137, 0.6137])
    """

    def __init__(self, reduction: str = "none", eps: float = _FLOOR):
        super().__init__(2, reduction, eps)


@complete_docstrings
class PinballLoss(Criterion):
    """Loss whose minimiser is a quantile, as scikit-learn's `mean_pinball_loss`.

    ``quantile * (y - f)`` where a target is above its prediction, and
    ``(1 - quantile) * (f - y)`` where it is below.

    Parameters
    ----------
    quantile : float or sequence of float, default=0.5
        Between 0 and 1; one number for all outputs, or one per output. With several
        and a single column of targets, the estimator predicts all these quantiles of
        it, see :doc:`/how-to/quantiles-and-counts`.
    reduction : {"none", "mean", "sum"}, default="none"

    Examples
    --------
    >>> PinballLoss(0.9)(torch.tensor([0.0, 0.0]), torch.tensor([1.0, -1.0]))
    tensor([0.9000, 0.1000])
    >>> PinballLoss([0.1, 0.9])(torch.zeros(1, 2), torch.ones(1, 2))
    tensor([[0.1000, 0.9000]])
    """

    elicits = "quantile"

    def __init__(
        self, quantile: float | Sequence[float] = 0.5, reduction: str = "none"
    ):
        super().__init__(reduction)
        self.quantile = quantile
        _check_levels(quantile)

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantiles, one or several."""
        return tuple(_as_levels(self.quantile).ravel().tolist())

    def _check_shapes(self, input: Tensor, target: Tensor) -> None:
        super()._check_shapes(input, target)
        n_levels = len(self.levels)
        if n_levels > 1 and input.shape[-1:] != (n_levels,):
            raise ValueError(
                f"{n_levels} quantiles need {n_levels} outputs, but input has shape "
                f"{tuple(input.shape)}."
            )

    def loss(self, input: Tensor, target: Tensor) -> Tensor:
        """Pinball loss of each prediction."""
        level, error = _as_levels(self.quantile).to(input), target - input
        return torch.maximum(level * error, (level - 1) * error)

    def extra_repr(self) -> str:
        """Parameters, for ``repr``."""
        return f"quantile={self.quantile!r}, reduction={self.reduction!r}"


def _as_levels(quantile: float | Sequence[float]) -> Tensor:
    return torch.as_tensor(quantile, dtype=torch.float64)


def _check_levels(quantile: float | Sequence[float]) -> None:
    try:
        levels = _as_levels(quantile)
    except (TypeError, ValueError, RuntimeError):
        levels = torch.empty(0)
    is_inside = ((levels > 0) & (levels < 1)).all()
    if not (levels.numel() and levels.dim() < 2 and is_inside):
        raise ValueError(
            f"quantile={quantile!r} must be a number between 0 and 1, or a sequence of "
            "such numbers."
        )


@complete_docstrings
class LogCoshLoss(Criterion):
    """``log(cosh(error))``: half the square of small errors, the size of large ones.

    Parameters
    ----------
    reduction : {"none", "mean", "sum"}, default="none"

    Examples
    --------
    >>> LogCoshLoss()(torch.tensor([0.0, 1e3]), torch.zeros(2))
    tensor([  0.0000, 999.3068])
    """

    elicits = "centre"

    def loss(self, input: Tensor, target: Tensor) -> Tensor:
        """Loss of each prediction, without an overflow."""
        size = (input - target).abs()
        return size + nn.functional.softplus(-2 * size) - math.log(2)
