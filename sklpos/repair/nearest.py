r"""The nearest feasible head: a convex quadratic programme, solved exactly.

With the features frozen, a linear head is a linear model, and bounded predictions on
given rows are linear constraints on it. For each output, `nearest_feasible_head` solves

.. math::

    \min_v \; \frac{\sum_i w_i (\Phi_i (v - v_0))^2}{\sum_i w_i}
        + \sum_k \epsilon_k (v - v_0)_k^2
    \quad \text{s.t.} \quad \ell + m \le \Phi_i v \le u - m \;\; \forall i,
    \quad \bar\Phi v = \bar y ,

the last line being the optional *balance property* [3]_, and :math:`\epsilon_k` a
small part of the variance of feature k (`HeadObjective.metric`). In coordinates where
the objective is a squared length this is the least-distance problem of [1]_, whose dual
is a non-negative least-squares problem; only rows that were violated enter it (cutting
planes), so the cost depends little on the number of rows, and each round starts from
the active rows of the last (`LeastDistance`). For networks this is the
*provable point repair* of [2]_, restricted to the last layer.

References
----------
.. [1] C. L. Lawson and R. J. Hanson, *Solving Least Squares Problems*, 1974, ch. 23.
.. [2] M. Sotoudeh and A. V. Thakur, "Provable repair of deep neural networks",
   PLDI 2021. :doi:`10.1145/3453483.3454064`
.. [3] M. V. Wüthrich, "The balance property in neural network modelling",
   Statistical Theory and Related Fields, 2021. :doi:`10.1080/24754269.2021.1877960`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cholesky, solve_triangular

from sklpos.nets.bounds import Bounds
from sklpos.nets.chunks import Chunk, screened
from sklpos.repair.objective import HeadObjective
from sklpos.repair.programme import HeadProgramme

Rows = Callable[[], Iterable[Chunk]]


@dataclass(frozen=True, eq=False, repr=False)
class HeadRepair:
    """The repaired head and the proof that it is the nearest one.

    Attributes
    ----------
    coef : ndarray of shape (n_outputs, d1)
        The head, in the unit of y; unchanged for an output that is not feasible.
    cuts : tuple of n_outputs integer arrays
        The rows that hold the output up or down (those with a multiplier). A negative
        number `i` is the row `kept[i]` of the rows given as `kept`.
    multipliers : tuple of n_outputs float arrays
        Multipliers `lambda` of these rows, positive at a lower bound and negative at an
        upper one, unit of y, mean convention: the gradient
        `2 metric (v - v0)` equals `sum_i lambda_i (w_i / sum w) Phi_i`, plus
        a multiple of the mean features where the output is balanced.
    feasible : boolean ndarray of shape (n_outputs,)
        Whether the output respects its bounds on all rows.
    balanced : boolean ndarray of shape (n_outputs,)
        Whether the mean prediction equals the mean target.
    nearest : boolean ndarray of shape (n_outputs,)
        Whether the head is the nearest one. If not, it is a last resort, without cuts:
        a mix with a constant head, or the zero head where there is no bias.
    smallest_violation : ndarray of shape (n_outputs,)
        Smallest largest violation that a head can reach, unit of y; 0 where feasible.
    cost : ndarray of shape (n_outputs,)
        Weighted mean squared change of the predictions, unit of y squared.
    n_rounds : int
        Number of passes over the rows.
    kept : ndarray of shape (m, d1)
        Features to give as `kept` to a later repair: those of this one, and the cuts.
    """

    coef: NDArray
    cuts: tuple[NDArray, ...]
    multipliers: tuple[NDArray, ...]
    feasible: NDArray
    balanced: NDArray
    nearest: NDArray
    smallest_violation: NDArray
    cost: NDArray
    n_rounds: int
    kept: NDArray

    def __repr__(self) -> str:
        """One line per output."""
        lines = [f"HeadRepair({len(self.coef)} outputs, {self.n_rounds} rounds)"]
        lines += [f"  output {j}: {self._outcome(j)}" for j in range(len(self.coef))]
        return "\n".join(lines)

    def _outcome(self, j: int) -> str:
        if not self.feasible[j]:
            return f"no feasible head, violation >= {self.smallest_violation[j]:.3g}"
        balance = "balanced" if self.balanced[j] else "not balanced"
        change = f"root mean squared change {np.sqrt(self.cost[j]):.3g}"
        return f"{len(self.cuts[j])} cuts, {change}, {balance}"


def nearest_feasible_head(
    coef: ArrayLike,
    objective: HeadObjective,
    rows: Rows,
    *,
    lower_bound: ArrayLike | None,
    upper_bound: ArrayLike | None = None,
    margin: ArrayLike,
    scale: ArrayLike,
    balance: bool = True,
    weights: ArrayLike | None = None,
    kept: NDArray | None = None,
) -> HeadRepair:
    """Move a head as little as possible so that no row is predicted out of bounds.

    Parameters
    ----------
    coef : array-like of shape (n_outputs, d1)
        The head in the unit of y, its bias last.
    objective : HeadObjective
        The distance between heads, and the balance.
    rows : callable returning an iterable of float64 ndarray of shape (b, d1)
        The features to hold the bounds on, in row order. Called once per round.
    lower_bound, upper_bound : float, array-like of shape (n_outputs,) or None
        Unit of y. An infinite bound leaves an output free of it, not of the balance.
    margin : array-like of shape (n_outputs,)
        Distance kept from the bounds, `2e-10 * scale` of which the solver may use up:
        at least `1e-9 * scale`, or the rounding error of the prediction. Where the
        bounds are closer than two margins, the head is constant.
    scale : array-like of shape (n_outputs,)
        Unit of each output. All tolerances are relative to it.
    balance : bool, default=True
        Whether to keep the mean prediction at the mean target. Dropped for an output
        for which no feasible head can, see `HeadRepair.balanced`.
    weights : array-like of shape (n_samples,), optional
        Positive weights of `rows`, used for the unit of the multipliers only.
    kept : ndarray of shape (m, d1), optional
        Features of more rows to hold the bounds on, as `HeadRepair.kept`. Each counts
        with the mean weight.

    Returns
    -------
    HeadRepair

    Notes
    -----
    With a bias there is always a feasible head. Without one, bounds that admit 0 leave
    the zero head as a last resort, and others may be out of reach.
    """
    coef = np.asarray(coef, dtype=np.float64)
    kept = np.empty((0, coef.shape[1])) if kept is None else kept
    bounds = Bounds.read(lower_bound, upper_bound, len(coef))
    margin, scale = (
        np.broadcast_to(np.asarray(value, dtype=np.float64), len(coef))
        for value in (margin, scale)
    )
    sides = bounds.scaled(0.0, scale)
    use_target = balance and objective.mean_target is not None
    whitener = _whitener(objective.metric)
    programmes = [
        HeadProgramme(
            coef[j] / scale[j],
            objective,
            whitener,
            bounds=(sides.lower[j], sides.upper[j]),
            margin=margin[j] / scale[j],
            target=objective.mean_target[j] / scale[j] if use_target else None,
        )
        for j in range(len(coef))
    ]
    n_rounds = 0
    pending = programmes
    while pending:
        n_rounds += 1
        # One pass serves all outputs: the features are what is expensive.
        n_rows = _offer_rows(pending, chain([kept], rows()), first=-len(kept))
        pending = [programme for programme in pending if not programme.advance()]
    weights = np.broadcast_to(1.0, n_rows) if weights is None else np.asarray(weights)
    share = _share_of(weights)
    repaired = _in_unit_of_y(programmes, coef, objective, scale, share, kept, n_rounds)
    return replace(repaired, coef=_exact_constants(repaired.coef, objective, bounds))


def _exact_constants(coef: NDArray, objective, bounds: Bounds) -> NDArray:
    """Undo the rounding of heads that are constant, which need no margin."""
    if not objective.has_bias:
        return coef
    constant = ~coef[:, :-1].any(axis=1)
    coef = coef.copy()
    coef[constant, -1] = bounds.clip(coef[:, -1])[constant]
    return coef


def _whitener(metric: NDArray) -> NDArray:
    """Matrix of `u -> v - v0` that makes the objective the squared length of `u`."""
    return solve_triangular(cholesky(metric), np.eye(len(metric)))


def _offer_rows(programmes, chunks, first):
    """Show all rows to all programmes in one pass, and count them."""
    heads = np.array([programme.head for programme in programmes])
    lower, upper = np.array([programme.limits for programme in programmes]).T
    for chunk in chunks:
        rows, features, predictions = screened(chunk, heads, lower, upper)
        for programme, prediction in zip(programmes, predictions.T, strict=True):
            programme.offer(first + rows, features, prediction)
        first += len(chunk)
    return first


def _share_of(weights: NDArray) -> Callable[[NDArray], NDArray]:
    """Shares of rows in the sum of the weights, by their numbers."""
    total = weights.sum()
    # Negative numbers are kept rows, which have the mean weight.
    return lambda rows: np.where(
        rows < 0, 1 / len(weights), weights[np.maximum(rows, 0)] / total
    )


def _in_unit_of_y(programmes, coef, objective, scale, share, kept, n_rounds):
    start = np.array([p.start for p in programmes])
    head = np.array([p.head if p.feasible else p.start for p in programmes])
    change = (head - start) * scale[:, None]
    cuts, values, features = zip(*(p.active for p in programmes), strict=True)
    return HeadRepair(
        # The scale must not round what has not changed.
        coef=np.where(head == start, coef, head * scale[:, None]),
        cuts=cuts,
        multipliers=tuple(
            unit * value / share(cut)
            for unit, value, cut in zip(scale, values, cuts, strict=True)
        ),
        feasible=np.array([p.feasible for p in programmes]),
        balanced=np.array([p.balanced for p in programmes]),
        nearest=np.array([p.nearest for p in programmes]),
        smallest_violation=scale * [p.smallest_violation for p in programmes],
        cost=objective.mean_square(change),
        n_rounds=n_rounds,
        kept=np.unique(np.vstack([kept, *features]), axis=0),
    )
