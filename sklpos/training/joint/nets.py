"""Several nets, and an epoch of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklpos.strategies.record import ConstraintSummary
from sklpos.training.epoch import Epoch
from sklpos.training.joint.constraint import JointConstraint
from sklpos.training.joint.passes import find_joint_passes
from sklpos.training.joint.rows import JointRows
from sklpos.training.joint.weights import JointWeights
from sklpos.training.rows import RowDataset
from sklpos.training.step import loss_per_output


class JointNets:
    """Nets that make their steps together.

    Parameters
    ----------
    nets : sequence of ConstrainedNet
        Of one `kind_of`, with the most rows first.
    rows : sequence of RowDataset
        Those of each net.
    """

    def __init__(self, nets: Sequence[Any], rows: Sequence[RowDataset]):
        self.nets = list(nets)
        self.first = nets[0]
        self.rows = JointRows(rows, self.first.batch_size, [net.seed for net in nets])
        self.weights = JointWeights(self.nets)
        self.passes = find_joint_passes(self.nets, rows, self.weights)
        self.constraint = JointConstraint([net.constraint_ for net in nets])
        self.share = self.rows.shares(self.rows.y.shape[1])[..., None]

    def run_epoch(self, number: int) -> list[Epoch]:
        """Go through all batches once.

        Parameters
        ----------
        number : int
            Of the epoch, from 0 on.

        Returns
        -------
        list of Epoch
            What each net saw.
        """
        order = self.rows.order(number)
        self.weights.read_rates()
        steps = self.rows.batches()
        n_columns = len(self.first.constraint_.columns)
        violation = self.rows.y.new_zeros(*order.shape, n_columns)
        sums = self.rows.y.new_zeros(len(order), 2, len(steps))
        for step, (first, places) in enumerate(steps):
            seen, *own = self._step(order[:first, places], self.share[:first, places])
            violation[:first, places] = seen
            sums[:first, :, step] = torch.stack(own, dim=1)
        return self._epochs(order, violation, sums)

    def _step(self, index: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make a step; violations, and means of loss and term over each batch."""
        rows, number = self.rows, len(index)
        place = (index + rows.start[:number]).flatten()
        of_X = (index + rows.X_start[:number]).flatten()
        X = rows.X.index_select(0, of_X).unflatten(0, index.shape)
        y = rows.y.index_select(0, place).unflatten(0, index.shape)
        weight = rows.weight.index_select(0, place).unflatten(0, index.shape)
        outputs = self.passes.forward(X)
        violation, term, slope = self.constraint.step(outputs, index)
        share = share * weight
        losses, gradient = self._losses_and_gradient(outputs, y)
        found = self.passes.backward((gradient + slope) * share)
        target = self.weights.gradient[:number]
        torch.cat([part.flatten(1) for part in found], dim=1, out=target)
        self.weights.step(number)
        return violation, (share * losses).sum((1, 2)), (share * term).sum((1, 2))

    def _losses_and_gradient(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each output, and its derivative."""
        if type(self.first.criterion_) is torch.nn.MSELoss:
            residual = outputs - y
            return residual * residual, 2 * residual
        with torch.enable_grad():
            flat = outputs.detach().flatten(0, 1).requires_grad_()
            losses = loss_per_output(self.first, flat, y.flatten(0, 1))
            (gradient,) = torch.autograd.grad(losses.sum(), flat)
        shape = outputs.shape
        return losses.detach().view(shape), gradient.view(shape)

    def _epochs(self, order: Tensor, violation: Tensor, sums: Tensor) -> list[Epoch]:
        """What each net saw, from the results of all steps."""
        figures = self._figures(order, violation)
        columns = self.first.constraint_.columns
        parts = zip(self.rows.sizes, self.rows.n_batches, figures, strict=True)
        made = []
        for (n_rows, n_batches, own), means in zip(parts, sums.numpy(), strict=True):
            *of_rows, alpha, largest_multiplier = own
            # The rows of all batches, as if they were one.
            of_rows = np.array(of_rows)[:, None]
            n_seen = n_rows * columns.n_bounded
            sizes = np.full(n_batches, self.rows.batch_size)
            sizes[-1] = n_rows - sizes[:-1].sum()
            epoch = Epoch(
                sizes=sizes,
                objective=means[0, :n_batches],
                constraint=means[1, :n_batches],
                summary=ConstraintSummary.of_batches(of_rows, n_seen, alpha),
                n_rows=n_rows,
                domain_violation=0.0,
                largest_multiplier=largest_multiplier,
            )
            made.append(epoch)
        return made

    def _figures(self, order: Tensor, violation: Tensor) -> list[list[float]]:
        """Of each net, what `ConstraintSummary` holds, and its largest multiplier."""
        state = self.constraint.state
        alpha = state["alpha"]
        columns = [torch.zeros_like(alpha)] * 4
        if violation.numel():
            multiplier = self.constraint.multipliers(violation, order)
            filled, of_net = self.rows.filled[..., None], (1, 2)
            columns = [
                torch.where(filled, violation, -torch.inf).amax(of_net),
                ((violation > 0) & filled).sum(of_net).to(violation),
                torch.where(filled, multiplier, -torch.inf).amax(of_net),
                (filled * multiplier).sum(of_net),
            ]
        of_all = torch.zeros_like(alpha)
        if "multiplier" in state and state["multiplier"].numel():
            of_all = state["multiplier"].abs().amax((1, 2))
        return torch.stack([*columns, alpha, of_all], dim=1).tolist()

    def release(self) -> None:
        """Give each net tensors of its own again."""
        self.weights.release()
        self.constraint.release()
