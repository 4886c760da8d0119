"""The repair of a head on rows: of any module, and of a trained estimator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sklpos.nets.bounded import BoundedModel
from sklpos.nets.copies import copy_module
from sklpos.nets.head import read_head, write_head
from sklpos.nets.hints import shown
from sklpos.nets.process import leaves_no_trace
from sklpos.nets.rows import RowChunks, feature_source, obeys, rounding_margin
from sklpos.nets.shapes import without_matrix_outputs
from sklpos.nets.units import TargetScale
from sklpos.repair.inputs import RowData, read_rows
from sklpos.repair.loader import first_row, open_rows
from sklpos.repair.nearest import HeadRepair, nearest_feasible_head
from sklpos.repair.objective import HeadObjective
from sklpos.repair.subject import copy_modes, read_module
from sklpos.repair.summary import Repair, summarise, warn_of_limits

# The margin grows fourfold after each attempt: by a factor of 16,000 at the most.
_ATTEMPTS = 8
# Share of a mean square below which a variance is nothing but rounding.
_MIN_VARIANCE_SHARE = 1e-12


@dataclass(frozen=True, eq=False)
class RepairedHead:
    """A module with the nearest head that obeys the bounds on given rows.

    Attributes
    ----------
    module : nn.Module
        A copy; only its last ``nn.Linear`` differs.
    repair : Repair
        What it cost, and where the bounds or the mean could not be kept.
    margin : ndarray of shape (n_outputs,)
        Distance kept from the bounds against rounding. Unit of y.
    """

    module: nn.Module
    repair: Repair
    margin: NDArray


@leaves_no_trace
def repair_head(
    module: nn.Module,
    rows: ArrayLike | Tensor | Iterable,
    *,
    lower_bound: ArrayLike | None = 0.0,
    upper_bound: ArrayLike | None = None,
    y: ArrayLike | Tensor | None = None,
    weight: ArrayLike | Tensor | None = None,
    balance: bool = True,
) -> RepairedHead:
    """Copy a module with the nearest head that obeys bounds on given rows.

    Only the weights and the bias of the last ``nn.Linear`` change: as little as the
    bounds, and with `y` the mean, require. The predictions of the copy obey the bounds
    without a tolerance in the dtype of the module, in batches and row by row.

    Parameters
    ----------
    module : nn.Module
        Ends in a plain ``nn.Linear``, in float32 or float64, with outputs in the unit
        of y. Not changed; it is run in eval mode.
    rows : array-like, sparse matrix or tensor (n_samples, n_features), or iterable
        An iterable, such as a ``DataLoader``, yields tensors X, or tuples that begin
        with X, and the same ones on every pass: it must not shuffle. Its rows need not
        fit into memory. Rows are cast to the dtype of the module.
    lower_bound : float, array-like of shape (n_outputs,) or None, default=0.0
        Unit of y; ``-inf`` or None leaves an output free.
    upper_bound : float, array-like of shape (n_outputs,) or None, default=None
        Unit of y; ``inf`` or None leaves an output free.
    y : array-like or tensor of shape (n_samples,) or (n_samples, n_outputs), optional
        Targets, in the order of the rows. By default what a loader yields after X, if
        that is a floating-point tensor of one of these shapes.
    weight : array-like or tensor of shape (n_samples,), optional
        Non-negative weights of the rows. Rows of weight 0 are left out.
    balance : bool, default=True
        Whether to make the (weighted) mean prediction equal the mean target, if there
        are targets.

    Returns
    -------
    RepairedHead

    Raises
    ------
    ValueError
        For a module that does not end in ``nn.Linear``, and for invalid rows, targets,
        weights or bounds.

    Warns
    -----
    UserWarning
        If no head obeys the bounds for some output, which happens only without a bias,
        or if the mean target cannot be kept.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> X = torch.linspace(-1, 1, 50).reshape(-1, 1)
    >>> net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> repaired = repair_head(net, X, y=X.relu())
    >>> bool((repaired.module(X) >= 0).all()), bool((net(X) >= 0).all())
    (True, False)
    >>> bool(abs(repaired.module(X).mean() - X.relu().mean()) < 1e-6)
    True
    """
    source = open_rows(rows)
    model = read_module(module, first_row(source), lower_bound, upper_bound)
    data = read_rows(source, model, y=y, weight=weight)
    features = feature_source(model.module, model.head, data.rows)
    objective = objective_of_rows(model, features, data)
    found = repair_on_rows(
        replace(model, scale=_scale(model, objective, data)),
        data.rows,
        objective,
        features=features,
        balance=balance,
        weights=data.weight,
    )
    warn_of_limits(found.head, balance=balance and data.y is not None)
    promise = f"the {data.n_samples:,} rows that repair_head was given"
    summary = summarise(found.head, found.margin, data.kept, data.n_samples, promise)
    # The copy was repaired in eval mode; the original may be in the middle of training.
    repaired = without_matrix_outputs(found.module, module)
    copy_modes(module, repaired)
    return RepairedHead(repaired, summary, found.margin)


@dataclass(frozen=True, eq=False)
class RowRepair:
    """What `repair_on_rows` found.

    Attributes
    ----------
    module : nn.Module
        With the new head, in eval mode.
    head : HeadRepair
    margin : ndarray of shape (n_outputs,)
        Unit of y.
    """

    module: nn.Module
    head: HeadRepair
    margin: NDArray


def repair_on_rows(
    model: BoundedModel,
    rows: NDArray | RowChunks,
    objective: HeadObjective | None = None,
    *,
    features: Callable[[], Iterable[NDArray]] | None = None,
    balance: bool = True,
    weights: NDArray | None = None,
    kept: NDArray | None = None,
) -> RowRepair:
    """Copy a module with the nearest head that obeys the bounds on all rows.

    The margin is raised until the predictions of the module, in its own dtype, obey
    the bounds without a tolerance, in large batches and row by row.

    Parameters
    ----------
    model : BoundedModel
        With a known head, and no scalers before the module.
    rows : ndarray of shape (n_samples, n_features) or RowChunks
        Rows to hold the bounds on.
    objective : HeadObjective, optional
        Of the training rows; by default that of these rows, without balance.
    features : callable, optional
        Features of the rows if they are already known, see `feature_source`.
    balance : bool, default=True
        Keep the mean prediction at the mean target.
    weights : ndarray of shape (n_samples,), optional
    kept : ndarray of shape (n_kept, n_hidden), optional
        Features of further rows to hold the bounds on.

    Returns
    -------
    RowRepair

    Raises
    ------
    ValueError
        If the bounds do not survive the rounding of the predictions.
    """
    module = copy_module(model.module, {})
    linear = module.get_submodule(model.head)
    # They enter the head, so they stay valid while its weights change below.
    features = features or feature_source(module, model.head, rows)
    if objective is None:
        has_bias = linear.bias is not None
        objective = HeadObjective.from_rows(features(), has_bias=has_bias)
    start = read_head(linear)
    bounds = model.bounds.in_dtype(linear.weight.dtype)
    # A mean on a bound, as of a constant y, is kept as nearly as the dtype can.
    objective = objective.towards(model.bounds, bounds)
    margin = rounding_margin(
        module, rows, features, start, bounds=bounds, scale=model.scale
    )
    by_chance = None
    for _ in range(_ATTEMPTS):
        found = nearest_feasible_head(
            start,
            objective,
            features,
            lower_bound=bounds.lower,
            upper_bound=bounds.upper,
            margin=margin,
            scale=model.scale,
            balance=balance,
            weights=weights,
            kept=kept,
        )
        write_head(linear, found.coef)
        # An output without a feasible head stays as trained, whatever the margin.
        held = bounds.only(found.feasible)
        # The solver computes in float64; what counts is what the module predicts.
        least = _typical_rounding(objective, found.coef, linear.weight.dtype)
        least = np.where(held.bounded, least, 0.0)
        if obeys(module, rows, held, margin):
            repaired = RowRepair(module, found, margin)
            if (margin >= least).all():
                return repaired
            # The first is the nearest.
            by_chance = by_chance or repaired
        margin = np.maximum(4 * margin, least)
    # Where the head has grown and the margin has not, the rows may obey by chance. That
    # is enough if features are so large that no head has a margin for their rounding.
    if by_chance is not None:
        write_head(linear, by_chance.head.coef)
        return by_chance
    raise ValueError(
        f"{shown(model.bounds, 120)} do not survive the rounding of the predictions; "
        "use a float64 module, or standardise X and y."
    )


def objective_of_rows(
    model: BoundedModel,
    features: Callable[[], Iterable[NDArray]],
    data: RowData | Any,
) -> HeadObjective:
    """Summarise training rows for repairs to come.

    Parameters
    ----------
    model : BoundedModel
    features : callable
        Features of the rows, see `feature_source`.
    data : RowData or TrainingData
        Its `y` and `weight` are read.

    Returns
    -------
    HeadObjective
    """
    has_bias = model.module.get_submodule(model.head).bias is not None
    return HeadObjective.from_rows(features(), data.y, data.weight, has_bias=has_bias)


def _typical_rounding(objective: HeadObjective, coef: NDArray, dtype) -> NDArray:
    """What `rounding_margin` allows for a sum of terms, of root mean square size."""
    size = np.sqrt(np.diag(objective.gram))
    return 8 * torch.finfo(dtype).eps * (np.abs(coef) @ size)


def _scale(model: BoundedModel, objective: HeadObjective, data: RowData) -> NDArray:
    """Deviation of the targets, or of the predictions if there are no targets."""
    if data.y is not None:
        # A head without a bias cannot carry a shift.
        shifted = objective.has_bias
        targets = TargetScale.from_data(
            data.y, data.weight, model.bounds, shifted=shifted
        )
        return targets.scale
    coef = read_head(model.module.get_submodule(model.head))
    square = objective.mean_square(coef)
    variance = square - (coef @ objective.mean_features) ** 2
    # A constant output has no deviation, so its own size is the unit.
    unit = np.where(variance > _MIN_VARIANCE_SHARE * square, variance, square)
    return np.sqrt(np.where(unit > 0, unit, 1.0))
