r"""The nearest head that obeys its bounds for all features of a box, in closed form.

Where the features are only known to lie in a box, ``low <= h <= high``, a linear head
obeys its bounds for all of them exactly if its smallest and its largest corner do. With
the weights split into ``p - q``, both at least 0, these are two linear constraints,

.. math::

    b + p \cdot low - q \cdot high \ge \ell + m ,
    \quad b + p \cdot high - q \cdot low \le u - m ,

and the nearest head (see `sklpos.repair`) is a non-negative least-squares problem: each
constraint is a heavily weighted row [1]_.

References
----------
.. [1] C. L. Lawson and R. J. Hanson, *Solving Least Squares Problems*, 1974, ch. 22-23.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cholesky, lstsq, null_space
from scipy.optimize import nnls

from sklpos.nets.bounds import Bounds
from sklpos.repair.objective import HeadObjective

# Weight of the constraint's row, relative to the objective's.
_WEIGHT = 1e5


def worst_case(coef: NDArray, low: NDArray, high: NDArray) -> NDArray:
    """Smallest predictions over a box of features.

    Parameters
    ----------
    coef : ndarray of shape (n_outputs, d1)
        Heads; with ``d1 = d + 1``, the bias last, or ``d1 = d``.
    low, high : ndarray of shape (d,)
        May be infinite where the weight is 0.

    Returns
    -------
    ndarray of shape (n_outputs,)
    """
    weight = coef[:, : len(low)]
    bias = coef[:, len(low) :].sum(axis=1)
    corner = np.where(weight > 0, low, high)
    # An infinite corner times a weight of 0 would be NaN.
    return bias + np.sum(weight * np.where(weight == 0, 0.0, corner), axis=1)


def nearest_robust_head(
    coef: NDArray,
    objective: HeadObjective,
    low: NDArray,
    high: NDArray,
    *,
    lower_bound: ArrayLike | None,
    upper_bound: ArrayLike | None = None,
    balance: bool,
) -> NDArray:
    """Move heads as little as possible so that they obey their bounds on a box.

    Parameters
    ----------
    coef : ndarray of shape (n_outputs, d1)
        The heads, in the unit of y.
    objective : HeadObjective
        The distance between heads, and the balance.
    low, high : ndarray of shape (d,)
        The box; a feature that is unbounded on a side gets a weight of the other sign,
        or none if the output has both bounds.
    lower_bound, upper_bound : float, array-like of shape (n_outputs,) or None
        Unit of y. An infinite bound leaves an output free of it, not of the balance.
    balance : bool
        Whether to keep the mean prediction at the mean target, if that is within the
        bounds.

    Returns
    -------
    ndarray of shape (n_outputs, d1)
        Accurate to about 1e-9 of their size. Without a bias such a head may not exist:
        check `worst_case`.
    """
    bounds = Bounds.read(lower_bound, upper_bound, len(coef))
    required = bounds.mirrored().reshape(2, -1)
    root = cholesky(objective.metric)
    heads = coef.copy()
    worst = worst_case(np.vstack([coef, -coef]), low, high)
    held = (worst.reshape(2, -1) >= required).all(axis=0)
    kept = np.zeros(len(coef), dtype=bool)
    if balance:
        # The mean of what obeys the bounds cannot be outside.
        kept = bounds.contain(objective.mean_target)
    for j in np.flatnonzero(kept | ~held):
        target = objective.mean_target[j] if kept[j] else None
        heads[j] = _solve(coef[j], root, objective, low, high, required[:, j], target)
    return heads


def _solve(start, root, objective, low, high, required, target) -> NDArray:
    """Non-negative least squares in ``z = (p, q, b+, b-, s)``, ``head = split @ z``.

    s has the slack of each constraint, whose rows have the size of the objective's.
    """
    d = len(low)
    # One row of coefficients of (p, q) for each side, as a bound from below.
    ends = np.array([np.append(low, -high), np.append(-high, low)])
    asked = np.isfinite(required)
    # A weight towards an infinite end must stay 0, so it is no variable.
    usable = np.isfinite(ends[asked]).all(axis=0)
    split = np.hstack([np.eye(len(start), d), -np.eye(len(start), d)])[:, usable]
    ends = ends[:, usable]
    if len(start) > d:
        # The bias has any sign, so it is a difference of two variables.
        bias = np.eye(len(start))[:, -1:]
        split = np.hstack([split, bias, -bias])
        ends = np.hstack([ends, [[1.0, -1.0], [-1.0, 1.0]]])
    n_sides = np.count_nonzero(asked)
    rows = np.hstack([ends[asked], -np.eye(n_sides)])
    values = required[asked]
    if target is not None:
        mean = np.append(objective.mean_features @ split, np.zeros(n_sides))
        rows = np.vstack([rows, mean])
        values = np.append(values, target)
    system = np.hstack([root @ split, np.zeros((len(root), n_sides))])
    solution = _least_squares(system, root @ start, rows, values)
    return split @ solution[: split.shape[1]]


def _least_squares(system, wanted, rows, values) -> NDArray:
    """Minimise `||system @ z - wanted||` over `z >= 0` with `rows @ z = values`."""
    size = np.linalg.norm(rows, axis=1)
    weight = _WEIGHT * np.linalg.norm(system) / np.where(size > 0, size, 1.0)
    weighted = np.vstack([system, weight[:, None] * rows])
    aims = np.append(wanted, weight * values)
    rough, _ = nnls(weighted, aims, maxiter=30 * system.shape[1])
    # The weight costs half of the digits, so only the choice of positive variables is
    # taken over, and they are solved for within the plane of the constraints.
    active = rough > 0
    if not active.any():
        return rough
    inverse = np.linalg.pinv(rows[:, active])
    plane = null_space(rows[:, active])
    exact = inverse @ values
    within = system[:, active]
    change = lstsq(within @ plane, wanted - within @ exact)[0]
    solution = np.zeros_like(rough)
    solution[active] = exact + plane @ change
    # A variable close to 0 may have changed its sign, which the rough one has not.
    return solution if (solution >= 0).all() else rough


class Move(NamedTuple):
    """What is done to all predictions of an output: ``f -> gain * f + offset``.

    Attributes
    ----------
    gain : float
        From 0 to 1.
    offset : float
        Unit of y.
    """

    gain: float
    offset: float

    def __call__(self, head: NDArray) -> NDArray:
        """Move a head of shape (d1,), the bias last."""
        moved = self.gain * head
        moved[-1] += self.offset
        return moved


def smallest_shift_into(
    lowest: float, highest: float, bounds: tuple[float, float]
) -> Move:
    """Shift a range of predictions into bounds; only the upper one if it is too wide.

    Parameters
    ----------
    lowest, highest : float
        Unit of y.
    bounds : (float, float)
        Unit of y.

    Returns
    -------
    Move
    """
    least, most = bounds[0] - lowest, bounds[1] - highest
    return Move(1.0, float(np.clip(0.0, least, most)))


def smallest_mix_into(
    lowest: float, highest: float, bounds: tuple[float, float], constant: float
) -> Move:
    """Mix predictions with a constant, as little as puts their range into bounds.

    A mix of a head with a constant one predicts the mix of their predictions. So the
    smallest prediction rises by what is missing for a share of
    ``missing / (constant - lowest)``, the largest falls likewise, and the mean stays
    the same if it is the constant.

    Parameters
    ----------
    lowest, highest : float
        Unit of y.
    bounds : (float, float)
        Unit of y.
    constant : float
        Within the bounds.

    Returns
    -------
    Move
    """
    shares = [0.0]
    if lowest < bounds[0]:
        shares.append((bounds[0] - lowest) / (constant - lowest))
    if highest > bounds[1]:
        shares.append((highest - bounds[1]) / (highest - constant))
    share = max(shares)
    return Move(1 - share, share * constant)
