"""Exact statistical bounds of how often predictions are out of bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from sklpos.nets.bounds import Bounds
from sklpos.nets.hints import shown
from sklpos.nets.rules import as_float

_NEAREST = 1e-9


@dataclass(frozen=True, eq=False)
class RiskCertificate:
    """What a holdout sample proves about the probability of a violation.

    A prediction violates its bounds if it is below the lower or above the upper one,
    so that no targets are needed. The certificate holds for the population from which
    the rows of the holdout were drawn independently, if they were not used in fitting
    or tuning.

    Attributes
    ----------
    joint_violation_rate_ : float
        Share of the rows where any output is out of bounds.
    joint_upper_confidence_bound_ : float
        Largest plausible probability that any output is out of bounds.
    violation_rate_ : ndarray of shape (n_outputs,)
        Share of the rows out of bounds, per output.
    upper_confidence_bound_ : ndarray of shape (n_outputs,)
        Largest plausible probability of a violation, each at `confidence_`.
    below_rate_, above_rate_ : ndarray of shape (n_outputs,)
        Share of the rows below the lower bound, and above the upper one.
    below_confidence_bound_, above_confidence_bound_ : ndarray of shape (n_outputs,)
        Largest plausible probability of either, each at `confidence_`; 0 where there is
        no such bound.
    n_samples_ : int
    risk_level_ : float
    confidence_ : float
    controlled_ : bool
        Whether the joint bound is at most the risk level.

    Examples
    --------
    >>> bound_risk(np.ones((59, 1)))
    RiskCertificate: controlled, P(a prediction out of bounds) <= 0.0495 at 95 %
      0 of 59 rows out of bounds, risk level 0.05
    """

    joint_violation_rate_: float
    joint_upper_confidence_bound_: float
    violation_rate_: NDArray
    upper_confidence_bound_: NDArray
    below_rate_: NDArray
    above_rate_: NDArray
    below_confidence_bound_: NDArray
    above_confidence_bound_: NDArray
    n_samples_: int
    risk_level_: float
    confidence_: float
    controlled_: bool

    def __bool__(self) -> bool:
        return self.controlled_

    def __repr__(self) -> str:
        # A share times the number of rows may be off by a rounding.
        count = round(self.joint_violation_rate_ * self.n_samples_)
        verdict = "controlled" if self.controlled_ else "not controlled"
        what = "any output" if len(self.violation_rate_) > 1 else "a prediction"
        lines = [
            f"RiskCertificate: {verdict}, P({what} out of bounds) <= "
            f"{self.joint_upper_confidence_bound_:.3g} at "
            f"{100 * self.confidence_:.4g} %",
            f"  {count} of {self.n_samples_} rows out of bounds, "
            f"risk level {self.risk_level_:g}",
        ]
        if len(self.violation_rate_) > 1:
            each = ", ".join(f"{p:.3g}" for p in self.upper_confidence_bound_[:8])
            more = ", ..." if len(self.violation_rate_) > 8 else ""
            lines.append(f"  each output on its own: {each}{more}")
        return "\n".join(lines)


def clopper_pearson_upper(count: ArrayLike, n_samples: int, confidence: float = 0.95):
    """Compute the exact one-sided upper confidence bound of a probability.

    If k of n rows are affected and ``delta = 1 - confidence``, it is the ``1 - delta``
    quantile of Beta(k + 1, n - k), and 1 if k = n.

    Parameters
    ----------
    count : int or array-like of int
    n_samples : int
    confidence : float, default=0.95

    Returns
    -------
    float or ndarray

    References
    ----------
    .. [1] C. J. Clopper, E. S. Pearson (1934), "The use of confidence or fiducial
       limits illustrated in the case of the binomial", doi:10.1093/biomet/26.4.404.

    Examples
    --------
    >>> round(float(clopper_pearson_upper(0, 299)), 4)
    0.01
    """
    count = np.asarray(count)
    # Beta(n + 1, 0) does not exist; that case is replaced by 1 afterwards.
    rest = np.maximum(n_samples - count, 1)
    quantile = beta.ppf(confidence, count + 1, rest)
    # [()] turns an array without dimensions into a number.
    return np.where(count == n_samples, 1.0, quantile)[()]


def bound_risk(
    predictions: ArrayLike,
    lower_bound: ArrayLike | None = 0.0,
    upper_bound: ArrayLike | None = None,
    *,
    risk_level: float = 0.05,
    confidence: float = 0.95,
) -> RiskCertificate:
    """Bound how often predictions are out of bounds, from those of a holdout sample.

    No targets are needed. `certify_risk` takes a model and the rows themselves.

    Parameters
    ----------
    predictions : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Predictions of rows that were not used in fitting or tuning. Unit of y.
    lower_bound, upper_bound : float, array-like of shape (n_outputs,) or None
        Unit of y; by default 0 and None, which leaves a side free.
    risk_level : float, default=0.05
        Acceptable probability of a violation.
    confidence : float, default=0.95

    Returns
    -------
    RiskCertificate

    Raises
    ------
    ValueError
        If there are no predictions, if they contain NaN, or if a bound is not valid or
        a level not between 0 and 1.
    """
    _check_levels(risk_level, confidence)
    values = _as_columns(predictions)
    bounds = Bounds.read(lower_bound, upper_bound, values.shape[1])
    below, above = values < bounds.lower, values > bounds.upper
    n = len(values)

    def limit(rows, possible):
        found = clopper_pearson_upper(rows.sum(axis=0), n, confidence)
        return np.where(possible, found, 0.0)

    # Counted row by row, as adding up the bounds of the outputs would be looser.
    joint = (below | above).any(axis=1)
    joint_bound = float(clopper_pearson_upper(joint.sum(), n, confidence))
    return RiskCertificate(
        joint_violation_rate_=float(joint.mean()),
        joint_upper_confidence_bound_=joint_bound,
        violation_rate_=(below | above).mean(axis=0),
        upper_confidence_bound_=limit(below | above, bounds.bounded),
        below_rate_=below.mean(axis=0),
        above_rate_=above.mean(axis=0),
        below_confidence_bound_=limit(below, np.isfinite(bounds.lower)),
        above_confidence_bound_=limit(above, np.isfinite(bounds.upper)),
        n_samples_=n,
        risk_level_=float(risk_level),
        confidence_=float(confidence),
        controlled_=joint_bound <= risk_level,
    )


def smallest_shift(
    predictions: ArrayLike,
    lower_bound: ArrayLike | None = 0.0,
    upper_bound: ArrayLike | None = None,
    *,
    risk_level: float = 0.05,
    confidence: float = 0.95,
    scale: ArrayLike = 1.0,
) -> NDArray:
    """Find the smallest shift away from the bounds after which the risk is controlled.

    Outputs with a lower bound are raised, those with an upper bound are lowered. If k
    is the largest count whose Clopper-Pearson bound is at most the risk level, the
    shift is ``t * scale`` with t the (k + 1)-th largest violation of the rows, in
    scales, and at least 0. As k does not depend on the predictions, the guarantee
    survives the choice: the risk left at an order statistic is Beta(k + 1, n - k)
    distributed, or smaller with ties (Wilks 1941, doi:10.1214/aoms/1177731788).

    Parameters
    ----------
    predictions : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Unit of y.
    lower_bound, upper_bound : float, array-like of shape (n_outputs,) or None
        Unit of y; by default 0 and None, which leaves a side free. At most one for
        each output.
    risk_level, confidence : float
    scale : float or array-like of shape (n_outputs,), default=1.0
        The outputs are shifted in this proportion.

    Returns
    -------
    ndarray of shape (n_outputs,)
        Unit of y; add it to the predictions. Negative where there is an upper bound, 0
        for an output without a bound.

    Raises
    ------
    ValueError
        If the sample is so small that no shift would be enough, or if an output has
        both bounds.

    Examples
    --------
    >>> smallest_shift(np.arange(-1.0, 58.0))
    array([1.])
    >>> smallest_shift(np.arange(-1.0, 58.0), None, 50.0)
    array([-7.])
    """
    _check_levels(risk_level, confidence)
    values = _as_columns(predictions)
    bounds = Bounds.read(lower_bound, upper_bound, values.shape[1])
    _check_one_side(bounds)
    n = len(values)
    allowed = clopper_pearson_upper(np.arange(n), n, confidence) <= risk_level
    if not allowed.any():
        # n clean rows prove the risk once (1 - risk_level)**n <= 1 - confidence.
        needed = math.ceil(np.log1p(-confidence) / np.log1p(-risk_level))
        raise ValueError(
            f"{n} rows prove no risk of {risk_level:g} at confidence {confidence:g}; "
            f"at least {needed} are needed."
        )
    scale = np.broadcast_to(np.asarray(scale, dtype=float), values.shape[1:])
    violation = np.sort((bounds.violation(values) / scale).max(axis=1))[::-1]
    # Counts 0 to k are allowed; the row at index k is the first that may not be out.
    size = max(violation[np.count_nonzero(allowed) - 1], 0.0) * scale
    return np.where(np.isfinite(bounds.upper), -size, bounds.bounded * size)


def _check_one_side(bounds: Bounds) -> None:
    both = np.flatnonzero(bounds.two_sided)
    if both.size:
        j = both[0]
        raise ValueError(
            f"lower_bound={bounds.lower[j]:g} and upper_bound={bounds.upper[j]:g} of "
            f"output {j} leave no direction to shift it in for a risk; leave "
            "risk_level out and use adjust='head', which keeps both bounds."
        )


def _check_levels(risk_level: float, confidence: float) -> None:
    for name, level in (("risk_level", risk_level), ("confidence", confidence)):
        number = as_float(level)
        if number is None or not 0 < number < 1:
            raise ValueError(f"{name}={shown(level)} must be between 0 and 1.")
        # Nearer to them, the quantiles of scipy are not exact.
        if not _NEAREST <= number <= 1 - _NEAREST:
            raise ValueError(
                f"{name}={shown(level)} is nearer to 0 or 1 than {_NEAREST:g}."
            )


def _as_columns(predictions: ArrayLike) -> NDArray:
    """Predictions of shape (n_samples, n_outputs)."""
    values = np.asarray(predictions, dtype=np.float64)
    if not values.size:
        raise ValueError("the holdout is empty; pass at least one row.")
    if values.ndim not in (1, 2):
        raise ValueError(
            f"predictions must have shape (n_samples, n_outputs); got {values.shape}."
        )
    values = values.reshape(len(values), -1)
    # NaN is not out of bounds, so such a row would count as a good one.
    if np.isnan(values).any():
        raise ValueError("the predictions contain NaN.")
    return values
