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
from sklpos.estimator.new_inputs import check_inputs
from sklpos.estimator.other_rows import warn_of_far_rows, warn_of_other_distribution
from sklpos.estimator.parameters import stand_in
from sklpos.estimator.pipelines import snapshot, split_model, transform
from sklpos.estimator.target_steps import behind_targets
from sklpos.nets.any_rows import Rows, dense_rows
from sklpos.nets.bounded import BoundedModel, as_bounded_model, behind_steps
from sklpos.nets.bounds import Bounds
from sklpos.nets.columns import Columns
from sklpos.nets.items import ItemRows
from sklpos.nets.values import as_plain, explaining
from sklpos.training.rows import spread_out


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
    # Another thread may put a new fit in its place.
    regressor = stand_in(regressor)
    if steps:
        # Imported with the first pipeline, as its transformers take long to import.
        from sklpos.estimator.column_steps import read_steps

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
def _(model: BaseEstimator, X: ArrayLike) -> tuple[BoundedModel, Rows]:
    regressor, rows = rows_behind(model, X, "certify_risk", holdout=True)
    return as_bounded_model(regressor), rows


def rows_behind(
    model: BaseEstimator, X: ArrayLike, call: str, *, holdout: bool = False
) -> tuple[Any, Rows]:
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
        A copy, as it was when the rows were passed.
    rows : ndarray or SparseRows of shape (n_samples, n_features_in)
    """
    before, regressor, _ = behind_targets(snapshot(model))
    rows = check_inputs(regressor, transform(before, X))
    # Of items that are read one by one, some are enough for a look.
    by_item = isinstance(rows, ItemRows)
    some = rows[spread_out(len(rows), 10_000)] if by_item else rows
    far = not before and warn_of_far_rows(regressor, some, call)
    if holdout and not far:
        warn_of_other_distribution(regressor, some)
    return regressor, rows


def _check_rows(entry: BaseEstimator, X: ArrayLike, name: str) -> NDArray:
    """Validate rows as the first step of the model does."""
    # scikit-learn sums X up first: large numbers of both signs are inf - inf.
    with explaining(X, name), np.errstate(invalid="ignore"):
        X = as_plain(dense_rows(X, name), name)
        return validate_data(entry, X, reset=False, dtype=np.float64)
