"""Promises of a fitted estimator: repairs on request, and certificates."""

from __future__ import annotations

from typing import Any, Self

from numpy.typing import ArrayLike, NDArray

from sklpos.certificates.certificate import Certificate
from sklpos.certificates.certify import certify
from sklpos.certificates.holdout import certify_risk
from sklpos.certificates.risk import RiskCertificate
from sklpos.certificates.rows import certified_radius, output_bounds
from sklpos.estimator.attributes import FittedAttributes
from sklpos.estimator.enforcing import enforce
from sklpos.estimator.loaded import check_loaded
from sklpos.estimator.other_rows import warn_of_far_rows
from sklpos.nets.bounded import as_bounded_model


class GuaranteeMixin(FittedAttributes):
    """Repairs and certificates of a fitted estimator.

    Formal certificates hold on their domain and say nothing outside it; statistical
    ones need rows like future ones, not used in fitting or tuning.
    """

    def enforce(
        self,
        X: ArrayLike | None = None,
        *,
        domain=None,
        adjust: str = "head",
        risk_level: float | None = None,
        confidence: float = 0.95,
        radius: ArrayLike | None = None,
        categorical=None,
        margin: float | None = None,
        time_limit: float = 10.0,
        method: str = "deprecated",
    ) -> Self:
        """Repair the head so that predictions obey the bounds, in place.

        See `sklpos.enforce`, which takes whole pipelines as well. The bounds then hold
        on the rows of X; or on a whole domain, with the proof in `certificate_`; or for
        all but a share of a population.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features), optional
            Rows to protect; the rows of a "hull" or "ball"; with `risk_level`, a
            holdout.
        domain : {"box", "hull", "ball", "all"} or (low, high), optional
            As in `certify`; unit of X.
        adjust : {"head", "bias"}, default="head"
            The nearest head, or the smallest shift of the bias.
        risk_level : float, optional
            With ``adjust="bias"``: the share of a population that may be out of bounds.
        confidence : float, default=0.95
        radius, categorical, margin : object, optional
            Of the domain, as in `certify`.
        time_limit : float, default=10.0
            Seconds for the repair of a domain.
        method : {"head", "bias"}
            Earlier name of `adjust`, which will be removed in the next version.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For an invalid request, or if no head obeys the bounds. The fitted model
            then stays as it was.
        """
        return enforce(
            self,
            X,
            domain=domain,
            adjust=adjust,
            risk_level=risk_level,
            confidence=confidence,
            radius=radius,
            categorical=categorical,
            margin=margin,
            time_limit=time_limit,
            method=method,
        )

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
        low, high = model.check_rows(X_low, "X_low"), model.check_rows(X_high, "X_high")
        if low.shape == high.shape:
            warn_of_far_rows(self, (low + high) / 2, "output_bounds")
        return output_bounds(self, X_low, X_high)

    def certified_radius(
        self, X: ArrayLike, *, scale: ArrayLike | None = None
    ) -> NDArray:
        """Distance that each row may move before the bounds are no longer proved.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        scale : array-like of shape (n_features,), optional
            Unit in which each feature moves, such as its standard deviation; 0 holds
            one still. By default 1, in the unit of X.

        Returns
        -------
        ndarray of shape (n_samples,)
            Largest change of every feature at once, in scales, at most 10; 0 where the
            prediction itself is not proved.
        """
        rows = as_bounded_model(self).check_rows(X)
        warn_of_far_rows(self, rows, "certified_radius")
        return certified_radius(self, X, scale=scale)

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
        X_holdout : array-like or sparse matrix of shape (n_samples, n_features)
            Rows like future ones, not used in fitting, tuning or `enforce`.
        risk_level : float, default=0.05
            Acceptable probability of a violation.
        confidence : float, default=0.95

        Returns
        -------
        RiskCertificate
        """
        return certify_risk(
            self, X_holdout, risk_level=risk_level, confidence=confidence
        )

    def _check_loaded(self) -> None:
        check_loaded(self)
