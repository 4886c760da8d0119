"""The loop over epochs and batches, and its interruption."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from skorch.helper import predefined_split
from torch import nn

from sklpos.training.backprop import Backprop
from sklpos.training.epoch import EpochSteps
from sklpos.training.fast import ignores_loss
from sklpos.training.interrupts import InterruptWatch
from sklpos.training.loaders import BatchLoader
from sklpos.training.monitors import check_validation_scores
from sklpos.training.randomness import borrowed_generator, derive_seed
from sklpos.training.rows import RowDataset, TrainingRows
from sklpos.training.stacked import StackBackprop, find_passes
from sklpos.training.state import load_training_state
from sklpos.training.world import Alone


@dataclass(eq=False)
class TrainingRun:
    """State that a net needs only while it trains.

    Attributes
    ----------
    world : Alone or Processes
    replica : nn.Module or None
        The module, wrapped so that processes average its gradients.
    undo : dict or None
        The training state at the end of the last epoch, while the next one runs; empty
        if it is not kept.
    keeps_state : bool
        False where an interrupted epoch need not be undone, as the net is dropped.
    epochs_resumed : int
        Number of epochs that were restored from a checkpoint.
    epochs_run : int
        Number of epochs that were finished, those of a checkpoint included.
    watch : InterruptWatch
    interrupted : bool
        Whether Ctrl-C ended training, or an epoch was cut.
    passes : Backprop, StackBackprop or None
        Those of the last epoch that could do without a graph.
    """

    world: Alone = field(default_factory=Alone)
    replica: nn.Module | None = None
    undo: dict[str, Any] | None = None
    keeps_state: bool = True
    epochs_resumed: int = 0
    epochs_run: int = 0
    watch: InterruptWatch = field(default_factory=InterruptWatch)
    interrupted: bool = False
    passes: Backprop | StackBackprop | None = None


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes
    ----------
    n_iter : int
        Number of epochs run, those of a checkpoint included.
    interrupted : bool
        Whether Ctrl-C ended it, or a callback in the middle of an epoch.
    """

    n_iter: int
    interrupted: bool


def train(
    net, rows: TrainingRows, epochs: int, callbacks: list, world: Alone | None = None
) -> Outcome:
    """Train a net for some epochs; Ctrl-C and early stopping may end it before.

    Parameters
    ----------
    net : ConstrainedNet
    rows : TrainingRows
    epochs : int
    callbacks : list of (str, Callback)
        For this call only.
    world : Alone or Processes, optional

    Returns
    -------
    Outcome

    Raises
    ------
    ValueError
        If a callback waits for a score of validation rows, and there are none.
    """
    world = world or Alone()
    own = net.callbacks_
    if rows.valid is None and epochs:
        check_validation_scores(own)
    net.train_split = predefined_split(rows.valid) if rows.valid else None
    net.callbacks_ = [*own, *callbacks]
    try:
        replica = world.replicate(net.module_)
        # Before the first epoch there is nothing that the caller would keep.
        net.run_ = TrainingRun(world, replica, keeps_state=epochs > 1)
        net.partial_fit(rows.train, epochs=epochs)
        return Outcome(net.run_.epochs_run, net.run_.interrupted)
    finally:
        net.callbacks_ = own
        # The split holds the validation rows, and a net must not carry data.
        net.train_split = None
        net.forget_run()


