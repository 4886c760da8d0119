"""The rows to train on and those to validate on, as the net sees them."""

from __future__ import annotations

import torch

from sklpos.estimator.checks import TrainingData
from sklpos.estimator.parameters import net_params_for
from sklpos.estimator.population import Population
from sklpos.estimator.validation_rows import naming_validation_rows
from sklpos.nets.any_rows import slices_of, take_rows, tensor_rows
from sklpos.nets.arrays import check_range, weight_tensor
from sklpos.nets.units import TargetScale
from sklpos.training.randomness import derive_seed
from sklpos.training.rows import RowDataset, TrainingRows


def split_rows(
    estimator,
    data: TrainingData,
    targets: TargetScale,
    dtype: torch.dtype,
    seed: int,
    everyone: Population | None = None,
) -> TrainingRows:
    """Standardise the targets, and hold rows out if early stopping has none.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    data : TrainingData
    targets : TargetScale
    dtype : torch.dtype
    seed : int
        Decides which rows are held out.
    everyone : Population, optional
        The rows of all processes, of which the held out ones are drawn; by default,
        those of the data.

    Returns
    -------
    TrainingRows
    """
    params = net_params_for(estimator, "dataset")
    if not _holds_out(estimator, data):
        # An index of `...` makes views, where row numbers would copy X.
        train = _rows(data, targets, ..., dtype, params)
        valid = _own_rows(data.valid, targets, dtype, params)
        return TrainingRows(train, valid, data.kept, own_valid=True)
    everyone = everyone or Population.of(data)
    share = estimator.validation_fraction
    train, valid = everyone.hold_out(share, derive_seed(seed, 3))
    return TrainingRows(
        _rows(data, targets, train, dtype, params),
        _rows(data, targets, valid, dtype, params),
        data.numbers()[train],
    )


def rows_key(estimator, data: TrainingData) -> str:
    """Hash that is equal if the same rows are trained on.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    data : TrainingData

    Returns
    -------
    str
    """
    # `early_stopping` is part of the net, but validation rows may come and go.
    all_rows = estimator.early_stopping and not _holds_out(estimator, data)
    return f"{data.key}-all" if all_rows else data.key


def _holds_out(estimator, data: TrainingData) -> bool:
    return estimator.early_stopping and data.valid is None


def _own_rows(
    valid: TrainingData | None, targets: TargetScale, dtype, params
) -> RowDataset | None:
    """Validation rows of the user's own, if there are any."""
    if valid is None:
        return None
    with naming_validation_rows():
        check_range(valid.X, dtype)
        targets.check_target_magnitude(valid.y, dtype)
    return _rows(valid, targets, ..., dtype, params)


def _rows(data: TrainingData, targets, index, dtype, params) -> RowDataset:
    y, weight = data.y[index], data.weight[index]
    scaled = torch.empty(y.shape, dtype=dtype)
    # In chunks, because they are in float64 before.
    for rows in slices_of(y):
        scaled[rows] = torch.as_tensor(targets.standardise(y[rows]))
    X = tensor_rows(take_rows(data.X, index), dtype)
    return RowDataset(X, scaled, weight_tensor(weight, len(y)), **params)
