"""What is known about each part of a domain, and the methods that add to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklpos.certificates.bounds.alpha_crown import alpha_crown_bounds
from sklpos.certificates.bounds.crown import Interval, crown_bounds, interval_bounds
from sklpos.certificates.bounds.network import Network
from sklpos.certificates.bounds.rounding import lowest_everywhere, numerical_slack
from sklpos.certificates.certificate import Certificate
from sklpos.certificates.domains.regions import Region
from sklpos.certificates.domains.shapes import Ball, Domain
from sklpos.certificates.goal import Goal
from sklpos.certificates.search.attack import attack
from sklpos.certificates.search.branch_and_bound import branch_and_bound
from sklpos.certificates.search.milp import is_piecewise_linear, milp_minimum

Predict = Callable[[NDArray], NDArray]  # outputs in the dtype of the model, as float64

_CHUNK, _FEW = 512, 4  # parts bounded at a time, by CROWN and with the best slopes
_MOST_FEATURES = 8  # beyond, integer programming is tried on ReLU networks
_FAR = (1.0, 1e2, 1e4)  # where an input is looked for in an infinite domain
_ASSUMPTIONS = (
    "sums in the dtype of the module, in any order, with one rounding an operation "
    "(no TF32 or reduced-precision products)",
    "activations accurate to 8 units in the last place",
    "no overflow, and nothing lost by underflow",
    "scalers before the module work in its dtype, or in a wider one",
)


@dataclass
class Proof:
    """What is known so far, for each part of the domain and each output."""

    predict: Predict
    network: Network
    domain: Domain
    goal: Goal
    n_boxes: int = 0
    method: str = ""
    assumptions: tuple[str, ...] = _ASSUMPTIONS
    region: Region = field(init=False)
    lower: NDArray = field(init=False)  # (n_parts, n_outputs), rounding included
    upper: NDArray = field(init=False)
    slack: NDArray = field(init=False)
    witness: NDArray = field(init=False)  # (n_parts, n_outputs, n_features)
    hidden: dict[int, Interval] = field(default_factory=dict)

    def __post_init__(self):
        self.region = self.domain.region()
        shape = len(self.region), self.network.n_outputs
        self.lower = np.full(shape, -np.inf)
        self.upper = np.full(shape, np.inf)
        self.slack = np.zeros(shape)
        self.witness = np.zeros((*shape, self.network.n_features))

    @property
    def open_(self) -> NDArray:
        """Parts and outputs that are neither verified nor falsified."""
        return (self.lower < self.goal.required) & (self.upper >= self.goal.required)

    @property
    def wanted(self) -> NDArray:
        """Parts and outputs of which more has to be known."""
        if self.goal.tolerance is None:
            return self.open_
        return (self.lower < self.goal.required) | (not self.goal.to_bound)

    @property
    def settled(self) -> bool:
        """Whether more work changes no verdict."""
        parts = (self.upper < self.goal.required).any(axis=1)
        if parts.any() and not isinstance(self.domain, Ball):
            return True
        return not self.open_[~parts].any()

    @property
    def finished(self) -> bool:
        """Whether the goal is reached."""
        return self.settled if self.goal.tolerance is None else not self.wanted.any()

    @property
    def done(self) -> bool:
        """Whether the goal is reached, or time is up."""
        return time.monotonic() > self.goal.deadline or self.finished

    def everywhere(self) -> None:
        """Over all inputs: intervals, then near and far points."""
        self.method = "interval"
        self.lower[:] = lowest_everywhere(self.network).numpy()
        for size in _FAR:
            high = torch.full((1, self.network.n_features), size, dtype=torch.float64)
            region = Region(-high, high)
            self._see(attack(self.network, region, seed=self.goal.seed), [0])

    def run(self, method: str) -> None:
        """Go from the cheapest method to the dearest."""
        self._interval()
        if method != "interval" and not self.done:
            self._crown()
        self._look_at_corners()
        if method in ("interval", "crown") or self.done:
            return
        if method == "alpha_crown":
            return self._alpha_crown()
        self._attack()
        if not self.done:
            self._complete(self._choose() if method == "auto" else method)

    def _interval(self) -> None:
        self.method = "interval"
        low, high = self.region.low, self.region.high
        self.slack = numerical_slack(self.network, low, high).numpy()
        self.prove(interval_bounds(self.network, low, high)[0].numpy())
        self.n_boxes += len(self.region)

    def _crown(self) -> None:
        self.method = "crown"
        parts = torch.arange(len(self.region)).split(_CHUNK)
        found = [crown_bounds(self.network, self.region.take(part)) for part in parts]
        self.hidden = {
            k: tuple(torch.cat([f.hidden[k][end] for f in found]) for end in (0, 1))
            for k in found[0].hidden
        }
        low, high = self.region.low, self.region.high
        slack = numerical_slack(self.network, low, high, self.hidden).numpy()
        self.lower += self.slack - slack
        self.slack = slack
        self.prove(torch.cat([f.lower for f in found]).numpy())
        self.n_boxes += len(self.region)

    def _alpha_crown(self) -> None:
        self.method = "alpha_crown"
        parts = np.flatnonzero(self.wanted.any(axis=1))
        for part in torch.as_tensor(parts).split(_FEW):
            if time.monotonic() > self.goal.deadline:
                break
            region, hidden = self.region.take(part), self._hidden(part)
            lower = alpha_crown_bounds(self.network, region, hidden).numpy()
            self.lower[part] = np.maximum(self.lower[part], lower - self.slack[part])

    def _hidden(self, part: Tensor) -> dict[int, Interval]:
        return {k: (low[part], high[part]) for k, (low, high) in self.hidden.items()}

    def prove(self, lower: NDArray) -> None:
        """Add proved lower bounds of the exact network; rounding comes off here.

        Parameters
        ----------
        lower : ndarray of shape (n_parts or 1, n_outputs)
        """
        self.lower = np.maximum(self.lower, lower - self.slack)

    def inherit(self, earlier: Proof, lower: NDArray) -> None:
        """Take over what follows from the proof of another network.

        Parameters
        ----------
        earlier : Proof
        lower : ndarray of shape (n_parts or 1, n_outputs)
            Lower bounds of this network, exact.
        """
        self.prove(lower)
        self.method, self.assumptions = earlier.method, earlier.assumptions
        self.n_boxes += earlier.n_boxes

    def open_witnesses(self, wanted: NDArray) -> NDArray:
        """Return inputs predicted below `wanted` where the bound is not proved.

        Parameters
        ----------
        wanted : ndarray of shape (n_outputs,)

        Returns
        -------
        ndarray of shape (n_points, n_features)
        """
        unproved = self.lower < self.goal.required
        return self.witness[unproved & (self.upper < wanted)]

    def _look_at_corners(self) -> None:
        candidates = self.region.candidates(torch.zeros_like(self.region.low))
        rows = list(range(len(self.region)))
        for points in candidates:
            self._see(points[:, None].expand(-1, self.network.n_outputs, -1), rows)

    def _attack(self) -> None:
        parts = np.flatnonzero(self.open_.any(axis=1) | (len(self.region) == 1))
        before = self.settled
        for part in np.array_split(parts, max(1, -(-len(parts) // _CHUNK))):
            if time.monotonic() > self.goal.deadline:
                break
            region = self.region.take(torch.as_tensor(part))
            self._see(attack(self.network, region, seed=self.goal.seed), part)
        if self.settled and not before:
            self.method = "attack"

    def _see(self, points: Tensor, parts) -> None:
        """Evaluate points (n, n_outputs, n_features) as `predict` would."""
        shape = points.shape
        values = self.predict(points.reshape(-1, shape[-1]).numpy())
        values = values.reshape(*shape[:2], -1)
        for j in range(shape[1]):  # every point is good for every output
            better = values[:, j] < self.upper[parts]
            self.upper[parts] = np.where(better, values[:, j], self.upper[parts])
            self.witness[parts] = np.where(
                better[..., None], points[:, j, None].numpy(), self.witness[parts]
            )

    def _choose(self) -> str:
        many = self.network.n_features > _MOST_FEATURES
        one_convex = len(self.region) == 1
        if many and one_convex and is_piecewise_linear(self.network):
            return "milp"
        return "branch_and_bound"

    def _complete(self, method: str) -> None:
        self.method = method
        search = {"milp": self._milp, "branch_and_bound": self._branch}[method]
        outputs = np.flatnonzero(self.wanted.any(axis=0))
        for count, j in enumerate(outputs):
            now = time.monotonic()
            search(j, now + (self.goal.deadline - now) / (len(outputs) - count))
            if self.done:
                break

    def _branch(self, j: int, deadline: float) -> None:
        parts = np.flatnonzero(self.wanted[:, j])
        index = torch.as_tensor(parts)
        found = branch_and_bound(
            self.network.output(j),
            self.region.take(index),
            start=torch.as_tensor(self.witness[parts, j]),
            deadline=deadline,
            known=self._hidden(index),
            **self.goal.stops(j, self.slack[parts, j].max()),
        )
        self.n_boxes += found.n_boxes
        proved = found.lower.numpy() - self.slack[parts, j]
        self.lower[parts, j] = np.maximum(self.lower[parts, j], proved)
        points = found.minimiser[:, None].expand(-1, self.network.n_outputs, -1)
        self._see(points, parts)

    def _milp(self, j: int, deadline: float) -> None:
        limit = max(deadline - time.monotonic(), 0.1)
        network = self.network.output(j)
        found = milp_minimum(network, self.region, self.hidden, time_limit=limit)
        self.assumptions = (*_ASSUMPTIONS, found.assumption)
        self.lower[0, j] = max(self.lower[0, j], found.lower - self.slack[0, j])
        if found.minimiser is not None:
            point = torch.as_tensor(found.minimiser)
            point = point.clamp(self.region.low[0], self.region.high[0])
            self._see(point.expand(1, self.network.n_outputs, -1), [0])

    def certificate(self, begun: float) -> Certificate:
        """Return what is known."""
        lost = (self.upper < self.goal.required).any(axis=1)
        held = (self.lower >= self.goal.required).all(axis=1)
        verdicts = np.where(lost, "falsified", np.where(held, "verified", "unknown"))
        worst = (self.upper - self.goal.required).min(axis=1).argmin()
        j = np.nan_to_num(self.upper - self.goal.required, nan=np.inf)[worst].argmin()
        status = "falsified" if lost.any() else "verified" if held.all() else "unknown"
        return Certificate(
            status_=status,
            lower_bound_=self.lower.min(axis=0),
            upper_bound_=self.upper.min(axis=0),
            counterexample_=self.witness[worst, j].copy() if lost.any() else None,
            required_=self.goal.required,
            domain_=self.domain,
            method_=self.method,
            n_boxes_=self.n_boxes,
            time_=time.monotonic() - begun,
            numerical_slack_=self.slack.max(axis=0),
            assumptions_=self.assumptions,
            rows_=verdicts if isinstance(self.domain, Ball) else None,
        )
