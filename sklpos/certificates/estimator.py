"""Certificates of a fitted estimator, in the units of its data."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from sklpos.certificates.certificate import Certificate
from sklpos.certificates.domains import All, Ball, Box, Domain, Hull
from sklpos.certificates.risk import RiskCertificate, certify_risk
from sklpos.certificates.rows import certified_radius, output_bounds
from sklpos.certificates.verify import certify_module

_NAMES = ("box", "hull", "ball", "all")


class CertificatesMixin:
    """What a fitted estimator can prove about rows it has not seen.

    Formal certificates hold on their domain and say nothing outside it; statistical
    ones need rows like those to come, not used in fitting or tuning.
    """

    def certify(
        self,
        domain="box",
        *,
        X: ArrayLike | None = None,
        radius: ArrayLike | None = None,
        categorical=None,
        margin: float | None = None,
        method: str = "auto",
        time_limit: float = 60.0,
    ) -> Certificate:
        """Prove or disprove that predictions obey the bound on a whole domain.

        Parameters
        ----------
        domain : {"box", "hull", "ball", "all"} or (low, high), default="box"
            The range of the training data, the convex hull of the rows of `X`, a ball
            around each row of `X`, every real input, or a box of one's own. Unit of X.
        X : array-like of shape (n_samples, n_features), optional
            For "hull" and "ball".
        radius : float or array-like of shape (n_features,), optional
            Largest change of each feature in a "ball". Unit of X.
        categorical : sequence of int or of sequences of int, optional
            Integer features, and groups of one-hot features, of a box.
        margin : float, optional
            Widens the "box" by this share of its width, on both sides.
        method : {"auto", "interval", "crown", "branch_and_bound", "milp"}
        time_limit : float, default=60.0
            Seconds.

        Returns
        -------
        Certificate
            True in a condition exactly if verified.

        Raises
        ------
        ValueError
            For a domain that is not understood, or a module with a layer that is not.
        """
        check_is_fitted(self)
        return certify_module(
            self.module_,
            self._domain(domain, X, radius, categorical, margin),
            lower_bound=self.net_.targets.lower_bound,
            scale=self.net_.targets.scale,
            method=method,
            time_limit=time_limit,
        )

    def output_bounds(
        self, X_low: ArrayLike, X_high: ArrayLike
    ) -> tuple[NDArray, NDArray]:
        """Return proved bounds of the predictions over boxes.

        Parameters
        ----------
        X_low, X_high : array-like of shape (n_boxes, n_features)
            Unit of X.

        Returns
        -------
        lower, upper : ndarray of shape (n_boxes, n_outputs)
            Unit of y.
        """
        return output_bounds(self.module_, self._rows(X_low), self._rows(X_high))

    def certified_radius(self, X: ArrayLike) -> NDArray:
        """Return how far each row may move before the bound is no longer proved.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            Largest change of every feature at once, unit of X, at most 10; 0 where the
            prediction itself is below the bound.
        """
        X = self._rows(X)
        return certified_radius(self.module_, X, self.net_.targets.lower_bound)

    def certify_risk(
        self,
        X_holdout: ArrayLike,
        *,
        risk_level: float = 0.05,
        confidence: float = 0.95,
    ) -> RiskCertificate:
        """Bound the probability that a new prediction is below the bound.

        No targets are needed.

        Parameters
        ----------
        X_holdout : array-like of shape (n_samples, n_features)
            Rows like those to come, not used in fitting, tuning or `enforce`.
        risk_level : float, default=0.05
            Probability to stay below.
        confidence : float, default=0.95

        Returns
        -------
        RiskCertificate
        """
        predictions = np.asarray(self.predict(X_holdout), dtype=np.float64)
        return certify_risk(
            predictions.reshape(len(predictions), -1),
            self.net_.targets.lower_bound,
            risk_level=risk_level,
            confidence=confidence,
        )

    def _rows(self, X) -> NDArray:
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64)

    def _domain(self, domain, X, radius, categorical, margin) -> Domain:
        if isinstance(domain, Domain):
            return domain
        if not isinstance(domain, str):
            return Box(*_low_and_high(domain), categorical=categorical or ())
        if domain not in _NAMES:
            raise ValueError(
                f"domain={domain!r} is unknown; choose one of {_NAMES} or pass "
                "(low, high)."
            )
        if domain in ("hull", "ball") and X is None:
            raise ValueError(f"domain={domain!r} needs X, the rows to put it around.")
        if domain == "ball" and radius is None:
            raise ValueError("domain='ball' needs radius, in the unit of X.")
        if domain == "hull":
            return Hull(self._rows(X))
        if domain == "ball":
            return Ball(self._rows(X), radius)
        if domain == "all":
            return All(self.n_features_in_)
        low, high = self._range
        widened = (margin or 0.0) * (high - low)
        return Box(low - widened, high + widened, categorical=categorical or ())


def _low_and_high(domain) -> tuple:
    try:
        low, high = domain
    except (TypeError, ValueError):
        raise ValueError(
            f"domain={domain!r} must be one of {_NAMES} or a pair (low, high)."
        ) from None
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