@contextmanager
def gradients_on() -> Iterator[None]:
    """Compute gradients whatever the caller's mode, and restore that, also on Ctrl-C.

    Ctrl-C may leave gradients off where it strikes inside ``no_grad``.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


def fit_epochs(net, X, y=None, epochs: int | None = None, **fit_params):
    """Train further, or resume from a checkpoint; Ctrl-C undoes the epoch it cuts.

    Parameters
    ----------
    net : ConstrainedNet
    X : array-like or Dataset
    y : array-like, optional
    epochs : int, optional
        By default ``max_epochs``; epochs restored from a checkpoint count.
    **fit_params : object
        Passed to the module.

    Returns
    -------
    ConstrainedNet

    Raises
    ------
    KeyboardInterrupt
        If no epoch was finished, if several processes train, or if the state before the
        last epoch was not kept.
    DivergenceError
        If the loss or a weight is not finite.
    """
    net.constraint_best_ = {}
    net.notify("on_train_begin", X=X, y=y)
    # After ``on_train_begin``, in which a checkpoint may have restored epochs.
    start = len(net.history)
    run = net.run_
    epochs = net.max_epochs if epochs is None else epochs
    try:
        with gradients_on(), run.watch.watching():
            net.fit_loop(X, y, epochs=epochs - run.epochs_resumed, **fit_params)
    except KeyboardInterrupt:
        run.interrupted = run.watch.pressed or run.undo is not None
        # Processes are interrupted in different epochs, and would not agree on one.
        if run.interrupted and run.replica is not None:
            raise
        # Nothing to undo if the interrupt came after the end of an epoch.
        if run.undo:
            load_training_state(net, run.undo)
        if run.undo == {} or len(net.history) == start:
            raise
    # Before ``on_train_end``, where skorch's Checkpoint may restore a shorter history.
    run.epochs_run = run.epochs_resumed + len(net.history) - start
    net.notify("on_train_end", X=X, y=y)
    net.constraint_best_ = {}
    _check_weights(net)
    return net


def run_batches(net, iterator, training, prefix, step_fn, **fit_params) -> None:
    """Go through the batches once; training steps are summed up at the end.

    Parameters
    ----------
    net : ConstrainedNet
    iterator : iterable of Batch
    training : bool
    prefix : {"train", "valid"}
    step_fn : callable
    **fit_params : object
    """
    watched = net.watches_batches
    net.steps_ = EpochSteps(
        passes=_plain_passes(net, iterator) if training and not watched else None,
        need_losses=watched or not ignores_loss(net.optimizer_),
        may_repeat=iterator.may_repeat,
    )
    records = net.history[-1]["batches"]
    before = len(records)
    for batch in iterator:
        record = {}
        records.append(record)
        net.notify("on_batch_begin", batch=batch, training=training)
        step = step_fn(batch, **fit_params)
        # Reading a loss waits for the device, so do it only if a callback may look.
        if watched or not training:
            record[f"{prefix}_loss"] = step["loss"].item()
        record[f"{prefix}_batch_size"] = len(batch)
        net.notify("on_batch_end", batch=batch, training=training, **step)
    net.history.record(f"{prefix}_batch_count", len(records) - before)
    if training:
        _close_epoch(net, records)


def step_randomness(net) -> AbstractContextManager:
    """Seed torch's generators for the next step, if it draws from them.

    Parameters
    ----------
    net : ConstrainedNet

    Returns
    -------
    context manager
        Restores the generators.
    """
    # Most modules draw nothing, and borrowing makes other threads wait.
    if not net.stochastic:
        return nullcontext()
    # A key that begins with 1, as the order of the batches has one that begins with 0.
    batch = len(net.history[-1]["batches"])
    seed = derive_seed(net.seed, 1, len(net.history), batch)
    return borrowed_generator(seed, net.device)


def _plain_passes(net, iterator) -> Backprop | StackBackprop | None:
    """Passes without a graph, or None if a graph is needed."""
    run = net.run_
    # Processes average gradients in hooks of autograd; autocast is a part of it.
    if run.replica is not None or net.autocast is not None:
        return None
    # Looked for in each epoch, as a callback may have changed the module.
    run.passes = find_passes(net.module_, run.passes)
    # Another loader may change the rows, so that their numbers do not tell them.
    plain = type(iterator) is BatchLoader and type(iterator.dataset) is RowDataset
    plain = plain and iterator.dataset.in_memory
    if run.passes is not None and plain:
        run.passes.keep_rows(iterator.dataset.X)
    return run.passes


def _close_epoch(net, records: list[dict]) -> None:
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


def _check_weights(net) -> None:
    """Raise if the last step left weights that are not finite."""
    # Losses are computed before a step, so none of them shows the result of the last.
    values = [*net.module_.parameters(), *net.module_.buffers()]
    if not all(value.isfinite().all() for value in values):
        raise net.divergence("a weight is no longer a finite number after")
