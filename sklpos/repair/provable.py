"""Provable repair: the nearest head found that obeys its bounds on a whole domain."""

from __future__ import annotations

import time
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sklpos.certificates.domains.shapes import All, Domain
from sklpos.certificates.proof import Proof
from sklpos.nets.bounded import BoundedModel
from sklpos.nets.head import read_head, write_head
from sklpos.repair.domain_task import DomainTask, ProvableHead
from sklpos.repair.nearest import HeadRepair, nearest_feasible_head
from sklpos.repair.objective import HeadObjective
from sklpos.repair.robust import nearest_robust_head, worst_case

_ATTEMPTS = 8
# Accuracy in scales of the extreme predictions that a shift of the bias relies on.
_SHIFT_TOLERANCE = 1e-3
# Distance from the bounds in scales; without it a complete method may not end.
_SEARCH_MARGIN = 1e-2
# The verifier first works for this fraction of the time limit.
_N_SLICES = 30
# The search ends at a cost this close to the smallest one possible.
_MAX_COST_RATIO = 1.05
# By what is adjusted: why nothing was proved, and what would be.
_UNPROVED = {
    "head": (
        "no head was proved to obey the bounds on the domain: a head without bias may "
        "have none, or X and y are too large; give it a bias, widen the bounds, or "
        "standardise X."
    ),
    "bias": (
        "no shift of the bias was proved to keep the predictions within the bounds on "
        "the domain: their range may be too wide, the head may have no bias, or X and "
        "y are too large; use adjust='head', widen the bounds, or standardise X."
    ),
}


class UnprovableError(ValueError):
    """No head was proved to obey the bounds on a domain."""


def repair_on_domain(
    model: BoundedModel,
    domain: Domain,
    objective: HeadObjective | None = None,
    *,
    X: NDArray | None = None,
    kept: NDArray | None = None,
    balance: bool = True,
    adjust: str = "head",
    exchange: bool = True,
    time_limit: float = 10.0,
) -> tuple[nn.Module, ProvableHead]:
    """Copy a module with a head that provably obeys its bounds on a domain.

    Two methods are tried, and the smaller change is kept. *Certified intervals of the
    features* turn each bound into one linear constraint on the head; the nearest such
    head is found in milliseconds, and always exists if there is a bias. The *exchange
    method* [1]_ stays nearer: the nearest head for some points of the domain is given
    to the complete verifier, whose counterexamples become points of the next round,
    until there are none. If the time is up before all is proved, a mix with a constant
    head closes the gap, or the bias if there is neither a balance nor a second bound.
    For networks this is
    *provable polytope repair* [2]_, restricted to the last layer.

    Parameters
    ----------
    model : BoundedModel
        With a known head.
    domain : Domain
    objective : HeadObjective, optional
        Of the training rows; by default that of X or a sample of the domain, without
        balance.
    X : ndarray of shape (n_samples, n_features), optional
        Rows to hold the bounds on as well, behind the steps before the module.
    kept : ndarray of shape (n_kept, d1), optional
        Features of further rows.
    balance : bool, default=True
        Keep the mean prediction at the mean target, where that is within the bounds.
    adjust : {"head", "bias"}, default="head"
        "bias" adds to the bias alone what a complete method finds to be missing.
    exchange : bool, default=True
        Whether to try the exchange method as well.
    time_limit : float, default=10.0
        Seconds.

    Returns
    -------
    module : nn.Module
    found : ProvableHead

    Raises
    ------
    ValueError
        If a layer is not understood.
    UnprovableError
        If no head is proved, as may happen without a bias or on an infinite domain.

    References
    ----------
    .. [1] E. W. Cheney, A. A. Goldstein (1959), "Newton's method for convex
       programming and Tchebycheff approximation", doi:10.1007/BF01386389.
    .. [2] M. Sotoudeh, A. V. Thakur (2021), "Provable repair of deep neural
       networks", doi:10.1145/3453483.3454064.
    """
    deadline = time.monotonic() + time_limit
    by_bias = adjust == "bias"
    task = DomainTask(
        model, domain, objective, X=X, kept=kept, balance=balance, bias_only=by_bias
    )
    if by_bias:
        found = [_by_bias(task, deadline)]
    # An infinite domain has no corners to start from, and cannot be split.
    elif exchange and not isinstance(domain, All):
        found = [_by_intervals(task), _by_exchange(task, deadline)]
    else:
        found = [_by_intervals(task)]
    best = _nearer(task, *found)
    if best is None:
        raise UnprovableError(_UNPROVED[adjust])
    write_head(task.head, best.coef)
    return task.module, best


def _by_intervals(task: DomainTask) -> ProvableHead | None:
    """Take the nearest head for certified intervals of the features."""
    margin = task.margin
    balance = task.balance
    for _ in range(_ATTEMPTS):
        # Features that overflow leave no finite margin.
        if not np.isfinite(margin).all():
            break
        wanted = task.bounds.narrowed(margin)
        coef = nearest_robust_head(
            task.start,
            task.objective,
            *task.features,
            lower_bound=wanted.lower,
            upper_bound=wanted.upper,
            balance=balance and task.objective.mean_target is not None,
        )
        worst = worst_case(np.vstack([coef, -coef]), *task.features)
        coef, _ = task.lift(coef, worst, wanted)
        if not task.can_hold(coef):
            return None
        found = task.finish(task.prove(coef), margin)
        if found is not None:
            return found
        # Rounding to the dtype of the head took more than the margin.
        margin = 4 * margin
        # Without a bias, only the mean may stand in the way of the bounds.
        balance = balance and task.has_bias
    # The zero head is the last resort, and enough for bounds around 0.
    bounded = task.bounds.bounded[:, None]
    return task.finish(task.prove(np.where(bounded, 0.0, task.start)), margin)


