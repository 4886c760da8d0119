"""Pipelines and searches, taken apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklpos.estimator.parameters import stand_in


def split_model(model) -> tuple[list, Any]:
    """Split a fitted model as `fitted_regressor` does, with nested pipelines unpacked.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline or search

    Returns
    -------
    steps : list of transformer
        The transformers before the regressor, in order.
    regressor : PositiveOutputRegressor
    """
    steps, regressor = fitted_regressor(model)
    return list(flat(steps)), regressor


def fitted_regressor(model) -> tuple[list, Any]:
    """Split a model into a fitted `PositiveOutputRegressor` and the steps before it.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline or search

    Returns
    -------
    before : list of transformer or "passthrough"
    regressor : PositiveOutputRegressor

    Raises
    ------
    NotFittedError
        If the model is not fitted.
    ValueError
        If the model is something else.
    """
    before, regressor = take_apart(model)
    # It refuses what is no estimator, but does not say what would be right.
    if isinstance(regressor, BaseEstimator):
        check_is_fitted(regressor)
    if transforms_targets(regressor):
        raise ValueError(
            "a TransformedTargetRegressor predicts in another unit than its bounds "
            "are in; pass its regressor_, and read the result in the transformed unit."
        )
    if not hasattr(regressor, "fitted_"):
        raise ValueError(
            f"model={model!r} must be a PositiveOutputRegressor, or a Pipeline or "
            "search that ends in one."
        )
    return before, regressor


def transforms_targets(model: Any) -> bool:
    """Whether a model is a ``TransformedTargetRegressor``.

    Parameters
    ----------
    model : object

    Returns
    -------
    bool
    """
    # It comes with all linear models, which take as long to import as this package.
    from sklearn.compose import TransformedTargetRegressor

    return isinstance(model, TransformedTargetRegressor)


def flat(steps: Iterable) -> Iterable:
    """Yield the steps of nested pipelines, without those that do nothing.

    Parameters
    ----------
    steps : iterable of transformer

    Yields
    ------
    transformer
    """
    for step in steps:
        if isinstance(step, Pipeline):
            yield from flat(inner for _, inner in step.steps)
        # The only string that a fitted pipeline may hold is "passthrough".
        elif step is not None and not isinstance(step, str):
            yield step


def take_apart(model) -> tuple[list, object]:
    """Split a model into the steps before the last one, in order, and the last one.

    Parameters
    ----------
    model : estimator, Pipeline or search
        Of a fitted search, its best estimator counts.

    Returns
    -------
    before : list of transformer or "passthrough"
    last : estimator

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> take_apart(make_pipeline("passthrough", LinearRegression()))
    (['passthrough'], LinearRegression())
    """
    before: list = []
    while True:
        if hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        elif isinstance(model, Pipeline):
            *steps, (_, model) = model.steps
            before += [step for _, step in steps]
        else:
            return before, model


def snapshot(model: Any) -> Any:
    """Copy a fitted model that no other thread can change.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline, TransformedTargetRegressor or search

    Returns
    -------
    object of the same kind
        It shares its steps, and all that is fitted.
    """
    twin = stand_in(model)
    if hasattr(model, "best_estimator_"):
        twin.best_estimator_ = snapshot(model.best_estimator_)
    elif isinstance(model, Pipeline):
        *steps, (name, last) = model.steps
        twin.steps = [*steps, (name, snapshot(last))]
    elif hasattr(model, "regressor_"):
        twin.regressor_ = snapshot(model.regressor_)
    return twin


def knows_steps(certificate) -> bool:
    """Whether a certificate is about the steps before a regressor as well.

    Parameters
    ----------
    certificate : Certificate or None

    Returns
    -------
    bool
    """
    subject = None if certificate is None else certificate.subject_
    return subject is not None and subject.has_steps


def whole_model(certificate, regressor) -> object | None:
    """Find the pipeline or search that a certificate of its regressor looks at.

    Parameters
    ----------
    certificate : Certificate
    regressor : PositiveOutputRegressor

    Returns
    -------
    Pipeline, search or None
        None if it looks at something else.
    """
    subject = certificate.subject_
    owner = None if subject is None else subject.owner
    if owner is regressor or not isinstance(owner, BaseEstimator):
        return None
    return owner if take_apart(owner)[1] is regressor else None


def transform(steps: list, X: ArrayLike):
    """Pass rows through the steps that come before a regressor.

    Parameters
    ----------
    steps : list of transformer or "passthrough"
        Fitted.
    X : array-like or sparse matrix of shape (n_samples, n_features)

    Returns
    -------
    array-like of shape (n_samples, n_features_in)
        The input of the regressor.
    """
    for step in steps:
        if step not in (None, "passthrough"):
            X = step.transform(X)
    return X
