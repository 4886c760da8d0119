"""Certificates of a fitted estimator, in the units of its data."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklpos.certificates.certificate import Certificate
from sklpos.certificates.certify import certify_bounded, certify_network
from sklpos.certificates.risk import RiskCertificate, certify_risk
from sklpos.certificates.rows import certified_radius, output_bounds
from sklpos.estimator.fitted import make_domain, read_model
from sklpos.nets.outputs import BoundedOutput


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
            Widens the "box" or the "hull" by this share of its width, on both sides.
        method : str, default="auto"
            Or "interval", "crown", "alpha_crown", "branch_and_bound", "milp"; see
            `certify_module`.
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
        return certify(
            self,
            domain,
            X=X,
            radius=radius,
            categorical=categorical,
            margin=margin,
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
        return output_bounds(
            self.module_, read_model(self).rows(X_low), read_model(self).rows(X_high)
        )

    def certified_radius(
        self, X: ArrayLike, *, scale: ArrayLike | None = None
    ) -> NDArray:
        """Return how far each row may move before the bound is no longer proved.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        scale : array-like of shape (n_features,), optional
            Unit in which each feature moves, such as its standard deviation; 0 holds
            one still. By default 1, in the unit of X.

        Returns
        -------
        ndarray of shape (n_samples,)
            Largest change of every feature at once, in scales, at most 10; 0 where the
            prediction itself is not proved.
        """
        return certified_radius(
            self.module_,
            read_model(self).rows(X),
            self.net_.targets.lower_bound,
            scale=1.0 if scale is None else scale,
        )

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


def certify(
    model,
    domain="box",
    *,
    X: ArrayLike | None = None,
    radius: ArrayLike | None = None,
    categorical=None,
    margin: float | None = None,
    method: str = "auto",
    time_limit: float = 60.0,
) -> Certificate:
    """Prove or disprove that a model's predictions obey the bound on a domain.

    The domain, the counterexample and every number are in the unit of the data that
    the model takes: of a pipeline, before its scalers, which are folded into the first
    layer of the net.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline or search
        Fitted. In a Pipeline, StandardScaler, MinMaxScaler, RobustScaler and
        MaxAbsScaler may come before the regressor; of a search its best estimator
        counts.
    domain, X, radius, categorical, margin, method, time_limit
        As in `PositiveOutputRegressor.certify`.

    Returns
    -------
    Certificate

    Raises
    ------
    ValueError
        For a domain that is not understood, a step that is not an affine scaler, or a
        module with a layer that is not understood.

    Examples
    --------
    >>> import sklpos
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> net = sklpos.PositiveOutputRegressor(
    ...     strategy="nonnegative_weights", max_epochs=5, random_state=0
    ... )
    >>> X = np.arange(20.0).reshape(-1, 1)
    >>> model = make_pipeline(StandardScaler(), net).fit(X, X.ravel())
    >>> sklpos.certify(model, ([0.0], [1000.0])).status_
    'verified'
    """
    fitted = read_model(model)
    where = make_domain(fitted, domain, X, radius, categorical, margin)
    targets, module = fitted.regressor.net_.targets, fitted.regressor.module_
    if type(module) is BoundedOutput:
        where.check_features(fitted.n_features)
        return certify_bounded(module, where, targets.lower_bound, fitted.predict)
    return certify_network(
        fitted.network(),
        where,
        fitted.predict,
        lower_bound=targets.lower_bound,
        scale=targets.scale,
        method=method,
        time_limit=time_limit,
    )
