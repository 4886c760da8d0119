"""An epoch: who listens to its batches, and the results of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sklpos.training.backprop import Backprop
from sklpos.training.rows import Batch
from sklpos.training.stacked import StackBackprop
from sklpos.training.world import Alone

#: Hooks of every batch. A step takes less than a millisecond, so calling the empty
#: hooks of all callbacks would be a noticeable part of it.
EACH_BATCH = ("on_batch_begin", "on_batch_end", "on_grad_computed")
# What the record of an epoch needs of each step.
_KEPT = ("violation", "losses", "term", "domain_violation", "domain_term")


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
    done : list of dict
        What is kept of each step.
    """

    passes: Backprop | StackBackprop | None = None
    need_losses: bool = True
    dual_step_due: bool = False
    may_repeat: bool = False
    done: list[dict[str, Any]] = field(default_factory=list)

    def add(self, batch: Batch, step: dict[str, Any]) -> None:
        """Keep what the record of the epoch is made of.

        Parameters
        ----------
        batch : Batch
        step : dict
            See `sklpos.training.step.compute_step`.
        """
        # Not the inputs, nor the predictions with the graph behind them: the rows of a
        # whole epoch would be held in memory once more.
        kept = {name: step[name] for name in _KEPT}
        self.done.append({"index": batch.index, "weight": batch.weight, **kept})

    def close(self) -> Epoch:
        """Join the batches of an epoch that is over.

        Losses are averaged here, for all batches at once: in each step, where they are
        rarely needed, the sums would cost as much as the loss itself.

        Returns
        -------
        Epoch
        """
        steps = self.done
        joined = {
            name: torch.cat([step[name] for step in steps])
            for name in ("index", "weight", "violation", "losses", "term")
        }
        weight, violation = joined["weight"], joined["violation"]
        sizes = torch.tensor([len(step["index"]) for step in steps]).to(weight.device)
        n_outputs = joined["losses"].shape[1]
        constraint = _batch_means(weight * joined["term"], sizes, n_outputs)
        # Empty, but of the right dtype and on the right device.
        domain_violation = violation[:0]
        if steps[0]["domain_term"] is not None:
            constraint += torch.stack([step["domain_term"] for step in steps])
            domain_violation = torch.cat([step["domain_violation"] for step in steps])
        return Epoch(
            index=joined["index"],
            violation=violation,
            domain_violation=domain_violation,
            sizes=sizes,
            objective=_batch_means(weight * joined["losses"], sizes, n_outputs),
            constraint=constraint,
        )


def _batch_means(rows: Tensor, sizes: Tensor, n_outputs: int) -> Tensor:
    """Means over the rows and outputs of each batch, shape (n_batches,)."""
    number = torch.repeat_interleave(sizes)
    # A process may have no row in a batch, which would be 0 / 0.
    sums = rows.new_zeros(len(sizes)).index_add_(0, number, rows.sum(1))
    return sums / (n_outputs * sizes.clamp(min=1))


@dataclass(frozen=True, eq=False)
class Epoch:
    """What the training steps of an epoch saw, as the weights moved.

    Attributes
    ----------
    index : torch.Tensor of shape (n_rows,)
        Row numbers, in the order of training.
    violation : torch.Tensor of shape (n_rows, n_columns)
    domain_violation : torch.Tensor
        Those of whole domains; empty where the strategy looks at none.
    sizes : torch.Tensor of shape (n_batches,)
    objective, constraint : torch.Tensor of shape (n_batches,)
        Means over each batch; their sum is its loss.
    """

    index: Tensor
    violation: Tensor
    domain_violation: Tensor
    sizes: Tensor
    objective: Tensor
    constraint: Tensor

    @property
    def losses(self) -> Tensor:
        """Loss of each batch, shape (n_batches,)."""
        return self.objective + self.constraint

    def mean(self, name: str) -> float:
        """Mean of ``objective`` or ``constraint`` over the epoch's rows."""
        # On the CPU first, because not every device has float64.
        values = getattr(self, name).cpu().double()
        share = self.sizes.cpu().double() / self.sizes.sum().cpu()
        return float(share @ values)

    def largest(self, name: str = "violation") -> float:
        """Largest ``violation`` or ``domain_violation``, at least 0."""
        values = getattr(self, name)
        return max(float(values.amax()), 0.0) if values.numel() else 0.0

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
        sizes = sum(world.gather(self.sizes.cpu())).to(self.sizes.device)
        return replace(
            self,
            sizes=sizes,
            objective=world.mean(self.objective),
            constraint=world.mean(self.constraint),
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
    epoch = net.steps_.close().pooled(net.run_.world)
    # The batches would stay in memory until the next epoch.
    net.steps_ = EpochSteps()
    net.epoch_ = epoch
    values = epoch.losses.tolist(), epoch.sizes.tolist()
    for record, loss, size in zip(records, *values, strict=True):
        record["train_loss"] = loss
        record["train_batch_size"] = size
        if not math.isfinite(loss):
            raise net.divergence(f"the loss became {loss} in")
    # Those of batch norm, for instance, follow the rows of each process.
    for part in (net.module_, net.criterion_):
        net.run_.world.share(part.buffers())


def close_validation(net: Any, records: list[dict]) -> None:
    """Record how many rows of all processes are in each batch.

    Parameters
    ----------
    net : ConstrainedNet
    records : list of dict
        Of the batches; their losses are those of all processes already.
    """
    sizes = torch.tensor([record["valid_batch_size"] for record in records])
    sizes = sum(net.run_.world.gather(sizes)).tolist()
    for record, size in zip(records, sizes, strict=True):
        record["valid_batch_size"] = size
