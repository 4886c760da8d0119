"""Promises of a fitted estimator: repairs on request, and certificates."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from sklpos.certificates.certificate import Certificate
from sklpos.certificates.certify import certify
from sklpos.certificates.domains.named import make_domain
from sklpos.certificates.risk import RiskCertificate, certify_risk
from sklpos.certificates.rows import certified_radius, output_bounds
from sklpos.estimator.checks import check_inputs
from sklpos.estimator.fit import enforce
from sklpos.estimator.repairs import METHODS, Request
from sklpos.nets.bounded import as_bounded_model
from sklpos.repair.shift import Risk
from sklpos.training.loop import gradients_on


class GuaranteeMixin:
    """Repairs and certificates of a fitted estimator.

    Formal certificates hold on their domain and say nothing outside it; statistical
    ones need rows like future ones, not used in fitting or tuning.
    """

    def enforce(
        self,
        X: ArrayLike | None = None,
        *,
        domain=None,
        method: str = "head",
        risk_level: float | None = None,
        confidence: float = 0.95,
        radius: ArrayLike | None = None,
        categorical=None,
        margin: float | None = None,
        time_limit: float = 10.0,
    ) -> Self:
        """Repair the head so that predictions obey the bounds, in place.

        The bounds then hold on the rows of X; or on a whole domain, with the proof in
        `certificate_`; or for all but a share of a population. Each call starts from
        the head as trained ("head") or as it is ("bias"). The result obeys the bounds
        where this call asks for it, and on the rows that determined earlier repairs;
        for a promise on all training rows as well, stack them onto X. No targets are
        needed. After `partial_fit` the nearest head is the one nearest on X or on a
        sample of the domain, without balance.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), optional
            Rows to protect; the rows of a "hull" or "ball"; with `risk_level`, a
            holdout, which `certify_risk` cannot use again afterwards.
        domain : {"box", "hull", "ball", "all"} or (low, high), optional
            As in `certify`; unit of X.
        method : {"head", "bias"}, default="head"
            The nearest head; or the smallest shift of the bias, which moves every
            prediction and gives up the mean.
        risk_level : float, optional
            With ``method="bias"``: shift until the probability that a new prediction
            is out of bounds is at most this, with `confidence`; not for an output with
            both bounds.
        confidence : float, default=0.95
        radius, categorical, margin
            Of the domain, as in `certify`.
        time_limit : float, default=10.0
            Seconds for the repair of a domain: the longer, the nearer the head. The
            result differs a little from run to run.

        Returns
        -------
        self
            Unchanged if the strategy's guarantee is ``"everywhere"``.

        Raises
        ------
        ValueError
            For an invalid request, or if no head obeys the bounds. The fitted model
            then stays as it was.
        """
        check_is_fitted(self)
        inputs = None if X is None else check_inputs(self, X)
        model = as_bounded_model(self)
        _check_request(inputs, domain, method, risk_level)
        if domain is not None:
            domain = make_domain(
                model,
                domain,
                X=X,
                radius=radius,
                categorical=categorical,
                margin=margin,
            )
        risk = None if risk_level is None else Risk(risk_level, confidence)
        request = Request(inputs, domain, method, risk, time_limit)
        with gradients_on():
            # One assignment at the end: an interrupted repair changes nothing.
            self.fitted_ = enforce(self, self.fitted_, request)
        return self

    def certify(self, domain="box", **request: Any) -> Certificate:
        """Prove or disprove that predictions obey the bounds on a whole domain.

        Parameters
        ----------
        domain : {"box", "hull", "ball", "all"} or (low, high), default="box"
            The range of the training data, the convex hull of the rows of `X`, a ball
            around each row of `X`, every real input, or a box that you choose. Unit of
            X.
        **request : object
            ``X``, ``radius``, ``categorical``, ``margin``, ``lower_bound``,
            ``upper_bound``, ``method`` and ``time_limit``, as in `sklpos.certify`.

        Returns
        -------
        Certificate
            Truthy only if verified.

        Raises
        ------
        ValueError
            For an unknown domain, or a module with a layer that is not supported.
        """
        return certify(self, domain, **request)

    def output_bounds(
        self, X_low: ArrayLike, X_high: ArrayLike
    ) -> tuple[NDArray, NDArray]:
        """Bound the predictions over boxes, provably.

        Parameters
        ----------
        X_low, X_high : array-like of shape (n_boxes, n_features)
            Unit of X.

        Returns
        -------
        lower, upper : ndarray of shape (n_boxes, n_outputs)
            Unit of y.
        """
        model = as_bounded_model(self)
        return output_bounds(
            model.module, model.check_rows(X_low), model.check_rows(X_high)
        )

    def certified_radius(
        self, X: ArrayLike, *, scale: ArrayLike | None = None
    ) -> NDArray:
        """Distance that each row may move before the bounds are no longer proved.

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
        model = as_bounded_model(self)
        return certified_radius(
            model.module,
            model.check_rows(X),
            model.bounds.lower,
            model.bounds.upper,
            scale=1.0 if scale is None else scale,
        )

    def certify_risk(
        self,
        X_holdout: ArrayLike,
        *,
        risk_level: float = 0.05,
        confidence: float = 0.95,
    ) -> RiskCertificate:
        """Bound the probability that a new prediction is out of bounds.

        No targets are needed.

        Parameters
        ----------
        X_holdout : array-like of shape (n_samples, n_features)
            Rows like future ones, not used in fitting, tuning or `enforce`.
        risk_level : float, default=0.05
            Acceptable probability of a violation.
        confidence : float, default=0.95

        Returns
        -------
        RiskCertificate
        """
        # Those of `predict`, whose rounding counts, and not those of an exact net.
        predictions = np.asarray(self.predict(X_holdout), dtype=np.float64)
        bounds = as_bounded_model(self).bounds
        return certify_risk(
            predictions.reshape(len(predictions), -1),
            bounds.lower,
            bounds.upper,
            risk_level=risk_level,
            confidence=confidence,
        )


def _check_request(X, domain, method: str, risk_level: float | None) -> None:
    if X is None and domain is None:
        raise ValueError("enforce needs X, rows to protect, or domain, such as 'box'.")
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; choose one of {METHODS}.")
    if risk_level is not None and (method != "bias" or domain is not None):
        raise ValueError(
            f"risk_level={risk_level!r} needs method='bias' and a holdout X, without "
            "a domain."
        )
