"""What a repair of the head did: a summary and warnings for the user."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sklpos.nets.warnings import warn_user
from sklpos.repair.nearest import HeadRepair

# Deviations of y that a repair may add to the root mean squared error; and those that
# it may add if it also multiplies the error, which matters more for an accurate model.
_MAX_ERROR_GROWTH = 0.25
_MAX_GROWTH_OF_SMALL_ERROR = 0.01
_MAX_ERROR_RATIO = 2.0
# Deviations of y that a repair may move predictions by, where their error has another
# measure.
_MAX_CHANGE = 0.5


@dataclass(frozen=True, eq=False)
class Repair:
    """What the repair of the head did.

    Attributes
    ----------
    multipliers_ : ndarray of shape (n_samples, n_outputs)
        Multipliers of the head's quadratic programme, positive at a lower bound and
        negative at an upper one, unit of y, mean convention; 0 after a repair on a
        domain and after a shift of the bias.
    n_cuts_ : ndarray of shape (n_outputs,)
        Rows that hold the head up or down, earlier cuts included; counterexamples of a
        domain.
    feasible_ : ndarray of bool of shape (n_outputs,)
        False if no head obeys the bounds; the output is then left as trained.
    balanced_ : ndarray of bool of shape (n_outputs,)
        Whether the mean prediction equals the mean target.
    smallest_violation_ : ndarray of shape (n_outputs,)
        Smallest largest violation any head can reach, unit of y; 0 where feasible.
    cost_ : ndarray of shape (n_outputs,)
        Mean squared change of the predictions, unit of y squared.
    margin_ : ndarray of shape (n_outputs,)
        Distance kept from the bounds against rounding, unit of y.
    promise_ : str
        The inputs for which every prediction obeys the bounds, in words. Applies to
        outputs with a feasible head.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones(1)
    >>> yes, small = one > 0, 1e-9 * one
    >>> Repair(0 * one, one, yes, yes, 0 * one, 0 * one, small, "a row").n_cuts_
    array([1.])
    """

    # One number per row, most of them 0, would hide the rest.
    multipliers_: np.ndarray = field(repr=False)
    n_cuts_: np.ndarray
    feasible_: np.ndarray
    balanced_: np.ndarray
    smallest_violation_: np.ndarray
    cost_: np.ndarray
    margin_: np.ndarray
    promise_: str

    def __repr__(self) -> str:
        """In a few lines, however many outputs there are."""
        infeasible = np.count_nonzero(~self.feasible_)
        lines = [
            f"Repair: {self.promise_}",
            f"  root mean square change {shortened(np.sqrt(self.cost_))}",
            f"  rows that hold it {shortened(self.n_cuts_)}",
        ]
        if infeasible:
            lines.append(f"  no head obeys the bounds of {infeasible} outputs")
        return "\n".join(lines)


def shortened(values: np.ndarray) -> str:
    """Numbers to four digits, as many as a line has room for.

    Parameters
    ----------
    values : ndarray of shape (n_outputs,)

    Returns
    -------
    str
    """
    shown = ", ".join(f"{value:.4g}" for value in values[:8])
    return f"{shown}{', ...' if len(values) > 8 else ''}"


def summarise(repair: HeadRepair, margin, rows, n_samples: int, promise: str) -> Repair:
    """Spread a repair's multipliers over all samples.

    Parameters
    ----------
    repair : HeadRepair
    margin : ndarray of shape (n_outputs,)
    rows : ndarray of shape (n_rows,) or Ellipsis
        Index that finds the rows that were repaired among all samples.
    n_samples : int
    promise : str

    Returns
    -------
    Repair
    """
    multipliers = np.zeros((n_samples, len(repair.coef)))
    numbers = np.arange(n_samples)[rows]
    for j, (cuts, values) in enumerate(
        zip(repair.cuts, repair.multipliers, strict=True)
    ):
        # Negative numbers are rows of earlier repairs, which are no samples here.
        multipliers[numbers[cuts[cuts >= 0]], j] = values[cuts >= 0]
    return Repair(
        multipliers_=multipliers,
        n_cuts_=np.array([len(cuts) for cuts in repair.cuts]),
        feasible_=repair.feasible,
        balanced_=repair.balanced,
        smallest_violation_=repair.smallest_violation,
        cost_=repair.cost,
        margin_=margin,
        promise_=promise,
    )


def summarise_change(
    cost: np.ndarray,
    balanced: np.ndarray,
    margin: np.ndarray,
    n_samples: int,
    n_cuts,
    promise: str,
) -> Repair:
    """Summarise a repair that is not the solution of a quadratic programme.

    Parameters
    ----------
    cost, balanced, margin : ndarray of shape (n_outputs,)
    n_samples : int
    n_cuts : int
    promise : str

    Returns
    -------
    Repair
        All multipliers are 0.
    """
    return Repair(
        multipliers_=np.zeros((n_samples, len(cost))),
        n_cuts_=np.full(len(cost), n_cuts),
        feasible_=np.ones(len(cost), dtype=bool),
        balanced_=balanced,
        smallest_violation_=np.zeros(len(cost)),
        cost_=cost,
        margin_=margin,
        promise_=promise,
    )


def warn_of_limits(repair: HeadRepair, *, balance: bool) -> None:
    """Warn of outputs without a feasible or nearest head, and of dropped balance."""
    for output in np.flatnonzero(~repair.feasible):
        warn_user(
            f"no head without bias obeys the bounds of output {output}: the smallest "
            f"achievable violation is {repair.smallest_violation[output]:.6g}; the "
            "output is left as trained. Give the head a bias or widen the bounds.",
        )
    makeshift = np.flatnonzero(repair.feasible & ~repair.nearest)
    if len(makeshift):
        warn_user(
            f"the nearest head of outputs {makeshift.tolist()} was lost to rounding, "
            "and a flatter one that obeys the bounds was taken; standardise X.",
        )
    if balance:
        warn_of_lost_balance(repair.balanced | ~repair.feasible)


def warn_of_lost_balance(balanced: np.ndarray) -> None:
    """Warn of outputs whose mean prediction could not be kept at the mean of y."""
    dropped = np.flatnonzero(~balanced)
    if len(dropped):
        warn_user(
            f"balance was dropped for outputs {dropped.tolist()}: no feasible head has "
            "the mean of y as its mean prediction (is that mean out of bounds?).",
        )


def warn_of_change(change: np.ndarray, scale: np.ndarray, *, why: str) -> None:
    """Warn if a repair moved the training predictions far.

    Parameters
    ----------
    change : ndarray of shape (n_outputs,)
        Root mean square change, unit of y.
    scale : ndarray of shape (n_outputs,)
        Standard deviations of y.
    why : str
        The end of the sentence: what moved them, and what costs less.
    """
    far = np.flatnonzero(change > _MAX_CHANGE * scale)
    if len(far):
        j = far[0]
        warn_user(
            f"the repair moved the training predictions of output {j} by "
            f"{change[j]:.3g} (root mean square), because {why}.",
        )


def warn_of_error(
    before: np.ndarray, after: np.ndarray, scale: np.ndarray, *, why: str
) -> None:
    """Warn if a repair made the training error much larger.

    Parameters
    ----------
    before, after : ndarray of shape (n_outputs,)
        Root mean squared errors on the training rows.
    scale : ndarray of shape (n_outputs,)
        Standard deviations of y.
    why : str
        The end of the sentence: what raised it, and what costs less.
    """
    growth = (after - before) / scale
    multiplied = after > _MAX_ERROR_RATIO * before
    costly = (growth > _MAX_ERROR_GROWTH) | (
        multiplied & (growth > _MAX_GROWTH_OF_SMALL_ERROR)
    )
    worse = np.flatnonzero(costly)
    if len(worse):
        j = worse[0]
        warn_user(
            f"the repair raised the training error of output {j} from {before[j]:.3g} "
            f"to {after[j]:.3g} (root mean square), because {why}.",
        )
