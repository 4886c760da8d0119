"""What the criterion decides: the unit that targets are trained in, and the mean."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from sklpos.estimator.checks import TrainingData
from sklpos.estimator.parameters import criterion_of
from sklpos.estimator.validation_rows import naming_validation_rows
from sklpos.nets.any_rows import slices_of
from sklpos.nets.bounds import Bounds
from sklpos.nets.modules import uncompiled
from sklpos.nets.units import Unit
from sklpos.nets.warnings import warn_user
from sklpos.strategies.base import ConstraintStrategy
from sklpos.training.criterion import name_of
from sklpos.training.criterion_traits import (
    aims_at_mean,
    all_finite,
    check_call,
    declares_raw_targets,
    takes_standardised,
)

# Losses of a constant prediction, less that of perfect ones.
_DIVERGED = 10.0


def read_criterion(estimator, n_outputs: int) -> nn.Module:
    """Make the criterion of an estimator, and check it.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    n_outputs : int

    Returns
    -------
    nn.Module

    Raises
    ------
    TypeError, ValueError
        If it does not return one loss per row and output.
    """
    criterion = criterion_of(estimator)
    check_call(criterion, n_outputs)
    if estimator.balance is True and not aims_at_mean(criterion):
        warn_user(
            "balance=True moves the mean prediction to the mean of y, at which "
            f"criterion={name_of(criterion)} does not aim; use balance='auto', or let "
            "the criterion declare elicits = 'mean'."
        )
    return criterion


def keeps_mean(estimator, criterion: nn.Module) -> bool:
    """Whether the mean prediction is kept at the mean target.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    criterion : nn.Module

    Returns
    -------
    bool
    """
    automatic = estimator.balance == "auto"
    return aims_at_mean(criterion) if automatic else estimator.balance


def choose_unit(
    estimator,
    criterion: nn.Module,
    y: NDArray,
    bounds: Bounds,
    strategy: ConstraintStrategy,
) -> Unit:
    """Choose the unit in which targets are trained.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    criterion : nn.Module
    y : ndarray of shape (n_samples, n_outputs)
    bounds : Bounds
        Unit of y.
    strategy : ConstraintStrategy

    Returns
    -------
    {"deviation", "mean", None}

    Raises
    ------
    ValueError
        If the criterion does not take the targets, or the predictions that the strategy
        allows.
    """
    declared = declares_raw_targets(criterion)
    if not _needs_raw(criterion, y.shape[1]):
        return "deviation" if estimator.scale_y else None
    name = name_of(criterion)
    if estimator.scale_y is True:
        raise ValueError(
            f"scale_y=True standardises y, but criterion={name} needs targets in their "
            "own unit; use scale_y='auto' or scale_y=False."
        )
    _check_targets(criterion, y, declared)
    if declared:
        return "mean" if estimator.scale_y else None
    _check_reach(criterion, y, bounds, strategy)
    if estimator.scale_y:
        warn_user(
            f"criterion={name} is not finite for standardised targets, so y keeps its "
            "unit, as with scale_y=False, which silences this; the losses of "
            "sklpos.criteria train faster."
        )
    return None


def check_validation_targets(criterion: nn.Module, valid: TrainingData | None) -> None:
    """Raise ValueError if the criterion does not take the targets of validation rows.

    Parameters
    ----------
    criterion : nn.Module
    valid : TrainingData or None
    """
    if valid is not None and _needs_raw(criterion, valid.y.shape[1]):
        with naming_validation_rows():
            _check_targets(criterion, valid.y, declares_raw_targets(criterion))


def _needs_raw(criterion: nn.Module, n_outputs: int) -> bool:
    declared = declares_raw_targets(criterion)
    return declared or not takes_standardised(criterion, n_outputs)


def _check_targets(criterion: nn.Module, y: NDArray, declared: bool) -> None:
    """Raise unless the losses of perfect predictions are finite."""
    name = name_of(criterion)
    if declared and y.min() < 0:
        raise ValueError(
            f"criterion={name} needs targets of at least 0, but the smallest of y is "
            f"{y.min():.3g}."
        )
    # A copy, as y may be read-only, of which torch warns.
    exact = torch.tensor(y)
    if not all_finite(criterion, exact, exact):
        raise ValueError(
            f"criterion={name} is not finite for all targets, which range from "
            f"{y.min():.3g} to {y.max():.3g}; use one that is, or transform y."
        )


def _check_reach(
    criterion: nn.Module, y: NDArray, bounds: Bounds, strategy: ConstraintStrategy
) -> None:
    """Raise if the loss is not finite for predictions that training passes through."""
    reach = 3 * y.std(axis=0) + np.finfo(y.dtype).tiny
    far = y.mean(axis=0) + reach * np.array([[-1.0], [1.0]])
    if strategy.guarantee == "everywhere":
        far = bounds.clip(far)
    middle = np.broadcast_to(y.mean(axis=0), far.shape)
    if not all_finite(criterion, torch.as_tensor(far), torch.as_tensor(middle.copy())):
        raise ValueError(
            f"criterion={name_of(criterion)} is not finite for predictions between "
            f"{far.min():.3g} and {far.max():.3g}, which strategy "
            f"{type(strategy).__name__} passes through while it trains; use "
            "strategy='nonnegative_weights' and a lower_bound, or a loss of "
            "sklpos.criteria."
        )


@torch.no_grad()
def reference_losses(net, data: TrainingData) -> tuple[float, float]:
    """Mean losses of perfect predictions, and of a constant.

    Parameters
    ----------
    net : ConstrainedNet
    data : TrainingData

    Returns
    -------
    perfect, constant : float
        In scaled units. The constant is the mean of y, or 0 for a head without a bias;
        if that is perfect, the second loss is that of predictions that are off by 1.
    """
    criterion = copy.deepcopy(uncompiled(net.criterion_)).cpu().double()
    total = data.weight.sum()

    def loss(predict: Callable[[Tensor], Tensor]) -> float:
        sums = 0.0
        for rows in slices_of(data.y):
            y = torch.as_tensor(net.targets.standardise(data.y[rows]))
            share = torch.as_tensor(data.weight[rows] / total)[:, None]
            sums += float((share * criterion(predict(y), y)).sum())
        return sums / data.y.shape[1]

    start = torch.as_tensor(net.targets.start) if net.has_bias else torch.zeros(1)
    perfect, constant = loss(lambda y: y), loss(lambda y: start.to(y).expand_as(y))
    return perfect, constant if constant > perfect else loss(lambda y: y + 1)


def warn_of_divergence(loss: float, perfect: float, constant: float, lr: float) -> None:
    """Warn if the loss ends far above that of a constant prediction.

    Parameters
    ----------
    loss : float
        Weighted mean, in scaled units.
    perfect, constant : float
        See `reference_losses`.
    lr : float
    """
    if loss - perfect > _DIVERGED * (constant - perfect):
        warn_user(
            f"training diverged, or was too short: the loss of the criterion ends at "
            f"{loss:.3g}, where that of a constant is {constant:.3g}; lower lr "
            f"(now {lr}), raise max_epochs or standardise X.",
            ConvergenceWarning,
        )
