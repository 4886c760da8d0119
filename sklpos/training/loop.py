"""The loop over epochs and batches, and its interruption."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from skorch.helper import predefined_split

from sklpos.nets.process import leaves_no_trace, n_interrupts
from sklpos.training.backprop import Backprop
from sklpos.training.epoch import (
    EACH_BATCH,
    EpochSteps,
    close_training,
    close_validation,
)
from sklpos.training.fast import ignores_loss
from sklpos.training.finite import (
    check_weights,
    flush_subnormals,
    infinite_buffers,
)
from sklpos.training.loaders import BatchLoader
from sklpos.training.monitors import check_validation_scores
from sklpos.training.randomness import (
    borrowed_generator,
    derive_seed,
    give_back_all,
)
from sklpos.training.rows import RowDataset, TrainingRows
from sklpos.training.run import Outcome, TrainingRun
from sklpos.training.stacked import StackBackprop, find_passes
from sklpos.training.state import load_training_state
from sklpos.training.world import Alone


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
    net.train_split = None
    if rows.valid is not None:
        net.train_split = predefined_split(world.validation.all_rows(rows.valid))
    net.callbacks_ = [*own, *callbacks]
    try:
        for part in (net.module_, net.criterion_):
            world.share([*part.parameters(), *part.buffers()])
        # Before the first epoch there is nothing that the caller would keep.
        net.run_ = TrainingRun(world, keeps_state=epochs > 1)
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


@leaves_no_trace
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
    masks = infinite_buffers(net)
    net.notify("on_train_begin", X=X, y=y)
    # After ``on_train_begin``, in which a checkpoint may have restored epochs.
    start = len(net.history)
    run = net.run_
    epochs = net.max_epochs if epochs is None else epochs
    run.n_interrupts = n_interrupts()
    try:
        with gradients_on():
            net.fit_loop(X, y, epochs=epochs - run.epochs_resumed, **fit_params)
    except KeyboardInterrupt:
        give_back_all()
        run.interrupted = run.pressed or run.undo is not None
        # Processes are interrupted in different epochs, and would not agree on one.
        if run.interrupted and run.world.grouped:
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
    check_weights(net, masks)
    flush_subnormals(net)
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
    # A callback of one process may look at losses that all of them have to average.
    watched = any(net.run_.world.gather(any(map(net.listeners, EACH_BATCH))))
    net.steps_ = EpochSteps(
        passes=_plain_passes(net, iterator) if training and not watched else None,
        need_losses=watched or not ignores_loss(net.optimizer_),
        may_repeat=iterator.may_repeat,
        # Between the steps, a callback may change the optimizer.
        groups=None if watched else [],
    )
    if training and net.cuda_graph:
        net.run_.graphs.begin_epoch(net, iterator)
        step_fn = partial(net.run_.graphs.step, net)
    epoch = net.history[-1]
    records = epoch["batches"]
    before = len(records)
    for batch in iterator:
        record = {}
        records.append(record)
        if watched:
            net.notify("on_batch_begin", batch=batch, training=training)
        step = step_fn(batch, **fit_params)
        # Reading a loss waits for the device, so do it only if a callback may look.
        if watched or not training:
            loss = step["loss"]
            record[f"{prefix}_loss"] = loss.item() if watched else loss
        record[f"{prefix}_batch_size"] = len(batch)
        if watched:
            net.notify("on_batch_end", batch=batch, training=training, **step)
    epoch[f"{prefix}_batch_count"] = len(records) - before
    if training:
        close_training(net, records)
    else:
        close_validation(net, records[before:])


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
    # Autocast is a part of autograd.
    if net.autocast is not None:
        return None
    # Looked for in each epoch, as a callback may have changed the module.
    run.passes = find_passes(net.module_, run.passes)
    # Another loader may change the rows, so that their numbers do not tell them.
    plain = type(iterator) is BatchLoader and type(iterator.dataset) is RowDataset
    plain = plain and iterator.dataset.in_memory
    if run.passes is not None and plain:
        run.passes.keep_rows(iterator.dataset.X)
    return run.passes
