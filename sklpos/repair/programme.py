"""The quadratic programme of one output of a head, solved by cutting planes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog, nnls

CUTS_PER_ROUND = 64
# In units of the scale: an accepted violation, and that of a linear programme.
TOLERANCE = 2e-10
LINPROG_TOLERANCE = 1e-6
# Relative: a direction of less is rounding noise; a head that is farther away would
# live on the rounding noise of collinear features.
NOISE = 1e-12
REACH = 1e4


class HeadProgramme:
    """The quadratic programme of one output, in units of its scale.

    `stages` are the ways to find a head for the present cuts, best first, each with the
    target of the balance or None. One that finds none, or misses its own cuts by
    rounding, gives way to the next.
    """

    def __init__(self, start, objective, whitener, *, lower_bound, margin, target):
        self.start, self.head = start, start
        self.mean_features, self.whitener = objective.mean_features, whitener
        self.margin, self.tolerance = margin, TOLERANCE
        self.required = lower_bound + margin
        self.allowance = 0.0  # how far below `required` a last resort may stay
        self.rows, self.features = np.empty(0, int), np.empty((0, len(start)))
        self.offers = np.empty(0), self.rows, self.features
        self.stages = self._stages(objective.has_bias, target, lower_bound)
        self._solve()

    def _stages(self, has_bias, target, lower_bound):
        if target is not None and target < self.required:
            within = target >= lower_bound  # y constant at the bound, say
            target = self.required if within else None
        if has_bias:
            stages = self._nearest, self._towards_constant, self._constant
            return [(stage, target) for stage in stages]
        last = self._zero if lower_bound <= 0 else self._least_violation
        targets = dict.fromkeys([target, None])
        return [*((self._nearest, target) for target in targets), (last, None)]

    @property
    def feasible(self) -> bool:
        """Whether the head obeys the bound."""
        return bool(self.stages) and self.stages[0][0] != self._least_violation

    @property
    def nearest(self) -> bool:
        """Whether the head is the nearest feasible one."""
        return self.feasible and self.stages[0][0] == self._nearest

    @property
    def balanced(self) -> bool:
        """Whether the mean prediction is the mean target."""
        return self.feasible and self.stages[0][1] is not None

    @property
    def smallest_violation(self) -> float:
        """Smallest largest violation a head can reach; 0 if one is feasible."""
        return 0.0 if self.feasible else max(self.allowance - self.margin, 0.0)

    def offer(self, first: int, features: NDArray, prediction: NDArray) -> None:
        """Remember the worst violated rows of a chunk that starts at row `first`."""
        violation = self.required - self.allowance - prediction
        worst = np.flatnonzero(violation > self.tolerance)
        # Features that are all zero give exactly 0: no rounding, hence no margin.
        zero = ~features[worst].any(axis=1)
        worst = worst[violation[worst] - zero * self.margin > self.tolerance]
        chunk = violation[worst], first + worst, features[worst]
        merged = [np.concatenate(pair) for pair in zip(self.offers, chunk, strict=True)]
        order = np.lexsort((merged[1], -merged[0]))[:CUTS_PER_ROUND]
        self.offers = tuple(part[order] for part in merged)

    def advance(self) -> bool:
        """Cut off the offered rows and solve again; True if there is nothing to do."""
        _, rows, features = self.offers
        if not rows.size:
            return True
        self.offers = tuple(part[:0] for part in self.offers)
        new = ~np.isin(rows, self.rows)
        if not new.any():  # the stage misses its own cuts
            self.stages.pop(0)
        self.rows = np.append(self.rows, rows[new])
        self.features = np.vstack([self.features, features[new]])
        self._solve()
        return not self.stages

    def _solve(self) -> None:
        self.multipliers = np.zeros(len(self.rows))
        while self.stages:
            stage, target = self.stages[0]
            head = stage(target)
            if head is not None:
                self.head = head
                return
            self.stages.pop(0)

    def _whitened_cuts(self):
        needed = self.required - self.features @ self.start
        return self.features @ self.whitener, needed

    def _nearest(self, target):
        """Nearest head: a least distance, in the plane of the balance if any."""
        rows, needed = self._whitened_cuts()
        shift = np.zeros(len(self.start))
        if target is not None:
            normal = self.mean_features @ self.whitener
            length = np.linalg.norm(normal)
            if length * REACH < 1:
                return None
            missing = target - self.mean_features @ self.start
            shift = normal / length * (missing / length)
            needed = needed - rows @ shift
            rows = _project_out(rows, normal / length)
        solution = _least_distance(rows, needed)
        if solution is None:
            return None
        change, self.multipliers = solution
        return self.start + self.whitener @ (shift + change)

    def _towards_constant(self, target):
        """With a bias: the least mix of the present head with a constant one."""
        direction = self._constant(target) - self.head
        missing = self.required - self.features @ self.head
        short = missing > 0
        step = missing[short] / (self.features[short] @ direction)
        return self.head + step.max(initial=0.0) * direction

    def _constant(self, target):
        """With a bias: the mean target, or clearly above the bound."""
        if target is None:
            target = 1.0 + max(self.required, self.mean_features @ self.start)
        return np.append(np.zeros(len(self.start) - 1), target)

    def _zero(self, _):
        """Without a bias, bound at most 0: exactly 0, which needs no margin."""
        self.allowance = self.margin
        return np.zeros(len(self.start))

    def _least_violation(self, _):
        """No head is feasible: least largest violation, by linear programming."""
        rows, needed = self._whitened_cuts()
        n_variables, reach = len(self.start) + 1, REACH * np.abs(needed).max()
        result = linprog(
            np.arange(n_variables) == n_variables - 1,
            A_ub=-np.column_stack([rows, np.ones(len(rows))]),
            b_ub=-needed,
            bounds=[(-reach, reach)] * len(self.start) + [(0, None)],
        )
        if not result.success:
            return None
        self.allowance, self.tolerance = result.x[-1], LINPROG_TOLERANCE
        return self.start + self.whitener @ result.x[:-1]


def _project_out(rows: NDArray, direction: NDArray) -> NDArray:
    """Rows without their part along a unit vector; exactly 0 where nothing is left."""
    along = rows @ direction
    rest = rows - np.outer(along, direction)
    rest[np.linalg.norm(rest, axis=1) < NOISE * np.abs(along)] = 0.0
    return rest


def _least_distance(rows: NDArray, needed: NDArray) -> tuple[NDArray, NDArray] | None:
    """Minimise `||u||**2` subject to `rows @ u >= needed`.

    Returns `u` and multipliers with `2 u = rows.T @ multipliers`, or None if there is
    no such `u` within reach. With `E = [rows, needed].T` and `f = (0, ..., 0, 1)`, the
    residual `r = E x - f` of non-negative least squares gives `u = -r[:-1] / r[-1]`
    (Lawson and Hanson 1974, algorithm LDP).
    """
    multipliers = np.zeros(len(rows))
    if not (needed > 0).any():
        return np.zeros(rows.shape[1]), multipliers
    norms = np.linalg.norm(rows, axis=1)
    norms[norms == 0] = 1.0
    rows, needed = rows / norms[:, None], needed / norms
    system = np.vstack([rows.T, needed / needed.max()])
    unit_vector = np.append(np.zeros(rows.shape[1]), 1.0)
    try:
        x, residual = nnls(system, unit_vector, maxiter=30 * len(rows))
    except RuntimeError:
        return None
    if residual * REACH < 1:
        return None
    # nnls names the active rows; meet them to machine precision.
    active = x > 0
    inverse = np.linalg.pinv(rows[active], rcond=NOISE)
    change = inverse @ needed[active]
    multipliers[active] = 2 * (change @ inverse) / norms[active]
    return change, multipliers
