"""An epoch: who listens to its batches, and the results of its steps.

Nothing is read from the device while an epoch runs. Its figures stay there, a column
per batch, and come to the CPU together when it is over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklpos.nets.placement import fetched
from sklpos.strategies.record import ConstraintSummary
from sklpos.training.backprop import Backprop
from sklpos.training.fast import AdamGroup
from sklpos.training.figures import Epoch, figures_of, largest_multiplier
from sklpos.training.rows import Batch
from sklpos.training.stacked import StackBackprop

#: Hooks of every batch. A step takes less than a millisecond, so calling the empty
#: hooks of all callbacks would be a noticeable part of it.
EACH_BATCH = ("on_batch_begin", "on_batch_end", "on_grad_computed")
# What the figures of a batch are made of.
_KEPT = ("violation", "losses", "term", "domain_violation", "domain_term")
# Rows of steps that wait until figures are made of many of them at once. Few, because
# what is kept between large tensors of a moment scatters the memory.
_MOST_WAITING = 2**13


class Listeners:
    """Hooks that a net and its callbacks define.

    Parameters
    ----------
    net : ConstrainedNet
    idle : tuple of type
        Classes whose hooks do nothing.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from skorch.callbacks import Callback
    >>> class Quiet(Callback):
    ...     pass
    >>> net = SimpleNamespace(callbacks_=[("quiet", Quiet())])
    >>> Listeners(net, (Callback,)).of("on_batch_end")
    []
    """

    def __init__(self, net: Any, idle: tuple[type, ...]):
        self.owners = [net, *(callback for _, callback in net.callbacks_)]
        self.idle = idle
        self.known: dict[str, list[Callable]] = {}

    def of(self, hook: str) -> list[Callable]:
        """Methods of the net, then of the callbacks, without those that do nothing.

        Parameters
        ----------
        hook : str

        Returns
        -------
        list of callable
        """
        # Looked up once, since this is asked several times per batch.
        if hook not in self.known:
            methods = [getattr(owner, hook, None) for owner in self.owners]
            # A bound method is a new object on each access; its function is not.
            idle = [None, *(getattr(cls, hook, None) for cls in self.idle)]
            self.known[hook] = [
                method
                for method in methods
                if getattr(method, "__func__", method) not in idle
            ]
        return self.known[hook]


@dataclass(eq=False)
class EpochSteps:
    """The training steps of an epoch, while it runs.

    Attributes
    ----------
    passes : Backprop, StackBackprop or None
        Passes without a graph; None where one is needed.
    need_losses : bool
        Whether the loss of a batch is needed at once, by a callback or an optimizer.
    dual_step_due : bool
        Whether the batch still needs its dual step; LBFGS evaluates a batch many times.
    may_repeat : bool
        Whether a row may be in a batch several times.
    groups : list of AdamGroup or None
        See `sklpos.training.fast.step_optimizer`.
    waiting : list of dict
        Steps on batches of one size, of which no figures have been made yet.
    figures : list of torch.Tensor of shape (n_figures, n_batches)
        See `figures_of`.
    sizes : list of int
        Rows of each batch.
    """

    passes: Backprop | StackBackprop | None = None
    need_losses: bool = True
    dual_step_due: bool = False
    may_repeat: bool = False
    groups: list[AdamGroup] | None = None
    waiting: list[dict[str, Any]] = field(default_factory=list)
    figures: list[Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, net: Any, batch: Batch, step: dict[str, Any]) -> None:
        """Keep what the record of the epoch is made of.

        Parameters
        ----------
        net : ConstrainedNet
        batch : Batch
        step : dict
            See `sklpos.training.step.compute_step`.
        """
        size = len(batch)
        if self.waiting and self._is_full(size):
            self._make_figures(net)
        # Not the inputs, nor the predictions with the graph behind them: the rows of a
        # whole epoch would be held in memory once more.
        kept = {name: step[name] for name in _KEPT}
        self.waiting.append({"index": batch.index, "weight": batch.weight, **kept})
        self.sizes.append(size)

    def add_figures(self, figures: Tensor, size: int) -> None:
        """Keep the figures of a batch.

        Parameters
        ----------
        figures : torch.Tensor of shape (n_figures, 1)
        size : int
            Number of its rows.
        """
        self.figures.append(figures)
        self.sizes.append(size)

    def _is_full(self, size: int) -> bool:
        # Batches of equal size are summed up together, without a mask.
        other_size = size != len(self.waiting[0]["index"])
        return other_size or (len(self.waiting) + 1) * size > _MOST_WAITING

    def _make_figures(self, net: Any) -> None:
        self.figures.append(figures_of(net, self.waiting))
        self.waiting = []

    def close(self, net: Any) -> Epoch:
        """Sum up an epoch that is over, with the only read of it from the device.

        Parameters
        ----------
        net : ConstrainedNet

        Returns
        -------
        Epoch
        """
        if self.waiting:
            self._make_figures(net)
        known = torch.cat(self.figures, dim=1), net.constraint_.state.alpha
        figures, alpha, largest = fetched(*known, largest_multiplier(net))
        objective, constraint, domain, *columns = figures.numpy()
        n_rows = sum(self.sizes)
        n_seen = n_rows * net.constraint_.columns.n_bounded
        return Epoch(
            sizes=np.array(self.sizes),
            objective=objective,
            constraint=constraint,
            summary=ConstraintSummary.of_batches(columns, n_seen, float(alpha)),
            n_rows=n_rows,
            domain_violation=max(float(domain.max()), 0.0),
            largest_multiplier=float(largest),
        )


def close_training(net: Any, records: list[dict]) -> None:
    """End the training steps of an epoch, and record their losses.

    Parameters
    ----------
    net : ConstrainedNet
    records : list of dict
        Of the batches.

    Raises
    ------
    DivergenceError
        If a loss is not finite.
    """
    epoch = net.steps_.close(net).pooled(net.run_.world)
    # The batches would stay in memory until the next epoch.
    net.steps_ = EpochSteps()
    net.epoch_ = epoch
    record_losses(net, epoch, records)
    # Those of batch norm, for instance, follow the rows of each process.
    for part in (net.module_, net.criterion_):
        net.run_.world.share(part.buffers())


def record_losses(net: Any, epoch: Epoch, records: list[dict]) -> None:
    """Record the loss and the size of each batch.

    Parameters
    ----------
    net : ConstrainedNet
    epoch : Epoch
    records : list of dict
        Of the batches.

    Raises
    ------
    DivergenceError
        If a loss is not finite.
    """
    values = epoch.losses.tolist(), epoch.sizes.tolist()
    for record, loss, size in zip(records, *values, strict=True):
        record["train_loss"] = loss
        record["train_batch_size"] = size
        if not math.isfinite(loss):
            raise net.divergence(f"the loss became {loss} in")


def close_validation(net: Any, records: list[dict]) -> None:
    """Record the losses, and how many rows of all processes are in each batch.

    Parameters
    ----------
    net : ConstrainedNet
    records : list of dict
        Of the batches; their losses are those of all processes already. Those that
        nobody looked at yet are tensors.
    """
    unseen = [row for row in records if isinstance(row["valid_loss"], Tensor)]
    losses = fetched(*(row["valid_loss"] for row in unseen))
    for record, loss in zip(unseen, losses, strict=True):
        record["valid_loss"] = float(loss)
    sizes = torch.tensor([record["valid_batch_size"] for record in records])
    sizes = sum(net.run_.world.gather(sizes)).tolist()
    for record, size in zip(records, sizes, strict=True):
        record["valid_batch_size"] = size
