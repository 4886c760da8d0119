"""Certify a module: cheap bounds, an attack, then a complete method."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sklpos.certificates.attack import attack
from sklpos.certificates.bounds import Interval, crown_bounds, interval_bounds
from sklpos.certificates.branch_and_bound import branch_and_bound
from sklpos.certificates.certificate import Certificate
from sklpos.certificates.domains import All, Ball, Domain
from sklpos.certificates.layers import Network, read_network
from sklpos.certificates.milp import is_piecewise_linear, milp_minimum
from sklpos.certificates.regions import Region
from sklpos.certificates.rounding import lowest_everywhere, numerical_slack
from sklpos.strategies.architecture import BoundedOutput

METHODS = ("auto", "interval", "crown", "branch_and_bound", "milp")

_CHUNK = 512  # parts bounded at a time
_MOST_FEATURES = 8  # beyond, integer programming is tried on ReLU networks
_GAP = 1e-6  # relative gap at which a search that cannot decide gives up
_ASSUMPTIONS = (
    "sums in the dtype of the module, in any order, with one rounding an operation "
    "(no TF32 or reduced-precision products)",
    "activations accurate to 8 units in the last place",
    "no overflow",
)


def certify_module(
    module: nn.Module,
    domain: Domain,
    *,
    lower_bound: ArrayLike = 0.0,
    scale: ArrayLike = 1.0,
    method: str = "auto",
    time_limit: float = 60.0,
    tolerance: float | None = None,
    seed: int = 0,
) -> Certificate:
    """Prove or disprove that a module stays above its bound.

    `method` "auto" takes interval bounds, CROWN, projected gradient descent to find a
    counterexample, and then, where still undecided, branch and bound; integer
    programming (see `milp_minimum`) on networks of ReLU alone with more than 8
    features. The other methods stop at their own step.

    Parameters
    ----------
    module : nn.Module
        In eval mode, with outputs in the unit of y; see `read_network` for what is
        understood. A module behind an output activation of this package is certified
        as such, over any domain.
    domain : Domain
    lower_bound : float or array-like of shape (n_outputs,), default=0.0
        Unit of y; ``-inf`` leaves an output free.
    scale : float or array-like of shape (n_outputs,), default=1.0
        Size of the outputs, such as the standard deviation of y.
    method : {"auto", "interval", "crown", "branch_and_bound", "milp"}
    time_limit : float, default=60.0
        Seconds. What is proved by then is reported.
    tolerance : float, optional
        Go on until the gap between `lower_bound_` and `upper_bound_` is this many
        scales. By default, stop as soon as the question is decided.
    seed : int, default=0
        Of the attack.

    Returns
    -------
    Certificate

    Raises
    ------
    ValueError
        If the module or the domain is not understood.

    Examples
    --------
    >>> import torch
    >>> from sklpos.certificates import Box
    >>> module = torch.nn.Linear(1, 1).double()
    >>> _ = torch.nn.init.ones_(module.weight), torch.nn.init.ones_(module.bias)
    >>> certify_module(module, Box([0.0], [1.0])).status_
    'verified'
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; choose one of {METHODS}.")
    begun = time.monotonic()
    if type(module) is BoundedOutput:
        return _certify_bounded(module, domain, lower_bound, begun)
    network = read_network(module)
    domain.check_features(network.n_features)
    required = _as_bound(lower_bound, network.n_outputs)
    proof = _Proof(module, network, domain, required, seed)
    if isinstance(domain, All):
        proof.everywhere()
    else:
        gap = (
            None
            if tolerance is None
            else tolerance * np.broadcast_to(scale, required.shape)
        )
        proof.run(
            method, begun + time_limit, gap, np.broadcast_to(scale, required.shape)
        )
    return proof.certificate(begun)


def _as_bound(lower_bound: ArrayLike, n_outputs: int) -> NDArray:
    bound = np.array(lower_bound, dtype=np.float64)
    if bound.shape not in ((), (1,), (n_outputs,)) or np.isnan(bound).any():
        raise ValueError(
            f"lower_bound={lower_bound!r} must be a number or {n_outputs} of them."
        )
    return np.broadcast_to(bound, (n_outputs,)).copy()


def _certify_bounded(module, domain, lower_bound, begun) -> Certificate:
    """By construction: ``offset + scale * act`` with ``act >= 0``."""
    holds = module.bounded & (module.scale >= 0) & torch.isfinite(module.scale)
    lower = torch.where(holds, module.offset.double(), -torch.inf).cpu().numpy()
    required = _as_bound(lower_bound, len(lower))
    region = domain.region()
    points = region.candidates(torch.zeros_like(region.low))[0].numpy()
    return Certificate(
        status_="verified" if (lower >= required).all() else "unknown",
        lower_bound_=lower,
        upper_bound_=_predict(module, np.nan_to_num(points)).min(axis=0),
        counterexample_=None,
        required_=required,
        domain_=domain,
        method_="output activation",
        n_boxes_=0,
        time_=time.monotonic() - begun,
        numerical_slack_=np.zeros_like(lower),
        assumptions_=("no overflow",),
        rows_=None,
    )


@torch.no_grad()
def _predict(module: nn.Module, X: NDArray) -> NDArray:
    """Return outputs in the module's own dtype, as float64."""
    weight = next(module.parameters())
    rows = torch.as_tensor(X, dtype=torch.float64).to(weight.device, weight.dtype)
    return module(rows).double().cpu().numpy()


