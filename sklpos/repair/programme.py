"""The quadratic programme of one output of a head, solved by cutting planes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from sklpos.repair.least_distance import NOISE, REACH, LeastDistance

# More cuts per round mean fewer passes over the rows, but more cuts in the end.
CUTS_PER_ROUND = 64
# Accepted violation in scales, below the smallest margin of 1e-9 scales. Predictions
# far from 0 are less accurate.
TOLERANCE = 2e-10
# The same for the solution of a linear programme, which is far less accurate.
LINPROG_TOLERANCE = 1e-6


class Outcome(Enum):
    """What kind of head a stage finds."""

    NEAREST = "the nearest feasible head"
    FEASIBLE = "a feasible head, as a last resort"
    INFEASIBLE = "the head with the least violation, as none is feasible"


@dataclass(frozen=True)
class Stage:
    """One way to find a head for the present cuts.

    Attributes
    ----------
    find : callable
        Takes the target; returns a head, or None if it finds none.
    target : float or None
        Mean prediction to keep, in scales; None gives up the balance.
    outcome : Outcome
    """

    find: Callable[[float | None], NDArray | None]
    target: float | None
    outcome: Outcome


class HeadProgramme:
    """The quadratic programme of one output, in units of its scale.

    `stages` are the ways to find a head, best first. A stage that finds none, or misses
    its own cuts by rounding, gives way to the next. A cut is
    ``pushes @ head >= needed``: a row pushes by its features against a lower bound, and
    by minus its features against an upper one.
    """

    def __init__(self, start, objective, whitener, *, bounds, margin, target):
        self.start = start
        self.head = start
        self.mean_features = objective.mean_features
        self.whitener = whitener
        lower, upper = bounds
        # Bounds closer than two margins leave the number in their middle.
        self.margin = min(margin, (upper - lower) / 2)
        self.required = lower + self.margin, upper - self.margin
        # Far from 0, predictions round by more; a bound beyond all is no reason.
        finite = [abs(side) for side in self.required if np.isfinite(side)]
        rounding = 8 * np.finfo(np.float64).eps * max(finite, default=0.0)
        self.tolerance = max(TOLERANCE, min(rounding, self.margin / 2))
        # How far outside of `required` a last resort may stay.
        self.allowance = 0.0
        self.rows, self.signs = np.empty(0, int), np.empty(0)
        self.pushes = np.empty((0, len(start)))
        self.offers = np.empty(0), self.rows, self.signs, self.pushes
        # One per target: the cuts grow, and each solution starts from the last.
        self.problems: dict[float | None, LeastDistance] = {}
        self.stages = self._stages(objective.has_bias, target, bounds)
        self._solve()

    def _stages(self, has_bias, target, bounds) -> list[Stage]:
        lower, upper = bounds
        # A mean out of bounds is out of reach. One inside the margin, as of a constant
        # y at a bound, moves by less than the margin.
        if target is not None:
            within = lower <= target <= upper
            target = float(np.clip(target, *self.required)) if within else None
        if has_bias and self.margin == (upper - lower) / 2:
            return [Stage(self._constant, target, Outcome.NEAREST)]
        nearest = Stage(self._nearest, target, Outcome.NEAREST)
        # With a bias, a constant head is always feasible.
        if has_bias:
            return [
                nearest,
                Stage(self._towards_constant, target, Outcome.FEASIBLE),
                Stage(self._constant, target, Outcome.FEASIBLE),
            ]
        stages = [nearest]
        if target is not None:
            stages.append(Stage(self._nearest, None, Outcome.NEAREST))
        # Without a bias, the only constant head is 0.
        if lower <= 0 <= upper:
            return [*stages, Stage(self._zero, None, Outcome.FEASIBLE)]
        return [*stages, Stage(self._least_violation, None, Outcome.INFEASIBLE)]

    @property
    def outcome(self) -> Outcome:
        """What the present head is."""
        return self.stages[0].outcome if self.stages else Outcome.INFEASIBLE

    @property
    def feasible(self) -> bool:
        """Whether the head obeys the bounds."""
        return self.outcome is not Outcome.INFEASIBLE

    @property
    def nearest(self) -> bool:
        """Whether the head is the nearest feasible one."""
        return self.outcome is Outcome.NEAREST

    @property
    def balanced(self) -> bool:
        """Whether the mean prediction is the mean target."""
        return self.feasible and self.stages[0].target is not None

    @property
    def smallest_violation(self) -> float:
        """Smallest largest violation a head can reach; 0 if one is feasible."""
        return 0.0 if self.feasible else max(self.allowance - self.margin, 0.0)

    @property
    def limits(self) -> tuple[float, float]:
        """Predictions between these are of no interest to `offer`."""
        lower, upper = self.required
        # Rounding must not hide a row.
        least = (1 - 1e-9) * (self.allowance + self.tolerance)
        return lower - least, upper + least

    def offer(self, rows: NDArray, features: NDArray, prediction: NDArray) -> None:
        """Remember the worst violated ones of some rows, which are in order."""
        lower, upper = self.required
        below, above = lower - prediction, prediction - upper
        violation = np.maximum(below, above) - self.allowance
        worst = np.flatnonzero(violation > self.tolerance)
        # Features that are all zero give exactly 0: no rounding, hence no margin.
        zero = ~features[worst].any(axis=1)
        worst = worst[violation[worst] - zero * self.margin > self.tolerance]
        sign = np.where(below[worst] >= above[worst], 1.0, -1.0)
        pushes = sign[:, None] * features[worst]
        chunk = violation[worst], rows[worst], sign, pushes
        merged = [np.concatenate(pair) for pair in zip(self.offers, chunk, strict=True)]
        # Ties go to the lower row number, so that the chunks have no influence.
        order = np.lexsort((merged[1], -merged[0]))[:CUTS_PER_ROUND]
        self.offers = tuple(part[order] for part in merged)

    def advance(self) -> bool:
        """Cut off the offered rows and solve again; True if there is nothing to do."""
        _, rows, signs, pushes = self.offers
        if not rows.size:
            return True
        self.offers = tuple(part[:0] for part in self.offers)
        # A row may be cut once on each side.
        new = ~np.isin(2 * rows + (signs > 0), 2 * self.rows + (self.signs > 0))
        # Only known cuts are violated: the stage misses them by rounding.
        if not new.any():
            self.stages.pop(0)
        self.rows = np.append(self.rows, rows[new])
        self.signs = np.append(self.signs, signs[new])
        self.pushes = np.vstack([self.pushes, pushes[new]])
        self._solve()
        return not self.stages

    def _solve(self) -> None:
        self.multipliers = np.zeros(len(self.rows))
        while self.stages:
            stage = self.stages[0]
            head = stage.find(stage.target)
            if head is not None:
                self.head = head
                return
            self.stages.pop(0)

    @property
    def needed(self) -> NDArray:
        """Right-hand sides of the cuts."""
        lower, upper = self.required
        return np.where(self.signs > 0, lower, -upper)

    @property
    def active(self) -> tuple[NDArray, NDArray, NDArray]:
        """Rows, signed multipliers and features of the cuts with a multiplier."""
        active = self.multipliers > 0
        signs = self.signs[active]
        features = signs[:, None] * self.pushes[active]
        return self.rows[active], signs * self.multipliers[active], features

    def _nearest(self, target):
        """Nearest head: a least distance, in the plane of the balance if any."""
        problem = self.problems.setdefault(target, LeastDistance(len(self.start)))
        rows = self.pushes[len(problem) :] @ self.whitener
        needed = self.needed - self.pushes @ self.start
        shift = np.zeros(len(self.start))
        if target is not None:
            normal = self.mean_features @ self.whitener
            length = np.linalg.norm(normal)
            # Few heads change the mean, so the one that does is far away.
            if length * REACH < 1:
                return None
            missing = target - self.mean_features @ self.start
            # Not over length**2, which may underflow.
            shift = normal / length * (missing / length)
            # Move onto the plane of the balance first, then only within it.
            needed = needed - self.pushes @ (self.whitener @ shift)
            rows = _project_out(rows, normal / length)
        problem.add(rows)
        solution = problem.solve(needed)
        if solution is None:
            return None
        change, self.multipliers = solution
        return self.start + self.whitener @ (shift + change)

    def _towards_constant(self, target):
        """With a bias: the least mix of the present head with a constant one."""
        direction = self._constant(target) - self.head
        missing = self.needed - self.pushes @ self.head
        short = missing > 0
        step = missing[short] / (self.pushes[short] @ direction)
        return self.head + step.max(initial=0.0) * direction

    def _constant(self, target):
        """With a bias: the mean target, or clearly within the bounds."""
        if target is None:
            lower, upper = self.required
            # The present mean, but a scale inside, so that steps towards it are finite.
            inside = min(1.0, (upper - lower) / 2)
            mean = self.mean_features @ self.start
            target = float(np.clip(mean, lower + inside, upper - inside))
        return np.append(np.zeros(len(self.start) - 1), target)

    def _zero(self, _):
        """Without a bias, with 0 in bounds: exactly 0, which needs no margin."""
        self.allowance = self.margin
        return np.zeros(len(self.start))

    def _least_violation(self, _):
        """No head is feasible: least largest violation, by linear programming."""
        rows = self.pushes @ self.whitener
        needed = self.needed - self.pushes @ self.start
        # The last variable is the largest violation.
        n_variables = len(self.start) + 1
        # Bounded, because along collinear features heads could grow without limit.
        reach = REACH * np.abs(needed).max()
        result = linprog(
            np.arange(n_variables) == n_variables - 1,
            A_ub=-np.column_stack([rows, np.ones(len(rows))]),
            b_ub=-needed,
            bounds=[(-reach, reach)] * len(self.start) + [(0, None)],
        )
        if not result.success:
            return None
        self.allowance = result.x[-1]
        self.tolerance = LINPROG_TOLERANCE
        return self.start + self.whitener @ result.x[:-1]


def _project_out(rows: NDArray, direction: NDArray) -> NDArray:
    """Rows without their part along a unit vector; exactly 0 where nothing is left."""
    along = rows @ direction
    rest = rows - np.outer(along, direction)
    # A unit length would blow up the rounding that is left of a parallel row.
    rest[np.linalg.norm(rest, axis=1) < NOISE * np.abs(along)] = 0.0
    return rest
