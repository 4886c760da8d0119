"""How a fit begins: from what the user passes to checked rows and parameters."""

from __future__ import annotations

from typing import Any, TypeVar

from sklpos.estimator.checks import TrainingData, check_training_data
from sklpos.estimator.datasets import Rows, Targets, unpacked, with_loader
from sklpos.estimator.fit import Fit
from sklpos.estimator.parameters import check_params, resolve
from sklpos.estimator.validation_rows import with_validation_rows

Estimator = TypeVar("Estimator", bound=Any)


def begin_fit(
    estimator: Estimator,
    X: Rows,
    y: Targets = None,
    sample_weight: Targets = None,
    *,
    X_val: Rows | None = None,
    y_val: Targets = None,
    sample_weight_val: Targets = None,
) -> tuple[Estimator, TrainingData, Fit | None]:
    """Check what a `fit` is given; the estimator is not changed.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    X, y, sample_weight, X_val, y_val, sample_weight_val
        As `fit` is given them.

    Returns
    -------
    own : PositiveOutputRegressor
        A copy, with what ``"auto"`` means.
    data : TrainingData
    earlier : Fit or None
        The fit that this one continues.
    """
    # A copy, as another thread may set parameters meanwhile.
    asked = with_loader(estimator, X)
    check_params(asked)
    earlier = getattr(asked, "fitted_", None) if asked.warm_start else None
    rows = unpacked(asked, X, y, sample_weight)
    data = check_training_data(asked, *rows, reset=earlier is None)
    data = with_validation_rows(asked, data, X_val, y_val, sample_weight_val)
    return resolve(asked, len(data.X)), data, earlier
