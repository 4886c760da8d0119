"""The rows to train on and those held out, as the net sees them."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from sklpos.estimator.checks import TrainingData
from sklpos.estimator.parameters import net_params_for
from sklpos.nets.units import TargetScale
from sklpos.training.randomness import derive_seed
from sklpos.training.rows import RowDataset, TrainingRows


def split_rows(
    estimator, data: TrainingData, targets: TargetScale, dtype: torch.dtype, seed: int
) -> TrainingRows:
    """Standardise the targets, and hold rows out for early stopping.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    data : TrainingData
    targets : TargetScale
    dtype : torch.dtype
    seed : int
        Decides which rows are held out.

    Returns
    -------
    TrainingRows
    """
    y = targets.standardise(data.y)
    params = net_params_for(estimator, "dataset")
    if not estimator.early_stopping:
        # An index of `...` makes views, where row numbers would copy X.
        return TrainingRows(_rows(data, y, ..., dtype, params), None, data.kept)
    if len(y) < 2:
        raise ValueError("early_stopping=True needs at least 2 samples.")
    train, valid = train_test_split(
        np.arange(len(y)),
        test_size=max(1, int(estimator.validation_fraction * len(y))),
        # numpy's RandomState takes 32 bits.
        random_state=derive_seed(seed, 3) % 2**32,
    )
    train.sort()
    return TrainingRows(
        _rows(data, y, train, dtype, params),
        _rows(data, y, valid, dtype, params),
        data.kept[train],
    )


def _rows(data: TrainingData, y, index, dtype, params) -> RowDataset:
    return RowDataset(
        torch.as_tensor(data.X[index], dtype=dtype),
        torch.as_tensor(y[index], dtype=dtype),
        torch.as_tensor(data.weight[index]),
        **params,
    )
