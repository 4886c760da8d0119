"""The methods of proof, from the cheapest to the most expensive."""

from __future__ import annotations

import math
import time
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sklpos.certificates.bounds.alpha_crown import alpha_crown_bounds
from sklpos.certificates.bounds.crown import Interval, crown_bounds, interval_bounds
from sklpos.certificates.bounds.rounding import lowest_everywhere, numerical_slack
from sklpos.certificates.domains.bodies import Ellipsoid
from sklpos.certificates.domains.regions import Region
from sklpos.certificates.domains.shapes import All
from sklpos.certificates.proof import ASSUMPTIONS, Proof
from sklpos.certificates.search.attack import attack
from sklpos.certificates.search.branch_and_bound import branch_and_bound
from sklpos.certificates.search.milp import is_piecewise_linear, milp_minimum
from sklpos.certificates.search.relu_splits import relu_splits

METHODS = (
    "auto",
    "interval",
    "crown",
    "alpha_crown",
    "branch_and_bound",
    "relu_splits",
    "milp",
)

# Parts that CROWN bounds together.
_CHUNK = 512
# Parts whose slopes are improved together: each bound has its own slopes in memory.
_PARTS_PER_ASCENT = 4
# Share of the time for alpha-CROWN before a complete method. Nets of usual size need
# 0.2 s; only many balls and wide nets need more.
_ASCENT_SHARE = 0.2
# For (leaky) ReLUs. Gaps left after 3 s of the processor, in standard deviations of y,
# for splitting inputs, splitting ReLUs, and integer programming:
#   hulls, 16-16: 3.2, 0.6, 2.2 at 10 features; 4.1, 0.4, 0.8 at 20;
#   hulls, 64-64: 13.4, 6.0, 22.7 and 13.1, 2.7, 18.0;
#   boxes, 16-16: 1.3, 0.6, 0 and 5.0, 0.5, 0;
#   boxes, 64-64: 9.9, 13.1, 56.5 and 16.1, 5.3, 38.8.
# Up to 8 features, splitting the inputs closes what the others do not.
_MAX_EASY_FEATURES = 8
_MANY_FEATURES = 20
# Over hulls, 12-12: splitting ReLUs leaves 0.4, integer programming 0.1, at 10
# features, but 0.5 and 1.0 at 20.
_MAX_INTEGER_UNITS = {"box": 32, "hull": 24}
# Sizes of the boxes in which a counterexample is sought if the domain is infinite.
_SEARCH_SIZES = (1.0, 1e2, 1e4)


def run(proof: Proof, method: str) -> None:
    """Add the findings of a method, and of the cheaper methods before it, to a proof.

    Parameters
    ----------
    proof : Proof
        Changed in place.
    method : str
        One of `METHODS`. Over all inputs, interval bounds are the only method.
    """
    if isinstance(proof.domain, All):
        _everywhere(proof)
    else:
        _from_cheap_to_expensive(proof, method)
    _drop_contradicted(proof)


def _drop_contradicted(proof: Proof) -> None:
    """Take back bounds above a value that was seen: they are false."""
    if proof.unaided is not None:
        false = proof.lower > proof.upper
        proof.lower = np.where(false, proof.unaided, proof.lower)
    # If even these are false, nothing can be said.
    proof.lower = np.where(proof.lower > proof.upper, -np.inf, proof.lower)


def _everywhere(proof: Proof) -> None:
    """Over all inputs: intervals, then near and far points."""
    proof.method = "interval"
    # This bound is rounded outwards already, so there is no slack to subtract.
    proof.lower[:] = lowest_everywhere(proof.network).numpy()
    for size in _SEARCH_SIZES:
        high = torch.full((1, proof.network.n_features), size, dtype=torch.float64)
        proof.see(torch.stack([-high, high], dim=1), [0])
        # Where the bounds are proved there is no counterexample to look for.
        if not proof.finished:
            _attack_parts(proof, Region(-high, high), [0])


def _from_cheap_to_expensive(proof: Proof, method: str) -> None:
    _interval(proof)
    if method != "interval" and not proof.done:
        _crown(proof)
    # Cheap enough for every method, so that each reports a value that was seen.
    _look_at_corners(proof)
    if method in ("interval", "crown") or proof.done:
        return
    if method == "alpha_crown":
        return _alpha_crown(proof, proof.goal.deadline)
    # A counterexample spares the complete methods, and is their start otherwise.
    _attack(proof)
    if method == "auto" and not proof.done:
        now = time.monotonic()
        _alpha_crown(proof, now + _ASCENT_SHARE * (proof.goal.deadline - now))
    if not proof.done:
        _complete(proof, _choose(proof) if method == "auto" else method)


def _interval(proof: Proof) -> None:
    proof.method = "interval"
    low, high = proof.region.low, proof.region.high
    proof.slack = numerical_slack(proof.network, low, high).numpy()
    proof.prove(interval_bounds(proof.network, low, high)[0].numpy())
    proof.n_boxes += len(proof.region)
    if not proof.done:
        _try_everywhere(proof)


def _try_everywhere(proof: Proof) -> None:
    """Settle the question if the bounds hold for every input there is.

    Unlike the bounds of boxes, those include the rounding as it really is: terms of one
    sign cannot be rounded across the bias.
    """
    found = np.maximum(proof.lower, lowest_everywhere(proof.network).numpy())
    if (found >= proof.goal.required).all():
        proof.lower = found
        proof.slack = np.zeros_like(proof.slack)


