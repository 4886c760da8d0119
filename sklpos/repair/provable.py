"""Provable repair: the nearest head found that obeys the bound on a whole domain."""

from __future__ import annotations

import copy
import time
from itertools import chain, count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sklpos.certificates.domains.shapes import All, Domain
from sklpos.certificates.proof import Proof
from sklpos.nets.head import read_head, write_head
from sklpos.nets.rows import feature_source
from sklpos.repair.domain_task import DomainTask, ProvableHead
from sklpos.repair.nearest import HeadObjective, HeadRepair, nearest_feasible_head
from sklpos.repair.robust import nearest_robust_head, worst_case
from sklpos.training.net import make_product

_ATTEMPTS = 8
_GAP = 1e-3  # in scales, to which the smallest prediction is found for a shift
_ROOM = 1e-2  # in scales: distance from the bound that lets a complete method close
_SLICES = 30  # of the time limit: how long the verifier works at first
_ENOUGH = 1.05  # of the smallest cost possible


class UnprovableError(ValueError):
    """No head was proved to obey the bound on a domain."""


def provable_product(
    net,
    domain: Domain,
    objective: HeadObjective | None = None,
    *,
    X: NDArray | None = None,
    kept: NDArray | None = None,
    balance: bool = True,
    method: str = "head",
    exchange: bool = True,
    time_limit: float = 10.0,
) -> tuple[nn.Module, ProvableHead]:
    """Return the product with a head that provably obeys the bound on a domain.

    Two ways, of which the one with the smaller change counts. *Certified intervals of
    the features* turn the bound into one linear constraint on the head; the nearest
    such head is found in milliseconds, and always exists if there is a bias. The
    *exchange method* [1]_ is nearer: the nearest head for some points of the domain is
    given to the complete verifier, whose counterexamples become points of the next
    round, until there are none. What is not proved when the time is up is closed by a
    mix with a constant head, or by the bias without balance. For networks this is
    *provable polytope repair* [2]_, restricted to the last layer.

    Parameters
    ----------
    net : ConstrainedNet
    domain : Domain
    objective : HeadObjective, optional
        Of the training rows; by default that of X or a sample of the domain, without
        balance.
    X : ndarray of shape (n_samples, n_features), optional
        Rows to hold the bound on, too.
    kept : ndarray of shape (n_kept, d1), optional
        Features of further rows.
    balance : bool, default=True
        Keep the mean prediction at the mean target, where that is above the bound.
    method : {"head", "bias"}, default="head"
        "bias" adds to the bias of the present product alone, what a complete method
        finds to be missing.
    exchange : bool, default=True
        Whether to try the exchange method, too.
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
        If no head is proved, which takes a head without bias or an infinite domain.

    References
    ----------
    .. [1] E. W. Cheney, A. A. Goldstein (1959), "Newton's method for convex
       programming and Tchebycheff approximation", doi:10.1007/BF01386389.
    .. [2] M. Sotoudeh, A. V. Thakur (2021), "Provable repair of deep neural
       networks", doi:10.1145/3453483.3454064.
    """
    deadline = time.monotonic() + time_limit
    if method == "bias":
        module, balance = copy.deepcopy(net.product_), False
    else:
        module = make_product(net)
    task = DomainTask(net, module, domain, objective, X, kept, balance)
    if method == "bias":
        found = [_by_bias(task, deadline)]
    elif exchange and not isinstance(domain, All):
        found = [_by_intervals(task), _by_exchange(task, deadline)]
    else:
        found = [_by_intervals(task)]
    best = _nearer(task, *found)
    if best is None:
        raise UnprovableError(
            "no head was proved to obey lower_bound on the domain: a head without bias "
            "may have none, or X and y are too large; give it a bias, lower the bound, "
            "or standardise X."
        )
    write_head(task.head, best.coef)
    return task.module, best


