"""The skorch layer of a fit by several processes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sklpos.training.callbacks import ConstraintHistory
from sklpos.training.net import ConstrainedNet
from sklpos.training.rows import Batch, spread_out
from sklpos.training.steps import Steps
from sklpos.training.world import (
    Share,
    SharedLoader,
    SharedRows,
    gather,
    mean_of_processes,
)


class PooledHistory(ConstraintHistory):
    """The record of an epoch, of the rows of all processes.

    Examples
    --------
    >>> isinstance(PooledHistory(), ConstraintHistory)
    True
    """

    @staticmethod
    def _summary(net, violation: Tensor, index: Tensor) -> dict[str, float]:
        own = ConstraintHistory._summary(net, violation, index)
        own = {name: float(value) for name, value in own.items()}
        if net.share is None:
            return own
        parts, sizes = zip(*gather((own, len(violation))), strict=True)
        shares = np.array(sizes) / sum(sizes)
        columns = {name: [part[name] for part in parts] for name in own}
        return {
            name: max(column) if name.startswith("max_") else float(shares @ column)
            for name, column in columns.items()
        }


class ParallelNet(ConstrainedNet):
    """A net whose steps are on batches of which each process has a part.

    Every process draws the same batches and computes on its own rows of them; torch's
    ``DistributedDataParallel`` averages the gradients. Multipliers and slack are those
    of the own rows. Losses, violations and the schedule are of all rows.

    Attributes
    ----------
    share : Share or None
        None: all rows are one's own, as for a `ConstrainedNet`.
    """

    share: Share | None = None
    replica_: DistributedDataParallel | None = None

    def __init__(self, module, *, iterator_train=SharedLoader, **kwargs):
        super().__init__(module, iterator_train=iterator_train, **kwargs)

    @property
    def _default_callbacks(self):
        own = dict(super()._default_callbacks)
        return list({**own, "constraint_history": PooledHistory()}.items())

    def get_iterator(self, dataset, training=False):
        """Go through the batches of all processes."""
        if training and self.share is not None:
            dataset = SharedRows(dataset, self.share)
        return super().get_iterator(dataset, training=training)

    def partial_fit(self, X, y=None, classes=None, **fit_params):
        """Train on, together with the other processes."""
        if self.share is None:
            return super().partial_fit(X, y, classes, **fit_params)
        # past skorch, to which a further module would have weights of its own
        vars(self)["replica_"] = DistributedDataParallel(self.module_)
        try:
            return super().partial_fit(X, y, classes, **fit_params)
        finally:
            del self.__dict__["replica_"]

    def infer(self, x, **fit_params):
        """Predict; what is to be differentiated, by way of the replica."""
        if self.replica_ is None or not torch.is_grad_enabled():
            return super().infer(x, **fit_params)
        return self.replica_(x, **fit_params)

    def plain_backprop(self):
        """Leave the gradients to the replica, which averages them."""
        return None if self.replica_ is not None else super().plain_backprop()

    def train_step_single(self, batch: Batch, **fit_params):
        """Compute the gradient of the whole batch, and its loss."""
        step = super().train_step_single if len(batch.index) else self._idle_step
        step = step(batch, **fit_params)
        if self.share is not None and step["loss"] is not None:
            step["loss"] = mean_of_processes(step["loss"])
        return step

    def _idle_step(self, batch: Batch, **fit_params):
        """Take part in the mean of the gradients without a row."""
        self._set_training(True)
        y_pred = self.infer(batch[0], **fit_params)
        y_pred.sum().backward()
        zero = y_pred.detach().sum()
        return {
            "loss": None if self.losses_wait_ else zero,
            "y_pred": y_pred,
            "violation": self.violation(y_pred.detach()),
            "objective": zero,
            "constraint": zero,
        }

    def _sum_up(self, batches: list[tuple]) -> Steps:
        steps = super()._sum_up(batches)
        if self.share is None:
            return steps
        sizes = sum(gather(steps.sizes.cpu())).to(steps.sizes.device)
        records = self.history[-1]["batches"]
        for record, size in zip(records, sizes.tolist(), strict=True):
            record["train_batch_size"] = size
        return replace(
            steps,
            sizes=sizes,
            objective=mean_of_processes(steps.objective),
            constraint=mean_of_processes(steps.constraint),
        )

    def some_rows(self, rows, number: int) -> list[np.ndarray]:
        """Return rows from all over the rows of all processes."""
        if self.share is None:
            return super().some_rows(rows, number)
        index = spread_out(self.share.n_samples, number) - self.share.first
        batch = rows[index[(index >= 0) & (index < len(rows))]]
        weight = batch.weight.ravel() * self.share.gain
        own = [part.numpy(force=True) for part in (*batch, weight)]
        return [np.concatenate(parts) for parts in zip(*gather(own), strict=True)]

    def largest_violation(self, own: float) -> float:
        """Return the largest violation in any process."""
        return own if self.share is None else max(gather(own))
