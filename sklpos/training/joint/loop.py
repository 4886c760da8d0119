"""The loop over the epochs of several nets."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback, EpochTimer, PassthroughScoring

from sklpos.training.decay import NoiseScaledDecay
from sklpos.training.epoch import Epoch, record_losses
from sklpos.training.finite import (
    check_weights,
    flush_subnormals,
    infinite_buffers,
)
from sklpos.training.joint.nets import JointNets
from sklpos.training.loop import gradients_on
from sklpos.training.rows import RowDataset
from sklpos.training.run import TrainingRun


@dataclass(eq=False)
class Trainee:
    """A net that trains with others.

    Attributes
    ----------
    net : ConstrainedNet
        New.
    rows : RowDataset
        Its training rows.
    callbacks : list of (str, Callback)
        For this training, besides those of the net.
    error : Exception or None
        What ended its training.
    """

    net: Any
    rows: RowDataset
    callbacks: list[tuple[str, Callback]]
    error: Exception | None = None
    best: float = math.inf
    masks: set[str] = field(default_factory=set)
    listeners: list[Callable] = field(default_factory=list)

    def begin(self, others: Sequence[Trainee] = ()) -> None:
        """Begin the training.

        Parameters
        ----------
        others : sequence of Trainee
            That began already.
        """
        net = self.net
        self.masks = infinite_buffers(net)
        net.module_.train()
        self._share_noise(others)
        self._try(net.notify, "on_train_begin", X=self.rows, y=None)
        # torch would warn that its schedule comes before the first step.
        net.optimizer_._opt_called = True
        # What they would compute is at hand.
        known = (EpochTimer, PassthroughScoring)
        self.listeners = [
            callback.on_epoch_end
            for _, callback in net.callbacks_
            if type(callback).on_epoch_end is not Callback.on_epoch_end
            and not isinstance(callback, known)
        ]

    def close_epoch(self, epoch: Epoch, seconds: float) -> None:
        """Record an epoch.

        Parameters
        ----------
        epoch : Epoch
        seconds : float
            That it took, as a part of what it took all nets.
        """
        if self.error is not None:
            return
        net, history = self.net, self.net.history
        net.epoch_ = epoch
        history.new_epoch()
        loss = float(np.average(epoch.losses.tolist(), weights=epoch.sizes))
        row = {
            "epoch": len(history),
            "dur": seconds,
            "train_batch_count": len(epoch.sizes),
            "train_loss": loss,
            "train_loss_best": loss < self.best,
        }
        self.best = min(loss, self.best)
        for name, value in row.items():
            history.record(name, value)
        batches = history[-1]["batches"]
        batches += [{} for _ in epoch.sizes]
        self._try(record_losses, net, epoch, batches)
        for listener in self.listeners:
            self._try(listener, net, dataset_train=self.rows, dataset_valid=None)

    def _share_noise(self, others: Sequence[Trainee]) -> None:
        # The estimate depends on the rows alone, and takes as long as some epochs.
        for other in others:
            if self._has_rows_of(other):
                for own, known in zip(_decays(self), _decays(other), strict=False):
                    own.noise_ = known.noise_
                return

    def _has_rows_of(self, other: Trainee) -> bool:
        own, known = self.rows, other.rows
        return (
            own.X is known.X
            and torch.equal(own.y, known.y)
            and torch.equal(own.weight, known.weight)
        )

    def _try(self, function: Callable, *args: Any, **kwargs: Any) -> None:
        if self.error is None:
            try:
                function(*args, **kwargs)
            # That of one net is no reason to end the others.
            except Exception as error:
                self.error = error

    def close(self) -> None:
        """End the training."""
        self._try(self.net.notify, "on_train_end", X=self.rows, y=None)
        self._try(check_weights, self.net, self.masks)
        flush_subnormals(self.net)


def _decays(trainee: Trainee) -> list[NoiseScaledDecay]:
    # Other callbacks, such as that of the schedule, may be in one of two nets only.
    callbacks = [callback for _, callback in trainee.net.callbacks_]
    return [own for own in callbacks if isinstance(own, NoiseScaledDecay)]


def train_together(trainees: Sequence[Trainee], epochs: int) -> None:
    """Train nets of one kind, each as it would train alone.

    Parameters
    ----------
    trainees : sequence of Trainee
        Of one `kind_of`.
    epochs : int

    Raises
    ------
    KeyboardInterrupt
        If Ctrl-C is pressed. The nets are then of no use.
    """
    trainees = sorted(trainees, key=lambda own: -len(own.rows))
    own = [trainee.net.callbacks_ for trainee in trainees]
    try:
        for trainee in trainees:
            net = trainee.net
            net.callbacks_ = [*net.callbacks_, *trainee.callbacks]
            net.run_ = TrainingRun(keeps_state=False)
        with gradients_on():
            _train(trainees, epochs)
    finally:
        for trainee, callbacks in zip(trainees, own, strict=True):
            trainee.net.callbacks_ = callbacks
            trainee.net.forget_run()


def _train(trainees: Sequence[Trainee], epochs: int) -> None:
    for number, trainee in enumerate(trainees):
        trainee.begin(trainees[:number])
    joint = JointNets([own.net for own in trainees], [own.rows for own in trainees])
    for epoch in range(epochs):
        if all(trainee.error is not None for trainee in trainees):
            break
        start = time.time()
        epochs_seen = joint.run_epoch(epoch)
        seconds = (time.time() - start) / len(trainees)
        for trainee, seen in zip(trainees, epochs_seen, strict=True):
            trainee.close_epoch(seen, seconds)
    joint.release()
    for trainee in trainees:
        trainee.close()