def _by_intervals(task: DomainTask) -> ProvableHead | None:
    """Take the nearest head for certified intervals of the features."""
    margin, balance = task.margin, task.balance
    for _ in range(_ATTEMPTS):
        required = task.bound + margin
        coef = nearest_robust_head(
            task.start,
            task.objective,
            *task.features,
            required=required,
            balance=balance and task.objective.mean_target is not None,
        )
        coef, _ = task.lift(coef, worst_case(coef, *task.features), required)
        if not task.can_hold(coef):
            return None
        found = task.finish(task.prove(coef), margin)
        if found is not None:
            return found
        margin, balance = 4 * margin, balance and task.has_bias
    free = np.isneginf(task.bound)[:, None]  # without a bias: 0, if that is enough
    return task.finish(task.prove(np.where(free, task.start, 0.0)), margin)


def _by_exchange(task: DomainTask, deadline: float) -> ProvableHead | None:
    """Take the nearest head for points of the domain, until none is below.

    Gradient descent finds most points, the complete verifier the others: it works in
    slices of time, that grow when one ends without any. The nearest head for points is
    nearer than any for the domain, so the search may end when the lifted one is hardly
    farther away.
    """
    margin = task.margin + _ROOM * task.scale
    points = task.region.candidates(torch.zeros_like(task.region.low))
    points, best, n_first = points.flatten(0, 1).numpy(), None, points[..., 0].numel()
    slice_ = max(deadline - time.monotonic(), 0.0) / _SLICES
    for seed in count():
        nearest = _nearest_for_points(task, points, margin)
        if not nearest.feasible.all() or not task.can_hold(nearest.coef):
            return best
        write_head(task.head, nearest.coef)
        found, now = (
            task.low_points(task.bound + margin / 2, seed=seed),
            time.monotonic(),
        )
        if now > deadline or not len(found):
            proof = task.prove_present(
                deadline=min(now + slice_, deadline),
                seed=seed,
                tolerance=_ROOM / 2,
                to_bound=True,
            )
            found = proof.open_witnesses(task.bound + task.margin)
            slice_ = slice_ if len(found) else 2 * slice_
            lifted = _lifted(task, proof, margin, len(points) - n_first)
            best = _nearer(task, best, lifted)
            enough = best and task.size(best.cost) <= _ENOUGH * task.size(nearest.cost)
            if enough or proof.finished or time.monotonic() > deadline:
                return best
        points = np.vstack([points, found])
    return None


def _nearer(task: DomainTask, *heads: ProvableHead | None) -> ProvableHead | None:
    proved = [head for head in heads if head is not None]
    return min(proved, key=lambda head: task.size(head.cost), default=None)


def _by_bias(task: DomainTask, deadline: float) -> ProvableHead | None:
    """Raise the bias by what the smallest predictions are missing."""
    proof = task.prove_present(deadline=deadline, tolerance=_GAP, to_bound=True)
    return _lifted(task, proof, task.margin, 0)


def _nearest_for_points(task: DomainTask, points: NDArray, margin) -> HeadRepair:
    features = feature_source(task.module, task.net.head, points)
    return nearest_feasible_head(
        task.start,
        task.objective,
        lambda: chain([task.rows], features()),
        lower_bound=task.bound,
        margin=margin,
        scale=task.scale,
        balance=task.balance,
    )


def _lifted(
    task: DomainTask, proof: Proof, margin, n_found: int
) -> ProvableHead | None:
    """Lift what the verifier could not prove, and carry its bounds over."""
    exact = (proof.lower + proof.slack).min(axis=0)
    lifted, raised = task.lift(read_head(task.head), exact, task.bound + task.margin)
    if not task.can_hold(lifted):
        return None
    write_head(task.head, lifted)
    cast = read_head(task.head)
    closed = task.prove(cast)
    closed.inherit(proof, raised - task.distance(cast, lifted))
    return task.finish(closed, margin, n_found)
