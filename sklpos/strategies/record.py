"""Running statistics of the violations and multipliers of an epoch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class ConstraintSummary:
    """Violations and multipliers of an epoch, as its batches saw them.

    Attributes
    ----------
    max_violation : float
        Largest violation in scales, at least 0.
    violation_rate : float
        Share of the predictions of bounded outputs that violated a bound.
    max_multiplier, mean_multiplier : float
        Of the rows seen, in scales.
    alpha : float
        Weight of the penalty term.
    """

    max_violation: float
    violation_rate: float
    max_multiplier: float
    mean_multiplier: float
    alpha: float

    @classmethod
    def of_batches(
        cls, figures: Iterable[NDArray], n_seen: int, alpha: float
    ) -> ConstraintSummary:
        """Summary of the batches of an epoch.

        Parameters
        ----------
        figures : iterable of ndarray of shape (n_batches,)
            The four of `batch_figures`.
        n_seen : int
            Number of predictions of bounded outputs.
        alpha : float

        Returns
        -------
        ConstraintSummary
            Zeros if there are none.
        """
        if n_seen == 0:
            return cls(0.0, 0.0, 0.0, 0.0, alpha)
        violation, n_violated, multiplier, total = figures
        return cls(
            max_violation=max(float(violation.max()), 0.0),
            violation_rate=float(n_violated.sum(dtype=np.float64)) / n_seen,
            max_multiplier=float(multiplier.max()),
            mean_multiplier=float(total.sum(dtype=np.float64)) / n_seen,
            alpha=alpha,
        )


def batch_figures(violation: Tensor, multiplier: Tensor) -> list[Tensor]:
    """What `ConstraintSummary.of_batches` needs of batches of equal size.

    Parameters
    ----------
    violation, multiplier : torch.Tensor of shape (n_batches, batch, n_columns)

    Returns
    -------
    list of torch.Tensor of shape (n_batches,)
        Largest violation, number of violations, largest multiplier and sum of the
        multipliers of each batch, where they are.
    """
    if violation.numel() == 0:  # which has no maximum
        zero = violation.new_zeros(len(violation))
        return [zero, zero, zero - inf, zero]
    own = (1, 2)
    return [
        violation.amax(own),
        (violation > 0).sum(own, dtype=violation.dtype),
        multiplier.amax(own),
        multiplier.sum(own),
    ]


class EpochRecord(nn.Module):
    """Running maxima and sums of an epoch, as buffers.

    They are saved and moved with the constraint, so that training can stop and resume
    within an epoch, and they need no memory for the rows.

    Parameters
    ----------
    like : torch.Tensor
        Tensor whose dtype and device the numbers take.
    n_bounded : int
        Number of bounded outputs, which may have two columns each.

    Examples
    --------
    >>> record = EpochRecord(torch.zeros(1), n_bounded=1)
    >>> record.add(torch.tensor([[0.5], [-1.0]]), torch.tensor([[2.0], [0.0]]))
    >>> record.summary(alpha=1.0).violation_rate
    0.5
    """

    def __init__(self, like: Tensor, n_bounded: int):
        super().__init__()
        self.n_bounded = n_bounded
        for name in ("n_steps", "n_seen", "n_violated"):
            count = torch.zeros((), dtype=torch.long, device=like.device)
            self.register_buffer(name, count)
        for name in ("max_violation", "max_multiplier", "total_multiplier"):
            self.register_buffer(name, like.new_zeros(()))
        self.reset()

    def reset(self) -> None:
        """Start a new epoch."""
        for value in self.buffers():
            value.zero_()
        # The multipliers of `slack` can be negative, all of them in one epoch.
        self.max_multiplier.fill_(-inf)

    def add(self, violation: Tensor, multiplier: Tensor) -> None:
        """Take in a batch.

        Parameters
        ----------
        violation, multiplier : torch.Tensor of shape (batch, n_columns)
            Detached, in scales.
        """
        self.n_steps.add_(1)
        if violation.numel() == 0:  # which has no maximum
            return
        self.n_seen.add_(len(violation) * self.n_bounded)
        self.n_violated.add_((violation > 0).sum())
        self.total_multiplier.add_(multiplier.sum())
        for largest, values in (
            (self.max_violation, violation),
            (self.max_multiplier, multiplier),
        ):
            largest.copy_(torch.maximum(largest, values.amax().to(largest.dtype)))

    def summary(self, alpha: float) -> ConstraintSummary:
        """Summary of the batches since the last `reset`.

        Parameters
        ----------
        alpha : float
            Weight of the penalty term.

        Returns
        -------
        ConstraintSummary
            Zeros if there was no batch.
        """
        n_seen = int(self.n_seen)
        if n_seen == 0:
            return ConstraintSummary(0.0, 0.0, 0.0, 0.0, alpha)
        return ConstraintSummary(
            max_violation=float(self.max_violation),
            violation_rate=int(self.n_violated) / n_seen,
            max_multiplier=float(self.max_multiplier),
            mean_multiplier=float(self.total_multiplier / n_seen),
            alpha=alpha,
        )
