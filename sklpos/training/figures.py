"""Figures of the batches of an epoch: made on the device, read when it is over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklpos.strategies.record import ConstraintSummary, batch_figures
from sklpos.training.world import Alone


def figures_of(net: Any, steps: list[dict[str, Any]]) -> Tensor:
    """Figures of batches of equal size, on their device.

    Losses are averaged here, for many batches at once: in each step, where they are
    rarely needed, the sums would cost as much as the loss itself.

    Parameters
    ----------
    net : ConstrainedNet
    steps : list of dict
        See `EpochSteps.waiting`.

    Returns
    -------
    torch.Tensor of shape (n_figures, n_batches)
        The means of loss and term, the largest violation of a domain, and
        `batch_figures`.
    """
    weight = _joined(steps, "weight")
    losses = _joined(steps, "losses")
    # A process may have no row in a batch, which would be 0 / 0.
    number = max(losses[0].numel(), 1)
    objective = (weight * losses).sum((1, 2)) / number
    constraint = (weight * _joined(steps, "term")).sum((1, 2)) / number
    domain = torch.zeros_like(objective)
    if steps[0]["domain_term"] is not None:
        constraint = constraint + _joined(steps, "domain_term")
        violations = _joined(steps, "domain_violation")
        if violations.numel():
            domain = violations.amax((1, 2))
    multiplier = violation = _joined(steps, "violation")
    if violation.numel():
        index = _joined(steps, "index").flatten()
        multiplier = net.strategy_.multipliers(violation.flatten(0, 1), index)
        multiplier = multiplier.view_as(violation)
    columns = batch_figures(violation, multiplier)
    return torch.stack([objective, constraint, domain, *columns])


def _joined(steps: list[dict[str, Any]], name: str) -> Tensor:
    # The last batch of an epoch is often alone in its size.
    if len(steps) == 1:
        return steps[0][name][None]
    return torch.stack([step[name] for step in steps])


def largest_multiplier(net: Any) -> Tensor:
    """Largest absolute multiplier of all rows; 0 if there are none.

    Parameters
    ----------
    net : ConstrainedNet

    Returns
    -------
    torch.Tensor of shape ()
    """
    multiplier = getattr(net.constraint_.state, "multiplier", None)
    if multiplier is None or multiplier.numel() == 0:
        return torch.zeros(())
    return multiplier.abs().amax()


@dataclass(frozen=True, eq=False)
class Epoch:
    """What the training steps of an epoch saw, as the weights moved.

    Attributes
    ----------
    sizes : ndarray of int of shape (n_batches,)
    objective, constraint : ndarray of shape (n_batches,)
        Means over each batch; their sum is its loss.
    summary : ConstraintSummary
        Of the rows of this process.
    n_rows : int
        Rows of this process that were in a batch.
    domain_violation : float
        Largest violation of whole domains, at least 0.
    largest_multiplier : float
        Largest absolute multiplier of all rows, after the last step.
    """

    sizes: NDArray
    objective: NDArray
    constraint: NDArray
    summary: ConstraintSummary
    n_rows: int
    domain_violation: float
    largest_multiplier: float

    @property
    def losses(self) -> NDArray:
        """Loss of each batch, shape (n_batches,)."""
        return self.objective + self.constraint

    def mean(self, name: str) -> float:
        """Mean of ``objective`` or ``constraint`` over the epoch's rows."""
        share = self.sizes / self.sizes.sum()
        return float(share @ getattr(self, name).astype(np.float64))

    def pooled(self, world: Alone) -> Epoch:
        """Sizes and losses of the batches of all processes.

        Parameters
        ----------
        world : Alone or Processes

        Returns
        -------
        Epoch
            With the violations of this process.
        """
        if not world.grouped:
            return self
        return replace(
            self,
            sizes=sum(world.gather(self.sizes)),
            objective=world.mean(torch.as_tensor(self.objective)).numpy(),
            constraint=world.mean(torch.as_tensor(self.constraint)).numpy(),
        )
