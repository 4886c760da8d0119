r"""The nearest head that obeys the bound for all features of a box, in closed form.

Where the features are only known to lie in a box, ``low <= h <= high``, a linear head
obeys its bound for all of them exactly if its worst corner does. With the weights split
into ``p - q``, both at least 0, this is one linear constraint,

.. math::

    b + p \cdot low - q \cdot high \ge \ell + m ,

and the nearest head (see `sklpos.repair`) is a non-negative least-squares problem: the
constraint is a heavily weighted row [1]_.

References
----------
.. [1] C. L. Lawson and R. J. Hanson, *Solving Least Squares Problems*, 1974, ch. 22-23.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, lstsq, null_space
from scipy.optimize import nnls

from sklpos.repair.nearest import HeadObjective

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
    required: NDArray,
    balance: bool,
) -> NDArray:
    """Move heads as little as possible so that they obey the bound on a box.

    Parameters
    ----------
    coef : ndarray of shape (n_outputs, d1)
        The heads, in the unit of y.
    objective : HeadObjective
        The distance between heads, and the balance.
    low, high : ndarray of shape (d,)
        The box; a feature that is unbounded on a side gets a weight of the other sign.
    required : ndarray of shape (n_outputs,)
        The bound, unit of y; ``-inf`` leaves an output free of the bound, not of the
        balance.
    balance : bool
        Whether to keep the mean prediction at the mean target, if that is at least
        `required`.

    Returns
    -------
    ndarray of shape (n_outputs, d1)
        Accurate to about 1e-9 of their size; `lifted_head` does the rest. Without a
        bias such a head may not exist: check `worst_case`.
    """
    root = cholesky(objective.metric)
    heads = coef.copy()
    held = worst_case(coef, low, high) >= required
    for j in range(len(coef)):
        target = objective.mean_target[j] if balance else None
        # The mean of what obeys the bound cannot be below it.
        if target is not None and target < required[j]:
            target = None
        if target is not None or not held[j]:
            heads[j] = _solve(coef[j], root, objective, low, high, required[j], target)
    return heads


def _solve(start, root, objective, low, high, required, target) -> NDArray:
    """Non-negative least squares in ``z = (p, q, b+, b-, s)``, ``head = split @ z``.

    s is the slack of the constraint, whose rows have the size of the objective's.
    """
    d = len(low)
    has_bias = len(start) > len(low)
    ends = np.concatenate([low, -high])
    # A weight towards an infinite end must stay 0, so it is no variable.
    usable = np.isfinite(ends)
    split = np.hstack([np.eye(len(start), d), -np.eye(len(start), d)])[:, usable]
    if has_bias:
        # The bias has any sign, so it is a difference of two variables.
        bias = np.eye(len(start))[:, -1:]
        split = np.hstack([split, bias, -bias])
        ends = np.concatenate([ends[usable], [1.0, -1.0]])
    else:
        ends = ends[usable]
    rows = np.empty((0, len(ends) + 1))
    values = np.empty(0)
    if np.isfinite(required):
        rows = np.append(ends, -1.0)[None]
        values = np.append(values, required)
    if target is not None:
        mean = np.append(objective.mean_features @ split, 0.0)
        rows = np.vstack([rows, mean])
        values = np.append(values, target)
    system = np.hstack([root @ split, np.zeros((len(root), 1))])
    solution = _least_squares(system, root @ start, rows, values)
    return split @ solution[:-1]


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


def lifted_head(
    head: NDArray, missing: float, lowest: float, constant: float | None
) -> NDArray:
    """Raise the smallest prediction of a head over any domain.

    A mix of a head with a constant one predicts the mix of their predictions. So the
    smallest prediction rises by `missing` for a share of
    ``missing / (constant - lowest)``, and the mean stays the same if it is the
    constant.

    Parameters
    ----------
    head : ndarray of shape (d1,)
        With the bias last, unless the constant is 0.
    missing : float
        At least 0.
    lowest : float
        The smallest prediction now.
    constant : float or None
        The prediction of the constant head, at least ``lowest + missing``. None: add
        `missing` to the bias.

    Returns
    -------
    ndarray of shape (d1,)
    """
    lifted = head.copy()
    if constant is None:
        lifted[-1] += missing
    elif missing > 0:
        share = missing / (constant - lowest)
        lifted *= 1 - share
        # The constant 0 needs no bias, so a head without one can be lifted to it.
        if constant:
            lifted[-1] += share * constant
    return lifted
