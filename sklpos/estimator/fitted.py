"""A fitted regressor, alone or behind scalers, and domains in the unit of its data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_array, validate_data

from sklpos.certificates.bounds.network import Network, fold_inputs, read_network
from sklpos.certificates.certify import predict_exactly
from sklpos.certificates.domains.shapes import All, Ball, Box, Domain, Hull
from sklpos.estimator.pipelines import read_scalers, split_model
from sklpos.nets.units import InputScale

_NAMES = ("box", "hull", "ball", "all")


@dataclass(frozen=True, eq=False)
class FittedModel:
    """What a certificate needs of a model.

    Attributes
    ----------
    regressor : PositiveOutputRegressor
    scale : InputScale
        What comes before it.
    entry : estimator
        What takes the data first, and knows their features.
    """

    regressor: object
    scale: InputScale
    entry: object

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.regressor.n_features_in_

    def network(self) -> Network:
        """Return the net, with the scalers in its first layer."""
        return fold_inputs(read_network(self.regressor.module_), self.scale)

    def predict(self, X: NDArray) -> NDArray:
        """Return the model's predictions, as float64.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
        """
        return predict_exactly(self.regressor.module_, self.scale.transform(X))

    def rows(self, X: ArrayLike) -> NDArray:
        """Validate rows as the model's `predict` does.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            float64.
        """
        return validate_data(self.entry, X, reset=False, dtype=np.float64)


def read_model(model) -> FittedModel:
    """Take a fitted model apart.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline or search

    Returns
    -------
    FittedModel

    Raises
    ------
    ValueError
        If it is something else, or a step is not an affine scaler.
    """
    scalers, regressor = split_model(model)
    scale = read_scalers(scalers, regressor.n_features_in_)
    return FittedModel(regressor, scale, scalers[0] if scalers else regressor)


def make_domain(
    model: FittedModel, domain, X=None, radius=None, categorical=None, margin=None
) -> Domain:
    """Return the domain that the arguments of `certify` mean.

    Parameters
    ----------
    model : FittedModel
    domain, X, radius, categorical, margin
        As in `PositiveOutputRegressor.certify`.

    Returns
    -------
    Domain
    """
    if isinstance(domain, Domain):
        return domain
    if not isinstance(domain, str):
        return Box(*_low_and_high(domain), categorical=categorical or ())
    if domain not in _NAMES:
        raise ValueError(
            f"domain={domain!r} is unknown; choose one of {_NAMES} or pass (low, high)."
        )
    if domain in ("hull", "ball") and X is None:
        raise ValueError(f"domain={domain!r} needs X, the rows to put it around.")
    if domain == "ball" and radius is None:
        raise ValueError("domain='ball' needs radius, in the unit of X.")
    if domain == "hull":
        return Hull(_widened(np.unique(model.rows(X), axis=0), margin))
    if domain == "ball":
        return Ball(model.rows(X), radius)
    if domain == "all":
        return All(model.n_features)
    low, high = model.scale.range_before(*model.regressor._range)
    return Box(*_widened(np.stack([low, high]), margin), categorical=categorical or ())


def _widened(points: NDArray, margin: float | None) -> NDArray:
    """Move points away from their mean, by a share of the width on both sides."""
    if not margin:
        return points
    centre = points.mean(axis=0)
    return centre + (1 + 2 * margin) * (points - centre)


def _low_and_high(domain) -> tuple:
    try:
        low, high = domain
    except (TypeError, ValueError):
        raise ValueError(
            f"domain={domain!r} must be one of {_NAMES} or a pair (low, high)."
        ) from None
    if isinstance(domain, list) and isinstance(low, tuple):
        raise ValueError(
            f"domain={domain!r} looks like a pair (low, high) for each feature; pass "
            "one pair of arrays, the lows of all features and their highs."
        )
    return tuple(
        check_array(side, ensure_2d=False, dtype=np.float64, input_name="domain")
        for side in (low, high)
    )


def data_range(X: NDArray, known: NDArray | None = None) -> NDArray:
    """Return the smallest and largest value of each feature, of earlier rows too.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    known : ndarray of shape (2, n_features), optional
        What was returned for earlier rows.

    Returns
    -------
    ndarray of shape (2, n_features)
    """
    rows = X if known is None else np.vstack([X, known])
    return np.stack([rows.min(axis=0), rows.max(axis=0)]).astype(np.float64)
