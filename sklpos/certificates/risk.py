"""How often predictions fall below the bound, in the population: exact statistics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta


@dataclass(frozen=True, eq=False)
class RiskCertificate:
    """What a holdout sample proves of ``P(prediction < lower_bound)``.

    It needs no targets. It holds for rows drawn independently from the population
    that the holdout was drawn from, if these were not used in fitting or tuning.

    Attributes
    ----------
    violation_rate_ : ndarray of shape (n_outputs,)
        Share of the sample, by output.
    upper_confidence_bound_ : ndarray of shape (n_outputs,)
        The probability of a violation is at most this, each at `confidence_`.
    joint_violation_rate_ : float
        Share of the rows where any output is below its bound.
    joint_upper_confidence_bound_ : float
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
    """Return the exact one-sided upper confidence bound of a probability.

    With k of n rows affected and ``delta = 1 - confidence``, the ``1 - delta``
    quantile of Beta(k + 1, n - k), and 1 for k = n.

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
    rest = np.maximum(n_samples - count, 1)
    quantile = beta.ppf(confidence, count + 1, rest)
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
        Of rows that took no part in fitting or tuning. Unit of y.
    lower_bound : float or array-like of shape (n_outputs,), default=0.0
        Unit of y.
    risk_level : float, default=0.05
        Probability that is acceptable.
    confidence : float, default=0.95

    Returns
    -------
    RiskCertificate

    Raises
    ------
    ValueError
        If there are no predictions, or NaN; if a level is not between 0 and 1.
    """
    below = _as_margins(predictions, lower_bound, risk_level, confidence) < 0
    n = len(below)
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
    """Return the smallest upward shift after which the joint risk is controlled.

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
        Unit of y; to be added to the predictions.

    Raises
    ------
    ValueError
        If the sample is too small for any shift to be enough.

    Examples
    --------
    >>> smallest_shift(np.arange(-1.0, 58.0))
    array([1.])
    """
    margins = _as_margins(predictions, lower_bound, risk_level, confidence)
    n = len(margins)
    allowed = clopper_pearson_upper(np.arange(n), n, confidence) <= risk_level
    if not allowed.any():
        needed = int(np.ceil(np.log1p(-confidence) / np.log1p(-risk_level)))
        raise ValueError(
            f"{n} rows prove no risk of {risk_level:g} at confidence {confidence:g}; "
            f"at least {needed} are needed."
        )
    scale = np.broadcast_to(np.asarray(scale, dtype=float), margins.shape[1:])
    shortfall = np.sort((-margins / scale).max(axis=1))[::-1]
    return max(shortfall[np.count_nonzero(allowed) - 1], 0.0) * scale


def _as_margins(predictions, lower_bound, risk_level, confidence) -> NDArray:
    """Distance above the bound, of shape (n_samples, n_outputs)."""
    for name, level in (("risk_level", risk_level), ("confidence", confidence)):
        if not 0 < level < 1:
            raise ValueError(f"{name}={level!r} must be between 0 and 1.")
    values = np.asarray(predictions, dtype=np.float64)
    if not values.size:
        raise ValueError("the holdout is empty; at least one row is needed.")
    if values.ndim not in (1, 2):
        raise ValueError("predictions must have shape (n_samples, n_outputs).")
    values = values.reshape(len(values), -1)
    if np.isnan(values).any():
        raise ValueError("the predictions contain NaN.")
    bound = np.asarray(lower_bound, dtype=np.float64)
    if bound.shape not in ((), (1,), values.shape[1:]):
        raise ValueError(
            f"lower_bound has shape {bound.shape}; give a number or one for each of "
            f"the {values.shape[1]} outputs."
        )
    return values - bound
