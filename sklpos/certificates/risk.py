"""Exact statistical bounds of how often predictions fall below the bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta


@dataclass(frozen=True, eq=False)
class RiskCertificate:
    """What a holdout sample proves about ``P(prediction < lower_bound)``.

    No targets are needed. The certificate holds for the population from which the rows
    of the holdout were drawn independently, if they were not used in fitting or tuning.

    Attributes
    ----------
    violation_rate_ : ndarray of shape (n_outputs,)
        Share of the rows below the bound, per output.
    upper_confidence_bound_ : ndarray of shape (n_outputs,)
        Largest plausible probability of a violation, each at `confidence_`.
    joint_violation_rate_ : float
        Share of the rows where any output is below its bound.
    joint_upper_confidence_bound_ : float
        Largest plausible probability that any output is below its bound.
    n_samples_ : int
    risk_level_ : float
    confidence_ : float
    controlled_ : bool
        Whether the joint bound is at most the risk level.

    Examples
    --------
    >>> certify_risk(np.ones((59, 1)))
    RiskCertificate: controlled, P(any output below its bound) <= 0.0495 at 95 %
      0 of 59 rows below, risk level 0.05
    """

    violation_rate_: NDArray
    upper_confidence_bound_: NDArray
    joint_violation_rate_: float
    joint_upper_confidence_bound_: float
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
        return (
            f"RiskCertificate: {verdict}, P(any output below its bound) <= "
            f"{self.joint_upper_confidence_bound_:.3g} at "
            f"{100 * self.confidence_:.4g} %\n"
            f"  {count} of {self.n_samples_} rows below, "
            f"risk level {self.risk_level_:g}"
        )


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


def certify_risk(
    predictions: ArrayLike,
    lower_bound: ArrayLike = 0.0,
    *,
    risk_level: float = 0.05,
    confidence: float = 0.95,
) -> RiskCertificate:
    """Bound how often predictions fall below their bound, from a holdout sample.

    Parameters
    ----------
    predictions : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Predictions of rows that were not used in fitting or tuning. Unit of y.
    lower_bound : float or array-like of shape (n_outputs,), default=0.0
        Unit of y.
    risk_level : float, default=0.05
        Acceptable probability of a violation.
    confidence : float, default=0.95

    Returns
    -------
    RiskCertificate

    Raises
    ------
    ValueError
        If there are no predictions, if they contain NaN, or if a level is not between
        0 and 1.
    """
    below = _as_margins(predictions, lower_bound, risk_level, confidence) < 0
    n = len(below)
    # Counted row by row, as adding up the bounds of the outputs would be looser.
    joint = below.any(axis=1)
    joint_bound = float(clopper_pearson_upper(joint.sum(), n, confidence))
    return RiskCertificate(
        violation_rate_=below.mean(axis=0),
        upper_confidence_bound_=clopper_pearson_upper(below.sum(0), n, confidence),
        joint_violation_rate_=float(joint.mean()),
        joint_upper_confidence_bound_=joint_bound,
        n_samples_=n,
        risk_level_=float(risk_level),
        confidence_=float(confidence),
        controlled_=joint_bound <= risk_level,
    )


def smallest_shift(
    predictions: ArrayLike,
    lower_bound: ArrayLike = 0.0,
    *,
    risk_level: float = 0.05,
    confidence: float = 0.95,
    scale: ArrayLike = 1.0,
) -> NDArray:
    """Find the smallest upward shift after which the joint risk is controlled.

    If k is the largest count whose Clopper-Pearson bound is at most the risk level,
    the shift is ``t * scale`` with t the (k + 1)-th largest shortfall of the rows, in
    scales, and at least 0. As k does not depend on the predictions, the guarantee
    survives the choice: the risk left at an order statistic is Beta(k + 1, n - k)
    distributed, or smaller with ties (Wilks 1941, doi:10.1214/aoms/1177731788).

    Parameters
    ----------
    predictions : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Unit of y.
    lower_bound : float or array-like of shape (n_outputs,), default=0.0
        Unit of y.
    risk_level, confidence : float
    scale : float or array-like of shape (n_outputs,), default=1.0
        The outputs are shifted in this proportion.

    Returns
    -------
    ndarray of shape (n_outputs,)
        Unit of y; add it to the predictions.

    Raises
    ------
    ValueError
        If the sample is so small that no shift would be enough.

    Examples
    --------
    >>> smallest_shift(np.arange(-1.0, 58.0))
    array([1.])
    """
    margins = _as_margins(predictions, lower_bound, risk_level, confidence)
    n = len(margins)
    allowed = clopper_pearson_upper(np.arange(n), n, confidence) <= risk_level
    if not allowed.any():
        # n clean rows prove the risk once (1 - risk_level)**n <= 1 - confidence.
        needed = math.ceil(np.log1p(-confidence) / np.log1p(-risk_level))
        raise ValueError(
            f"{n} rows prove no risk of {risk_level:g} at confidence {confidence:g}; "
            f"at least {needed} are needed."
        )
    scale = np.broadcast_to(np.asarray(scale, dtype=float), margins.shape[1:])
    shortfall = np.sort((-margins / scale).max(axis=1))[::-1]
    # Counts 0 to k are allowed; the row at index k is the first that may not be below.
    return max(shortfall[np.count_nonzero(allowed) - 1], 0.0) * scale


def _as_margins(predictions, lower_bound, risk_level, confidence) -> NDArray:
    """Distances above the bound, of shape (n_samples, n_outputs)."""
    for name, level in (("risk_level", risk_level), ("confidence", confidence)):
        if not 0 < level < 1:
            raise ValueError(f"{name}={level!r} must be between 0 and 1.")
    values = np.asarray(predictions, dtype=np.float64)
    if not values.size:
        raise ValueError("the holdout is empty; pass at least one row.")
    if values.ndim not in (1, 2):
        raise ValueError(
            f"predictions must have shape (n_samples, n_outputs); got {values.shape}."
        )
    values = values.reshape(len(values), -1)
    # NaN is not below anything, so such a row would count as a good one.
    if np.isnan(values).any():
        raise ValueError("the predictions contain NaN.")
    bound = np.asarray(lower_bound, dtype=np.float64)
    if bound.shape not in ((), (1,), values.shape[1:]):
        raise ValueError(
            f"lower_bound has shape {bound.shape}; pass one number, or one for each of "
            f"the {values.shape[1]} outputs."
        )
    return values - bound