def _by_exchange(task: DomainTask, deadline: float) -> ProvableHead | None:
    """Take the nearest head for points of the domain, until none is out of bounds."""
    # Features that overflow leave no finite margin.
    if not np.isfinite(task.margin).all():
        return None
    exchange = _Exchange(task, deadline)
    while exchange.round():
        pass
    return exchange.best


class _Exchange:
    """The exchange method: points of the domain, and the best head proved so far.

    Gradient descent finds most points. The complete verifier finds the others: it works
    in slices of time, which grow when one ends without a point. The nearest head for
    points is nearer than any for the domain, so the search can end when the lifted one
    is little farther away.
    """

    def __init__(self, task: DomainTask, deadline: float):
        corners = task.region.candidates(torch.zeros_like(task.region.low))
        self.task = task
        self.deadline = deadline
        self.margin = task.margin + _SEARCH_MARGIN * task.scale
        self.points = corners.flatten(0, 1).numpy()
        self.n_corners = len(self.points)
        self.n_rounds = 0
        self.slice = max(deadline - time.monotonic(), 0.0) / _N_SLICES
        self.best: ProvableHead | None = None

    def round(self) -> bool:
        """Fit the head to the points and look for more; False if that was the last."""
        task = self.task
        nearest = _nearest_for_points(task, self.points, self.margin)
        if not nearest.feasible.all() or not task.can_hold(nearest.coef):
            return False
        write_head(task.head, nearest.coef)
        # A new seed each round, or the descent would find the same points again.
        wanted = task.bounds.narrowed(self.margin / 2)
        found = task.points_outside(wanted, seed=self.n_rounds)
        now = time.monotonic()
        goes_on = True
        # The verifier is slow: it only sees heads that gradient descent cannot break.
        if now > self.deadline or not len(found):
            proof = self._verify(now)
            wanted = task.bounds.narrowed(task.margin)
            found = proof.open_witnesses(wanted.mirrored())
            goes_on = self._close(proof, nearest, found)
        self.points = np.vstack([self.points, found])
        self.n_rounds += 1
        return goes_on

    def _verify(self, now: float) -> Proof:
        return self.task.prove_present(
            deadline=min(now + self.slice, self.deadline),
            seed=self.n_rounds,
            tolerance=_SEARCH_MARGIN / 2,
            to_bound=True,
        )

    def _close(self, proof: Proof, nearest: HeadRepair, found: NDArray) -> bool:
        """Lift what is not proved; False if a nearer head is not worth the time."""
        # The slice was too short to decide anything.
        if not len(found):
            self.slice *= 2
        n_found = len(self.points) - self.n_corners
        lifted = _lifted(self.task, proof, self.margin, n_found)
        self.best = _nearer(self.task, self.best, lifted)
        if proof.finished or time.monotonic() > self.deadline:
            return False
        # No head for the whole domain costs less than the nearest one for some points.
        smallest = self.task.size(nearest.cost)
        return (
            self.best is None
            or self.task.size(self.best.cost) > _MAX_COST_RATIO * smallest
        )


def _nearer(task: DomainTask, *heads: ProvableHead | None) -> ProvableHead | None:
    proved = [head for head in heads if head is not None]
    return min(proved, key=lambda head: task.size(head.cost), default=None)


def _by_bias(task: DomainTask, deadline: float) -> ProvableHead | None:
    """Shift the bias by what the extreme predictions are missing."""
    if not np.isfinite(task.margin).all():
        return None
    proof = task.prove_present(
        deadline=deadline, tolerance=_SHIFT_TOLERANCE, to_bound=True
    )
    return _lifted(task, proof, task.margin, 0)


def _nearest_for_points(task: DomainTask, points: NDArray, margin) -> HeadRepair:
    features = task.features_of(task.model.transform(points))
    return nearest_feasible_head(
        task.start,
        task.objective,
        lambda: chain([task.rows], features()),
        lower_bound=task.bounds.lower,
        upper_bound=task.bounds.upper,
        margin=margin,
        scale=task.scale,
        balance=task.balance,
    )


def _lifted(
    task: DomainTask, proof: Proof, margin, n_found: int
) -> ProvableHead | None:
    """Lift what the verifier could not prove, and carry its bounds over."""
    exact = (proof.lower + proof.slack).min(axis=0)
    wanted = task.bounds.narrowed(task.margin)
    lifted, moved = task.lift(read_head(task.head), exact, wanted)
    if not task.can_hold(lifted):
        return None
    write_head(task.head, lifted)
    # Writing has rounded the head to its dtype, so the bounds carry over less a bit.
    cast = read_head(task.head)
    closed = task.prove(cast)
    closed.inherit(proof, moved - np.tile(task.distance(cast, lifted), 2))
    return task.finish(closed, margin, n_found)
