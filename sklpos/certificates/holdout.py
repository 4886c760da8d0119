"""The risk of a model on a population, from a holdout sample of its rows."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from sklpos.certificates.risk import RiskCertificate, bound_risk
from sklpos.nets.bounded import behind_steps
from sklpos.nets.process import leaves_no_trace


@leaves_no_trace
def certify_risk(
    model: Any,
    X_holdout: ArrayLike,
    *,
    risk_level: float = 0.05,
    confidence: float = 0.95,
) -> RiskCertificate:
    """Bound the probability that a new prediction of a model is out of its bounds.

    No targets are needed. The steps of a Pipeline may be any transformers.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline, search or nn.Module
        Fitted. A bare module is in eval mode and has the lower bound 0.
    X_holdout : array-like or sparse matrix of shape (n_samples, n_features)
        Rows like future ones, as the model takes them, not used in fitting, tuning or
        `enforce`.
    risk_level : float, default=0.05
        Acceptable probability of a violation.
    confidence : float, default=0.95

    Returns
    -------
    RiskCertificate

    Raises
    ------
    ValueError
        If the model, the rows or a level are not valid.

    Examples
    --------
    >>> from torch import nn
    >>> module = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
    >>> certify_risk(module, [[0.0, 1.0]] * 59).controlled_
    True
    """
    if isinstance(model, list | tuple) or hasattr(model, "__array__"):
        raise ValueError(
            "certify_risk takes a model and rows; for predictions, call "
            "sklpos.certificates.bound_risk(predictions, lower_bound, upper_bound)."
        )
    bounded, rows = behind_steps(model, X_holdout)
    return bound_risk(
        # Those of `predict`, whose rounding counts, and not those of an exact net.
        bounded.predict(rows),
        bounded.bounds.lower,
        bounded.bounds.upper,
        risk_level=risk_level,
        confidence=confidence,
    )
