"""A proof under way: its goal, and what is known about each part of a domain."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklpos.certificates.bounds.crown import Interval
from sklpos.certificates.bounds.network import Network
from sklpos.certificates.bounds.overflow import largest_input, overflow_assumption
from sklpos.certificates.certificate import Certificate
from sklpos.certificates.domains.regions import Region
from sklpos.certificates.domains.shapes import Ball, Domain
from sklpos.certificates.search.branch_and_bound import Stops
from sklpos.certificates.search.seen import both_sides, confirmed
from sklpos.nets.bounds import Bounds
from sklpos.nets.lazy import lazy
from sklpos.nets.sides import rounded_up

# Outputs computed in the dtype of the model, converted to float64.
Predict = Callable[[NDArray], NDArray]

# Gap, in scales, at which a search that cannot decide gives up.
_GAP = 1e-6
ASSUMPTIONS = (
    "sums in the dtype of the module, in any order, with one rounding per operation "
    "(no TF32 or reduced-precision products)",
    "activations accurate to 8 units in the last place",
    "nothing lost by underflow",
    "scalers before the module work in its dtype, or in a wider one",
)


@dataclass(frozen=True, eq=False)
class Goal:
    """What a proof must show, and when it may stop.

    An upper bound of f is a lower one of -f. So a proof is about the columns
    ``(f, -f)``, and knows lower bounds only.

    Attributes
    ----------
    bounds : Bounds
        Unit of y.
    scale : ndarray of shape (n_outputs,)
        Unit of y.
    dtype : torch.dtype
        Dtype of the predictions.
    tolerance : float or None
        Gap to reach on each side that has a bound, in scales; None to stop as soon as
        the question is decided.
    deadline : float
        In the time of `time.monotonic`.
    seed : int
    to_bound : bool
        With a tolerance: a gap above the bound need not be closed.
    """

    bounds: Bounds
    scale: NDArray
    dtype: torch.dtype
    tolerance: float | None
    deadline: float
    seed: int
    to_bound: bool = False

    @lazy
    def required(self) -> NDArray:
        """Lower bounds of the columns, shape (2 * n_outputs,)."""
        # What lies between two numbers of the dtype cannot be predicted.
        return rounded_up(self.bounds.mirrored(), self.dtype)

    @property
    def bounded(self) -> NDArray:
        """Which columns have a bound."""
        return np.isfinite(self.required)

    def stops(self, j: int, slack: float) -> Stops:
        """When the search of column j may end.

        Parameters
        ----------
        j : int
        slack : float
            Margin against rounding, subtracted from its bounds afterwards.

        Returns
        -------
        Stops
        """
        scale = self.scale[j % len(self.scale)]
        if self.tolerance is not None:
            target = self.required[j] + slack if self.to_bound else np.inf
            return Stops(self.tolerance * scale, target)
        # The slack comes off a proved bound, so the search must reach that much more. A
        # value that far below the bound is below it for the model's rounding, too.
        return Stops(
            tolerance=_GAP * scale + slack / 4,
            target=self.required[j] + slack,
            hopeless=self.required[j] - slack,
        )


@dataclass
class Proof:
    """What is known so far, for each part of the domain and each column.

    Parameters
    ----------
    predict : callable
    network : Network
        Kept as that of the columns ``(f, -f)``.
    domain : Domain
    goal : Goal
    largest_input : float, optional
        See `Certificate`; by default that of the network.
    """

    predict: Predict
    network: Network
    domain: Domain
    goal: Goal
    largest_input: float | None = None
    n_boxes: int = 0
    method: str = ""
    assumptions: tuple[str, ...] = ASSUMPTIONS
    region: Region = field(init=False)
    # (n_parts, n_columns), as slack; rounding is included in both bounds.
    lower: NDArray = field(init=False)
    upper: NDArray = field(init=False)
    slack: NDArray = field(init=False)
    # (n_parts, n_columns, n_features), the inputs of the values in upper.
    witness: NDArray = field(init=False)
    hidden: dict[int, Interval] = field(default_factory=dict)
    # The bounds that no solver had a part in, if there are others.
    unaided: NDArray | None = None

    def __post_init__(self):
        self.region = self.domain.region()
        if self.largest_input is None:
            self.largest_input = largest_input(self.network)
        self.network = self.network.mirrored()
        shape = len(self.region), self.network.n_outputs
        self.lower = np.full(shape, -np.inf)
        self.upper = np.full(shape, np.inf)
        self.slack = np.zeros(shape)
        self.witness = np.zeros((*shape, self.network.n_features))

    @property
    def open_(self) -> NDArray:
        """Parts and columns that are neither verified nor falsified."""
        return (self.lower < self.goal.required) & (self.upper >= self.goal.required)

    @property
    def wanted(self) -> NDArray:
        """Parts and columns that need more work."""
        if self.goal.tolerance is None:
            return self.open_
        unproved = self.lower < self.goal.required
        return unproved if self.goal.to_bound else self.goal.bounded | unproved

    @property
    def settled(self) -> bool:
        """Whether more work cannot change any verdict."""
        # One falsified part falsifies a domain, but each ball has its own verdict.
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

    @property
    def rounding(self) -> NDArray:
        """Largest margin against rounding, shape (n_outputs,)."""
        return np.maximum(*np.split(self.slack.max(axis=0), 2))

    def prove(self, lower: NDArray) -> None:
        """Add proved lower bounds of the exact network, less the margin for rounding.

        Parameters
        ----------
        lower : ndarray of shape (n_parts or 1, n_columns)
        """
        # The larger one, as both are proved. NaN, where sums overflow, is no bound.
        self.lower = np.fmax(self.lower, lower - self.slack)

    def inherit(self, earlier: Proof, lower: NDArray) -> None:
        """Take over the results that follow from the proof of another network.

        Parameters
        ----------
        earlier : Proof
        lower : ndarray of shape (n_parts or 1, n_columns)
            Lower bounds of this network, exact.
        """
        self.prove(lower)
        self.method = earlier.method
        self.assumptions = earlier.assumptions
        self.n_boxes += earlier.n_boxes

    def open_witnesses(self, wanted: NDArray) -> NDArray:
        """Inputs with columns below `wanted` where the bound is not proved.

        Parameters
        ----------
        wanted : ndarray of shape (n_columns,)

        Returns
        -------
        ndarray of shape (n_points, n_features)
        """
        unproved = self.lower < self.goal.required
        return self.witness[unproved & (self.upper < wanted)]

    def see(self, points: Tensor, parts) -> None:
        """Evaluate points of some parts as the model predicts them.

        Parameters
        ----------
        points : Tensor of shape (n_parts, n_points, n_features)
        parts : sequence of int
        """
        low, high = (end[parts][:, None] for end in (self.region.low, self.region.high))
        # Rounding and a solver's tolerance may lead a little out of a box.
        points = points.clamp(low, high)
        shape = points.shape
        # Not the float64 network: a counterexample must hold for the model itself.
        values = self.predict(points.reshape(-1, shape[-1]).numpy())
        values = np.hstack([values, -values]).reshape(*shape[:2], -1)
        # A point that was found for one column may be the best for another.
        for k in range(shape[1]):
            better = values[:, k] < self.upper[parts]
            self.upper[parts] = np.where(better, values[:, k], self.upper[parts])
            self.witness[parts] = np.where(
                better[..., None], points[:, k, None].numpy(), self.witness[parts]
            )

    def certificate(self, begun: float) -> Certificate:
        """Certificate of what is known so far."""
        largest = self.largest_input
        self._withdraw_beyond(largest)
        self.upper, attained = confirmed(
            self.predict, self.upper, self.witness, self.goal.required
        )
        lost = (self.upper < self.goal.required).any(axis=1)
        held = (self.lower >= self.goal.required).all(axis=1)
        verdicts = np.where(lost, "falsified", np.where(held, "verified", "unknown"))
        status = "falsified" if lost.any() else "verified" if held.all() else "unknown"
        proved_min, proved_max = both_sides(self.lower.min(axis=0))
        attained_min, attained_max = both_sides(attained)
        part, column = self._worst()
        side = "lower" if column < len(proved_min) else "upper"
        return Certificate(
            status_=status,
            proved_min_=proved_min,
            proved_max_=proved_max,
            attained_min_=attained_min,
            attained_max_=attained_max,
            required_min_=self.goal.bounds.lower,
            required_max_=self.goal.bounds.upper,
            counterexample_=self.witness[part, column].copy() if lost.any() else None,
            broken_side_=side if lost.any() else None,
            domain_=self.domain,
            method_=self.method,
            n_boxes_=self.n_boxes,
            time_=time.monotonic() - begun,
            numerical_slack_=self.rounding,
            assumptions_=(overflow_assumption(largest), *self.assumptions),
            rows_=verdicts if isinstance(self.domain, Ball) else None,
            largest_input_=largest,
        )

    def _withdraw_beyond(self, largest: float) -> None:
        """Take back what is proved of parts with inputs that may overflow."""
        reach = torch.maximum(self.region.low.abs(), self.region.high.abs()).amax(1)
        # All real inputs are meant up to this size.
        beyond = ((reach > largest) & reach.isfinite()).numpy()
        self.lower[beyond] = -np.inf

    def _worst(self) -> tuple[int, int]:
        """Part and column of the value that is farthest below its bound."""
        # Nothing seen, or an overflow, and nothing asked is inf - inf.
        with np.errstate(invalid="ignore"):
            room = np.nan_to_num(self.upper - self.goal.required, nan=np.inf)
        return np.unravel_index(room.argmin(), room.shape)
