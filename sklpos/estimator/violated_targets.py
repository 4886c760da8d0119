"""What to do about targets outside the bounds, and why they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sklpos.nets.bounds import Bounds
from sklpos.nets.warnings import warn_user

# Share of violated rows that suggests another unit rather than a few odd rows.
_MANY = 1 / 3
# Distance of mean and deviation from those of standardised targets.
_ALIKE = 1e-3


def on_violated_y(estimator) -> str:
    """What an estimator does about targets outside the bounds.

    Parameters
    ----------
    estimator : PositiveOutputRegressor

    Returns
    -------
    {"warn", "raise", "ignore"}
    """
    former = estimator.on_negative_y
    return estimator.on_violated_y if former == "deprecated" else former


def report_violated_targets(
    y: NDArray, bounds: Bounds, on_violated_y: str, name: str = "y"
) -> None:
    """Warn of targets outside the bounds, or refuse them.

    If the targets look as if a scaler or another transform came before the estimator,
    as in a ``TransformedTargetRegressor``, the message begins with that.

    Parameters
    ----------
    y : ndarray of shape (n_samples, n_outputs)
    bounds : Bounds
    on_violated_y : {"warn", "raise", "ignore"}
    name : str, default="y"
        Name of the parameter that holds the targets.

    Raises
    ------
    ValueError
        If there are any, with ``"raise"``.
    """
    if on_violated_y == "ignore" or bounds.contain(y).all():
        return
    found = _violations(y, bounds)
    message = (
        f"{_hint(y, bounds)}{name} is {found} of {len(y)} rows, which no feasible "
        "model can match"
    )
    if on_violated_y == "raise":
        raise ValueError(f"{message}; set on_violated_y='warn' to fit anyway.")
    warn_user(f"{message}; set on_violated_y='ignore' to silence this.")


def _violations(y: NDArray, bounds: Bounds) -> str:
    sides = (
        (y < bounds.lower, "below lower_bound", bounds.lower),
        (y > bounds.upper, "above upper_bound", bounds.upper),
    )
    return " and ".join(
        # Of many outputs, only the bounds that are violated.
        f"{side}={np.unique(own[outside.any(axis=0)]).tolist()} in "
        f"{outside.any(axis=1).sum()}"
        for outside, side, own in sides
        if outside.any()
    )


def _hint(y: NDArray, bounds: Bounds) -> str:
    """Why so many targets are outside, if there is a guess."""
    outside = ~bounds.contain(y)
    violated = outside.any(axis=0)
    if outside.any(axis=1).mean() < _MANY or len(y) < 3:
        return ""
    if _is_standardised(y[:, violated]):
        return (
            "y was standardised by a transform, and bounds are in the unit of y as fit "
            "gets it; leave y as it is, or transform the bounds: "
        )
    return "if a transform comes before fit, bounds are in the transformed unit: "


def _is_standardised(y: NDArray) -> bool:
    largest = np.abs(y).max()
    # Squares of larger numbers could overflow.
    if not largest < 1e6:
        return False
    mean, deviation = y.mean(axis=0), y.std(axis=0)
    return bool(
        (np.abs(mean) < _ALIKE).all() and (np.abs(deviation - 1) < _ALIKE).all()
    )
