"""A module with its bounds: what repair, certificates and export know of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import singledispatch

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from sklpos.nets.any_rows import Rows
from sklpos.nets.bounds import Bounds
from sklpos.nets.columns import Columns
from sklpos.nets.input_map import InputMap
from sklpos.nets.rows import predict_rows
from sklpos.nets.values import finite_rows


# No __eq__: arrays compare element by element, so the generated one would raise.
@dataclass(frozen=True, eq=False)
class BoundedModel:
    """A module in the unit of y, the bounds of its outputs and what comes before it.

    Attributes
    ----------
    module : nn.Module
        In eval mode.
    head : str or None
        Dotted name of its last ``nn.Linear``; None if that layer is not the output,
        or is not known.
    bounds : Bounds
        Unit of y.
    scale : ndarray of shape (n_outputs,) or ()
        Standard deviation of y, or 1 where it is not known. Unit of y.
    inputs : InputMap or None
        The affine steps before the module.
    input_range : ndarray of shape (2, n_features) or None
        Smallest and largest value of each training feature, as the module takes them.
    extreme_rows : ndarray of shape (n_rows, n_features) or None
        Training rows with the smallest and largest predictions, as the module takes
        them.
    columns : Columns or None
        Those of the data, and the features that stand for them before `inputs`; None
        if they are not known.
    reader : callable or None
        Validates rows as the model's own ``predict`` does; None for a bare module.

    Examples
    --------
    >>> as_bounded_model(nn.Linear(2, 1)).bounds
    Bounds(lower=0.0, upper=inf)
    """

    module: nn.Module
    head: str | None = None
    bounds: Bounds = field(default_factory=Bounds)
    scale: NDArray = field(default_factory=lambda: np.array(1.0))
    inputs: InputMap | None = None
    input_range: NDArray | None = None
    extreme_rows: NDArray | None = None
    columns: Columns | None = None
    reader: Callable[[ArrayLike, str], NDArray] | None = None

    def check_rows(self, X: ArrayLike, name: str = "X") -> NDArray:
        """Validate rows as the model's own ``predict`` does.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        name : str, default="X"
            Name of the parameter in error messages.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            float64.
        """
        return finite_rows(X, name) if self.reader is None else self.reader(X, name)

    def predict(self, X: NDArray) -> NDArray:
        """Predict in the dtype of the module, behind the scalers.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            In the unit of the data before the scalers.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
            float64, unit of y.
        """
        # Through the steps themselves: folded into the net they round differently.
        return predict_rows(self.module, self.transform(X)).astype(np.float64)

    def behind(self, other: BoundedModel | None) -> BoundedModel:
        """Put the module behind the steps of another model.

        Parameters
        ----------
        other : BoundedModel or None
            None for no steps.

        Returns
        -------
        BoundedModel
        """
        if other is None:
            return replace(self, inputs=None, columns=None)
        return replace(self, inputs=other.inputs, columns=other.columns)

    def transform(self, X: NDArray) -> NDArray:
        """Pass rows through the steps before the module.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            In the unit of the data before the steps.

        Returns
        -------
        ndarray of shape (n_samples, n_features_in)
            As the module takes them.
        """
        if self.inputs is None:
            return X
        own = self.columns is None or self.columns.are_features
        return self.inputs.transform(X if own else self.columns.decode(X))


# Rooms above this one register their models here, so that the core needs neither
# skorch nor scikit-learn's estimators.
@singledispatch
def as_bounded_model(model) -> BoundedModel:
    """Read a model together with its bounds; each kind of model registers a reader.

    Parameters
    ----------
    model : nn.Module, PositiveOutputRegressor, Pipeline or search
        Fitted. A bare module predicts in the unit of y, with the lower bound 0 and no
        upper one, and no scalers come before it.

    Returns
    -------
    BoundedModel

    Raises
    ------
    ValueError
        If no reader is registered for the model.
    """
    raise ValueError(
        f"model={model!r} must be an nn.Module, a PositiveOutputRegressor, or a "
        "Pipeline or search that ends in one."
    )


@as_bounded_model.register
def _(model: nn.Module) -> BoundedModel:
    return BoundedModel(model)


@as_bounded_model.register
def _(model: BoundedModel) -> BoundedModel:
    return model


@singledispatch
def behind_steps(model, X: ArrayLike) -> tuple[BoundedModel, NDArray]:
    """Pass a holdout through the steps of a model, of whatever kind they are.

    Models that know their training rows warn if those of the holdout are different.

    Parameters
    ----------
    model : nn.Module, PositiveOutputRegressor, Pipeline or search
    X : array-like of shape (n_samples, n_features)
        As the model takes them.

    Returns
    -------
    last : BoundedModel
        The last step alone.
    rows : ndarray of shape (n_samples, n_features_in)
        As that step takes them.
    """
    last = as_bounded_model(model)
    return last, last.check_rows(X)


def data_range(X: Rows, known: NDArray | None = None) -> NDArray:
    """Smallest and largest value of each feature, over earlier rows as well.

    Parameters
    ----------
    X : ndarray or SparseRows of shape (n_samples, n_features)
    known : ndarray of shape (2, n_features), optional
        The range of earlier rows.

    Returns
    -------
    ndarray of shape (2, n_features)
    """
    found = np.stack([X.min(axis=0), X.max(axis=0)]).astype(np.float64)
    # Sequences may come in several lengths; the range is that of the last ones.
    if known is None or known.shape != found.shape:
        return found
    low, high = known
    return np.stack([np.minimum(found[0], low), np.maximum(found[1], high)])


def rows_of_extremes(predictions: NDArray, X: Rows) -> NDArray:
    """Rows with the smallest and the largest prediction of each output.

    Parameters
    ----------
    predictions : ndarray of shape (n_samples, n_outputs)
    X : ndarray or SparseRows of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_rows, n_features)
        float64.
    """
    numbers = np.unique([predictions.argmin(axis=0), predictions.argmax(axis=0)])
    return X[numbers].astype(np.float64)