@dataclass
class _Proof:
    """What is known so far, for each part of the domain and each output."""

    module: nn.Module
    network: Network
    domain: Domain
    required: NDArray
    seed: int
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
        return (self.lower < self.required) & (self.upper >= self.required)

    @property
    def settled(self) -> bool:
        """Whether more work changes no verdict."""
        parts = (self.upper < self.required).any(axis=1)
        if parts.any() and not isinstance(self.domain, Ball):
            return True
        return not self.open_[~parts].any()

    def everywhere(self) -> None:
        """Over all inputs: intervals, then far and near points."""
        self.method = "interval"
        self.lower[:] = lowest_everywhere(self.network).numpy()
        n = self.network.n_features
        for size in (1.0, 1e2, 1e4):
            high = torch.full((1, n), size, dtype=torch.float64)
            near = Region(-high, high)
            self._see(attack(self.network, near, seed=self.seed), [0])

    def run(self, method: str, deadline: float, gap, scale) -> None:
        """Go from the cheapest method to the dearest."""
        self._interval()
        if method != "interval" and not (self.settled and gap is None):
            self._crown()
        self._look_at_corners()
        if method in ("interval", "crown") or (self.settled and gap is None):
            return
        self._attack()
        if self.settled and gap is None:
            return
        complete = self._choose() if method == "auto" else method
        self._complete(complete, deadline, gap, scale)

    def _interval(self) -> None:
        self.method = "interval"
        low, high = self.region.low, self.region.high
        self.slack = numerical_slack(self.network, low, high).numpy()
        self._prove(interval_bounds(self.network, low, high)[0].numpy())
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
        self._prove(torch.cat([f.lower for f in found]).numpy())
        self.n_boxes += len(self.region)

    def _prove(self, lower: NDArray) -> None:
        self.lower = np.maximum(self.lower, lower - self.slack)

    def _look_at_corners(self) -> None:
        candidates = self.region.candidates(torch.zeros_like(self.region.low))
        rows = list(range(len(self.region)))
        for points in candidates:
            self._see(points[:, None].expand(-1, self.network.n_outputs, -1), rows)

    def _attack(self) -> None:
        parts = np.flatnonzero(self.open_.any(axis=1) | (len(self.region) == 1))
        before = self.settled
        for part in np.array_split(parts, max(1, -(-len(parts) // _CHUNK))):
            region = self.region.take(torch.as_tensor(part))
            self._see(attack(self.network, region, seed=self.seed), part)
        if self.settled and not before:
            self.method = "attack"

    def _see(self, points: Tensor, parts) -> None:
        """Evaluate points (n, n_outputs, n_features) as `predict` would."""
        shape = points.shape
        values = _predict(self.module, points.reshape(-1, shape[-1]).numpy())
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

    def _complete(self, method: str, deadline: float, gap, scale) -> None:
        self.method = method
        search = {"milp": self._milp, "branch_and_bound": self._branch}[method]
        todo = np.flatnonzero(
            self.open_.any(axis=0) if gap is None else self.slack.any(0)
        )
        for done, j in enumerate(todo):
            now = time.monotonic()
            share = now + (deadline - now) / (len(todo) - done)
            search(j, share, None if gap is None else gap[j], scale[j])
            if self.settled and gap is None:
                return

    def _branch(self, j: int, deadline: float, gap, scale: float) -> None:
        parts = np.flatnonzero(
            self.open_[:, j] if gap is None else self.slack[:, j] >= 0
        )
        index = torch.as_tensor(parts)
        slack = self.slack[parts, j].max()
        stop = {
            "target": self.required[j] + slack,
            "hopeless": self.required[j] - slack,
        }
        found = branch_and_bound(
            self.network.output(j),
            self.region.take(index),
            start=torch.as_tensor(self.witness[parts, j]),
            tolerance=_GAP * scale + slack / 4 if gap is None else gap,
            deadline=deadline,
            known={
                k: (low[index], high[index]) for k, (low, high) in self.hidden.items()
            },
            **(stop if gap is None else {}),
        )
        self.n_boxes += found.n_boxes
        proved = found.lower.numpy() - self.slack[parts, j]
        self.lower[parts, j] = np.maximum(self.lower[parts, j], proved)
        points = found.minimiser[:, None].expand(-1, self.network.n_outputs, -1)
        self._see(points, parts)

    def _milp(self, j: int, deadline: float, gap, scale: float) -> None:
        found = milp_minimum(
            self.network.output(j),
            self.region,
            self.hidden,
            time_limit=max(deadline - time.monotonic(), 0.1),
        )
        self.assumptions = (*_ASSUMPTIONS, found.assumption)
        self.lower[0, j] = max(self.lower[0, j], found.lower - self.slack[0, j])
        if found.minimiser is not None:
            point = torch.as_tensor(found.minimiser)[None, None]
            self._see(point.expand(1, self.network.n_outputs, -1), [0])

    def certificate(self, begun: float) -> Certificate:
        """Return what is known."""
        lost = (self.upper < self.required).any(axis=1)
        held = (self.lower >= self.required).all(axis=1)
        verdicts = np.where(lost, "falsified", np.where(held, "verified", "unknown"))
        worst = (self.upper - self.required).min(axis=1).argmin()
        j = np.nan_to_num(self.upper - self.required, nan=np.inf)[worst].argmin()
        status = "falsified" if lost.any() else "verified" if held.all() else "unknown"
        return Certificate(
            status_=status,
            lower_bound_=self.lower.min(axis=0),
            upper_bound_=self.upper.min(axis=0),
            counterexample_=self.witness[worst, j].copy() if lost.any() else None,
            required_=self.required,
            domain_=self.domain,
            method_=self.method,
            n_boxes_=self.n_boxes,
            time_=time.monotonic() - begun,
            numerical_slack_=self.slack.max(axis=0),
            assumptions_=self.assumptions,
            rows_=verdicts if isinstance(self.domain, Ball) else None,
        )
