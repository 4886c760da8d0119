"""Fitted estimators, pipelines and searches, read as a `BoundedModel`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from sklpos.certificates.subject import digests_of
from sklpos.estimator.checks import check_inputs
from sklpos.estimator.column_steps import read_steps
from sklpos.estimator.other_rows import warn_of_far_rows, warn_of_other_distribution
from sklpos.estimator.pipelines import fitted_regressor, split_model, transform
from sklpos.nets.arrays import naming, without_torch
from sklpos.nets.bounded import BoundedModel, as_bounded_model, behind_steps
from sklpos.nets.bounds import Bounds
from sklpos.nets.columns import Columns


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
        If it is something else, or a step is not affine.
    """
    steps, regressor = split_model(model)
    if steps:
        inputs, columns = read_steps(steps)
    else:
        inputs, columns = None, _own_columns(regressor)
    # The first step knows the names and the number of the columns of X.
    entry = steps[0] if steps else regressor
    reader = partial(_check_rows, entry) if columns.are_features else columns.encode
    return replace(
        regressor.fitted_.ending.model, inputs=inputs, columns=columns, reader=reader
    )


@digests_of.register(BaseEstimator)
def _(model: BaseEstimator) -> dict[str, str]:
    bounded = read_model(model)
    regressor = split_model(model)[1]
    asked = regressor.lower_bound, regressor.upper_bound
    # Not those of the fit: a promise ends when other bounds are asked for.
    bounds = Bounds.read(*asked, len(bounded.bounds))
    return digests_of(replace(bounded, bounds=bounds))


def _own_columns(regressor) -> Columns:
    names = getattr(regressor, "feature_names_in_", None)
    own = range(regressor.n_features_in_) if names is None else names.tolist()
    return Columns.numbers(own, named=names is not None)


@behind_steps.register(BaseEstimator)
def _(model: BaseEstimator, X: ArrayLike) -> tuple[BoundedModel, NDArray]:
    regressor, rows = rows_behind(model, X, "certify_risk", holdout=True)
    return as_bounded_model(regressor), rows


def rows_behind(
    model: BaseEstimator, X: ArrayLike, call: str, *, holdout: bool = False
) -> tuple[Any, NDArray]:
    """Pass rows through the steps of a model, and validate what comes out.

    Rows that are given to a regressor directly draw a warning if they look like those
    before a scaler.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline or search
        Fitted; the steps may be any transformers.
    X : array-like of shape (n_samples, n_features)
    call : str
        The function that takes a whole pipeline, for the warning.
    holdout : bool, default=False
        Whether to warn as well if the rows are distributed differently.

    Returns
    -------
    regressor : PositiveOutputRegressor
    rows : ndarray of shape (n_samples, n_features_in)
    """
    before, regressor = fitted_regressor(model)
    rows = check_inputs(regressor, transform(before, X))
    far = not before and warn_of_far_rows(regressor, rows, call)
    if holdout and not far:
        warn_of_other_distribution(regressor, rows)
    return regressor, rows


def _check_rows(entry: BaseEstimator, X: ArrayLike, name: str) -> NDArray:
    """Validate rows as the first step of the model does."""
    with naming(name):
        return validate_data(entry, without_torch(X), reset=False, dtype=np.float64)
