"""Models as users hold them: a regressor behind other steps, or inside a search."""

from __future__ import annotations

from numpy.typing import ArrayLike
from sklearn.pipeline import Pipeline


def take_apart(model) -> tuple[list, object]:
    """Return the steps before the last one, in order, and the last one.

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


def transform(steps: list, X: ArrayLike):
    """Pass rows through the steps that come before a regressor.

    Parameters
    ----------
    steps : list of transformer or "passthrough"
        Fitted.
    X : array-like of shape (n_samples, n_features)

    Returns
    -------
    array-like of shape (n_samples, n_features_in)
        What the regressor takes.
    """
    for step in steps:
        if step not in (None, "passthrough"):
            X = step.transform(X)
    return X