def _crown(proof: Proof) -> None:
    proof.method = "crown"
    parts = torch.arange(len(proof.region)).split(_CHUNK)
    found = [crown_bounds(proof.network, proof.region.take(part)) for part in parts]
    proof.hidden = {
        k: tuple(torch.cat([f.hidden[k][end] for f in found]) for end in (0, 1))
        for k in found[0].hidden
    }
    low, high = proof.region.low, proof.region.high
    slack = numerical_slack(proof.network, low, high, proof.hidden).numpy()
    # CROWN's tighter hidden bounds have a smaller slack: the old one is given back, but
    # nothing is left of a bound less an infinite one.
    known = np.isfinite(proof.slack)
    gain = np.subtract(proof.slack, slack, out=np.zeros_like(slack), where=known)
    proof.lower += gain
    proof.slack = slack
    proof.prove(torch.cat([f.lower for f in found]).numpy())
    proof.n_boxes += len(proof.region)


def _alpha_crown(proof: Proof, deadline: float) -> None:
    proof.method = "alpha_crown"
    parts = np.flatnonzero(proof.wanted.any(axis=1))
    columns = np.flatnonzero(proof.wanted.any(axis=0))
    network = proof.network.outputs(columns)
    for part in torch.as_tensor(parts).split(_PARTS_PER_ASCENT):
        if time.monotonic() > deadline:
            break
        bounds = alpha_crown_bounds(
            network, proof.region.take(part), _hidden(proof, part), deadline=deadline
        )
        chosen = np.ix_(part, columns)
        proved = bounds.numpy() - proof.slack[chosen]
        proof.lower[chosen] = np.maximum(proof.lower[chosen], proved)


def _hidden(proof: Proof, part: Tensor) -> dict[int, Interval]:
    return {k: (low[part], high[part]) for k, (low, high) in proof.hidden.items()}


def _look_at_corners(proof: Proof) -> None:
    candidates = proof.region.candidates(torch.zeros_like(proof.region.low))
    rows = list(range(len(proof.region)))
    for points in candidates:
        proof.see(points[:, None], rows)


def _attack(proof: Proof) -> None:
    parts = np.flatnonzero(proof.open_.any(axis=1) | (len(proof.region) == 1))
    # The attack is named as the method only if it decided the question.
    before = proof.settled
    for part in np.array_split(parts, max(1, math.ceil(len(parts) / _CHUNK))):
        if time.monotonic() > proof.goal.deadline:
            break
        _attack_parts(proof, proof.region.take(torch.as_tensor(part)), part)
    if proof.settled and not before:
        proof.method = "attack"


def _attack_parts(proof: Proof, region: Region, parts) -> None:
    """Make the columns small that have a bound."""
    # With a tolerance, work may be left although every verdict is known.
    if len(parts) and proof.goal.bounded.any():
        network = proof.network.outputs(np.flatnonzero(proof.goal.bounded))
        proof.see(attack(network, region, seed=proof.goal.seed), parts)


def _choose(proof: Proof) -> str:
    """Complete method that is expected to prove most."""
    network, region = proof.network, proof.region
    n_features = network.n_features
    round_body = isinstance(region.body, Ellipsoid)
    kinks = is_piecewise_linear(network) and not round_body
    if n_features <= _MAX_EASY_FEATURES or not kinks:
        return "branch_and_bound"
    # Splitting inputs bounds a hull by boxes that are mostly outside of it.
    hull = region.body is not None
    many = n_features >= _MANY_FEATURES
    n_units = sum(low.shape[1] for low, _ in proof.hidden.values())
    few_units = n_units <= _MAX_INTEGER_UNITS["hull" if hull else "box"]
    # An integer programme is of one box or hull; a union would need one for each.
    if few_units and len(region) == 1 and not (hull and many):
        return "milp"
    return "relu_splits" if hull or many else "branch_and_bound"


def _complete(proof: Proof, method: str) -> None:
    proof.method = method
    search = _SEARCHES[method]
    columns = np.flatnonzero(proof.wanted.any(axis=0))
    for count, j in enumerate(columns):
        # The time left is shared equally; what a column does not use goes to the rest.
        now = time.monotonic()
        search(proof, j, now + (proof.goal.deadline - now) / (len(columns) - count))
        if proof.done:
            break


def _split(proof: Proof, j: int, deadline: float, *, search) -> None:
    """Search by splitting inputs or ReLUs."""
    parts = np.flatnonzero(proof.wanted[:, j])
    index = torch.as_tensor(parts)
    found = search(
        proof.network.outputs([j]),
        proof.region.take(index),
        # One slack for all parts: the largest is safe for each.
        proof.goal.stops(j, proof.slack[parts, j].max()),
        start=torch.as_tensor(proof.witness[parts, j]),
        deadline=deadline,
        known=_hidden(proof, index),
    )
    proof.n_boxes += found.n_boxes
    proved = found.lower.numpy() - proof.slack[parts, j]
    proof.lower[parts, j] = np.maximum(proof.lower[parts, j], proved)
    proof.see(found.minimiser[:, None], parts)


def _milp(proof: Proof, j: int, deadline: float) -> None:
    # At least a moment, if the deadline has passed already.
    limit = max(deadline - time.monotonic(), 0.1)
    network = proof.network.outputs([j])
    found = milp_minimum(network, proof.region, proof.hidden, time_limit=limit)
    if found.minimiser is not None:
        proof.see(torch.as_tensor(found.minimiser)[None, None], [0])
    proved = found.lower - proof.slack[0, j]
    # The only method that relies on the tolerances of a solver: a value that was seen
    # outweighs it, and what the others have proved stays.
    if proof.lower[0, j] < proved <= proof.upper[0, j]:
        if proof.unaided is None:
            proof.unaided = proof.lower.copy()
        proof.assumptions = (*ASSUMPTIONS, found.assumption)
        proof.lower[0, j] = proved


_SEARCHES = {
    "milp": _milp,
    "branch_and_bound": partial(_split, search=branch_and_bound),
    "relu_splits": partial(_split, search=relu_splits),
}
