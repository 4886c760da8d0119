"""A head that must obey its bounds on a domain: what is given, and what is proved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from sklpos.certificates.bounds.features import feature_bounds
from sklpos.certificates.bounds.overflow import largest_input_of
from sklpos.certificates.certificate import Certificate
from sklpos.certificates.certify import network_of
from sklpos.certificates.domains.regions import Region
from sklpos.certificates.domains.shapes import All, Domain
from sklpos.certificates.methods import run
from sklpos.certificates.proof import Goal, Proof
from sklpos.certificates.search.attack import local_minima
from sklpos.certificates.subject import Subject
from sklpos.nets.bounded import BoundedModel
from sklpos.nets.bounds import Bounds
from sklpos.nets.copies import copy_module
from sklpos.nets.head import read_head, write_head
from sklpos.nets.lazy import lazy
from sklpos.nets.rows import feature_source, obeys, rounding_margin
from sklpos.nets.tensors import without_torch
from sklpos.repair.objective import HeadObjective
from sklpos.repair.robust import Move, smallest_mix_into, smallest_shift_into

# Counterexamples added per round.
_MAX_NEW_POINTS = 32
# Inputs that stand for unknown training rows.
_SAMPLE = 1000
# Relative rounding of a lifted head: a product and a sum, with a reserve.
_ROUNDING = 4 * np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class ProvableHead:
    """A head that obeys its bounds on a domain, with the proof.

    Attributes
    ----------
    coef : ndarray of shape (n_outputs, d1)
        As the module holds it, unit of y.
    certificate : Certificate
    cost : ndarray of shape (n_outputs,)
        Weighted mean squared change of the training predictions, unit of y squared.
    balanced : ndarray of bool of shape (n_outputs,)
        Whether the mean training prediction is the mean target.
    margin : ndarray of shape (n_outputs,)
        Distance kept from the bounds, unit of y.
    n_counterexamples : int
        Points that the exchange method added.
    """

    coef: NDArray
    certificate: Certificate
    cost: NDArray
    balanced: NDArray
    margin: NDArray
    n_counterexamples: int


@dataclass(eq=False)
class DomainTask:
    """What a head must obey, and the tools to prove that it does.

    Parameters
    ----------
    model : BoundedModel
        Copied: the head of the copy is changed in place.
    domain : Domain
    given : HeadObjective or None
        Of the training rows, if they are known.
    X : ndarray of shape (n_samples, n_features) or None
        Rows that must obey the bounds as well, behind the steps before the module.
    kept : ndarray of shape (n_kept, d1) or None
        Features of more such rows.
    balance : bool
    bias_only : bool
        Whether the weights of the head must stay.
    """

    model: BoundedModel
    domain: Domain
    given: HeadObjective | None = None
    X: NDArray | None = None
    kept: NDArray | None = None
    balance: bool = False
    bias_only: bool = False

    def __post_init__(self):
        self.begun = time.monotonic()
        self.module = copy_module(self.model.module, {})
        self.model = replace(self.model, module=self.module)
        self.head = self.module.get_submodule(self.model.head)
        self.start = read_head(self.head)
        self.has_bias = self.head.bias is not None
        self.balance = self.balance and not self.bias_only
        self.asked = self.model.bounds.for_outputs(len(self.start))
        # What lies between two numbers of the dtype cannot be predicted.
        self.bounds = self.asked.in_dtype(self.head.weight.dtype)
        self.scale = np.broadcast_to(self.model.scale, len(self.start))
        network = network_of(self.model)
        self.domain.check_features(network.n_features)
        self.region = self.domain.region()
        self.features = feature_bounds(network, self.region)

    @lazy
    def objective(self) -> HeadObjective:
        """The distance between heads: of the training rows, X, or a sample."""
        if self.given is not None:
            return self.given.towards(self.asked, self.bounds)
        rows = self._sample() if self.X is None else self.X
        chunks = self.features_of(rows)()
        return HeadObjective.from_rows(chunks, has_bias=self.has_bias)

    def features_of(self, rows: NDArray) -> Callable[[], Iterator[NDArray]]:
        """Make a function that iterates over the head's features of rows, in chunks."""
        return feature_source(self.module, self.model.head, rows)

    def _sample(self) -> NDArray:
        one = torch.ones_like(self.region.low)
        # Nothing can be drawn evenly from all inputs, so [-1, 1] stands for them.
        infinite = isinstance(self.domain, All)
        region = Region(-one, one) if infinite else self.region
        points = region.sample(_SAMPLE, torch.Generator().manual_seed(0))
        return self.model.transform(points.flatten(0, 1)[:: points.shape[1]].numpy())

    @lazy
    def rows(self) -> NDArray:
        """Features of the rows that must obey the bounds, (n_rows, d1)."""
        parts = [self.start[:0] if self.kept is None else self.kept]
        if self.X is not None:
            parts += map(without_torch, self.features_of(self.X)())
        return np.vstack(parts)

    @lazy
    def margin(self) -> NDArray:
        """Distance from the bounds that covers rounding, (n_outputs,)."""
        margin = 1e-9 * self.scale
        if self.X is not None:
            margin = rounding_margin(
                self.module,
                self.X,
                self.features_of(self.X),
                self.start,
                bounds=self.bounds,
                scale=self.scale,
            )
        if isinstance(self.domain, All):
            return margin
        # Twice the rounding of the present head, as the one to come is not known yet.
        return margin + 2 * self.prove(self.start).rounding

    def prove_present(
        self, method="auto", *, deadline=np.inf, seed=0, tolerance=None, to_bound=False
    ) -> Proof:
        """Prove as much of the head in place as a method can, see `Goal`."""
        goal = Goal(
            self.asked,
            self.scale,
            self.head.weight.dtype,
            tolerance,
            deadline,
            seed,
            to_bound,
        )
        largest = largest_input_of(self.module, self.model.inputs)
        network = network_of(self.model)
        proof = Proof(self.model.predict, network, self.domain, goal, largest)
        run(proof, method)
        return proof

    def can_hold(self, coef: NDArray) -> bool:
        """Whether a head is finite in the dtype of the module."""
        return bool((np.abs(coef) <= torch.finfo(self.head.weight.dtype).max).all())

    def prove(self, coef: NDArray) -> Proof:
        """Put a head in place, and prove what CROWN can, which is cheap."""
        write_head(self.head, coef)
        return self.prove_present("crown")

    def points_outside(self, wanted: Bounds, *, seed: int = 0) -> NDArray:
        """Search the domain for inputs predicted out of bounds, and take the worst.

        Returns
        -------
        ndarray of shape (n_points, n_features)
        """
        least = wanted.mirrored()
        columns = np.flatnonzero(np.isfinite(least))
        network = network_of(self.model).mirrored().outputs(columns)
        points, values = local_minima(network, self.region, seed=seed)
        missing = torch.as_tensor(least[columns])[:, None] - values
        worst = missing.flatten().topk(min(_MAX_NEW_POINTS, missing.numel()))
        return points.flatten(0, 2)[worst.indices[worst.values > 0]].numpy()

    def lift(self, coef, proved, wanted: Bounds) -> tuple[NDArray, NDArray]:
        """Move heads, and what is proved of their columns on the domain, into bounds.

        The proved bounds are of ``(f, -f)``, shape (2 * n_outputs,), and the rows are
        held as well. Without a bias, nothing can be moved.
        """
        if not self.has_bias:
            return coef, proved
        columns = np.vstack([coef, -coef])
        least = np.minimum(
            proved, (self.rows @ columns.T).min(axis=0, initial=np.inf)
        ).reshape(2, -1)
        required = wanted.mirrored().reshape(2, -1)
        # A side without a bound may be infinite; any number does in its place.
        least = np.where(np.isfinite(required), least, 0.0)
        # Nothing helps against an infinite range.
        short = (least < required).any(axis=0) & np.isfinite(least).all(axis=0)
        coef = coef.copy()
        sides = proved.reshape(2, -1).copy()
        for j in np.flatnonzero(short):
            move = self._move(coef[j], j, (least[0, j], -least[1, j]), wanted)
            coef[j] = move(coef[j])
            known = np.isfinite(sides[:, j])
            signed = move.gain * sides[:, j] + [move.offset, -move.offset]
            sides[known, j] = signed[known]
        return coef, sides.ravel()

    def _move(self, head, j: int, reached: tuple, wanted: Bounds) -> Move:
        """The least move of one output from the range that it reaches into bounds."""
        bounds = wanted.lower[j], wanted.upper[j]
        constant = self._constant(head, j, bounds)
        if constant is None:
            return smallest_shift_into(*reached, bounds)
        return smallest_mix_into(*reached, bounds, constant)

    def _constant(self, head, j: int, bounds: tuple) -> float | None:
        """Constant to mix a head with: the mean that it keeps, or one inside bounds."""
        lower, upper = bounds
        mean = self.objective.mean_target if self.balance else None
        if mean is not None and lower <= mean[j] <= upper:
            return mean[j]
        # A shift keeps one bound, and only a mix can keep both.
        if self.bias_only or not np.isfinite(upper - lower):
            return None
        # A scale inside if possible, as a constant on a bound would leave nothing else.
        inside = min(self.scale[j], (upper - lower) / 2)
        present = self.objective.mean_features @ head
        return float(np.clip(present, lower + inside, upper - inside))

    def size(self, cost: NDArray) -> float:
        """Cost of all outputs together, without unit."""
        return float(np.sum(cost / self.scale**2))

    def distance(self, one: NDArray, other: NDArray) -> NDArray:
        """Bound the distance of two heads' predictions, rounding of `lift` included.

        Returns
        -------
        ndarray of shape (n_outputs,)
        """
        size = np.maximum(*map(np.abs, self.features))
        reach = np.append(size, np.ones(one.shape[1] - len(size)))
        change = np.abs(one - other) + _ROUNDING * np.abs(other)
        # An infinite feature times a weight of 0 would be NaN.
        return np.where(change == 0, 0.0, change * reach).sum(axis=1)

    def finish(self, proof: Proof, margin, n_found: int = 0) -> ProvableHead | None:
        """Describe the head in place if it is proved and the rows obey, else None."""
        certificate = proof.certificate(self.begun)
        coef = read_head(self.head)
        if certificate.status_ != "verified" or not self._rows_obey(coef, margin):
            return None
        certificate = replace(certificate, subject_=Subject(self.model))
        change = coef - self.start
        return ProvableHead(
            coef=coef,
            certificate=certificate,
            cost=self.objective.mean_square(change),
            balanced=self._is_balanced(coef),
            margin=margin,
            n_counterexamples=n_found,
        )

    def _rows_obey(self, coef: NDArray, margin) -> bool:
        # Of kept rows only the features are known, so their predictions are float64.
        if not self.bounds.contain(self.rows @ coef.T).all():
            return False
        return self.X is None or obeys(self.module, self.X, self.bounds, margin)

    def _is_balanced(self, coef: NDArray) -> NDArray:
        """Whether mean predictions are mean targets, up to the rounding of the head."""
        mean = self.objective.mean_target
        if mean is None:
            return np.zeros(len(coef), dtype=bool)
        rounding = torch.finfo(self.head.weight.dtype).eps
        tolerance = max(1e-9, 100 * rounding) * (self.scale + np.abs(mean))
        return np.abs(coef @ self.objective.mean_features - mean) <= tolerance
