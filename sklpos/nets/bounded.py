"""A module with its bounds: what repair, certificates and export know of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sklpos.nets.rows import predict_rows
from sklpos.nets.units import InputScale


@dataclass(frozen=True, eq=False)
class BoundedModel:
    """A module in the unit of y, the bounds of its outputs and what comes before it.

    Attributes
    ----------
    module : nn.Module
        In eval mode.
    head : str or None
        Dotted name of its last ``nn.Linear``; None if that is not the output, or is
        not known.
    lower_bound : ndarray of shape (n_outputs,) or ()
        Unit of y; ``-inf`` leaves an output free.
    scale : ndarray of shape (n_outputs,) or ()
        Standard deviation of y, or 1 where it is not known. Unit of y.
    inputs : InputScale or None
        The affine scalers before the module.
    input_range : ndarray of shape (2, n_features) or None
        Smallest and largest value of each training feature, as the module takes them.
    entry : estimator or None
        What takes the data first and knows their features; None is the module.

    Examples
    --------
    >>> as_bounded_model(nn.Linear(2, 1)).lower_bound.item()
    0.0
    """

    module: nn.Module
    head: str | None = None
    lower_bound: NDArray = field(default_factory=lambda: np.array(0.0))
    scale: NDArray = field(default_factory=lambda: np.array(1.0))
    inputs: InputScale | None = None
    input_range: NDArray | None = None
    entry: Any = None

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
        X = X if self.inputs is None else self.inputs.transform(X)
        return predict_rows(self.module, X).astype(np.float64)


@singledispatch
def as_bounded_model(model) -> BoundedModel:
    """Read a model; each kind of model registers its own reader.

    Parameters
    ----------
    model : nn.Module, PositiveOutputRegressor, Pipeline or search
        Fitted. A bare module is in the unit of y, has the lower bound 0, and nothing
        comes before it.

    Returns
    -------
    BoundedModel

    Raises
    ------
    ValueError
        For anything else.
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
