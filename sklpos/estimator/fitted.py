"""Fitted estimators, pipelines and searches, read as a `BoundedModel`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from sklpos.estimator.pipelines import read_scalers, split_model
from sklpos.nets.bounded import BoundedModel, as_bounded_model


@as_bounded_model.register(BaseEstimator)
def read_model(model: BaseEstimator) -> BoundedModel:
    """Take a fitted model apart.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline or search

    Returns
    -------
    BoundedModel
        Of the present product.

    Raises
    ------
    ValueError
        If it is something else, or a step is not an affine scaler.
    """
    scalers, regressor = split_model(model)
    inputs = read_scalers(scalers, regressor.n_features_in_) if scalers else None
    # The first step knows the names and the number of the columns of X.
    entry = scalers[0] if scalers else regressor
    return replace(
        regressor.fitted_.ending.model,
        inputs=inputs,
        reader=partial(_check_rows, entry),
    )


def _check_rows(entry: BaseEstimator, X: ArrayLike) -> NDArray:
    """Validate rows as the first step of the model does."""
    return validate_data(entry, X, reset=False, dtype=np.float64)
