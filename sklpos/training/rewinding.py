"""A net that goes back: to before a failure, or to how an epoch ended."""

from __future__ import annotations

import torch
from skorch.callbacks import Callback, Checkpoint, EarlyStopping

from sklpos.training.states import load_state
from sklpos.training.step import TrainingNet
from sklpos.training.trees import copied

_OURS = ("weight_decay", "early_stopping")  # callbacks by name, beside the defaults


class RewindingNet(TrainingNet):
    """A net whose training can be undone: weights, multipliers, optimizer, history.

    A failure is undone by whoever took a `snapshot`. An epoch that Ctrl-C cuts is
    undone here, and where a callback returns to its best epoch, the multipliers go
    with the weights.

    Attributes
    ----------
    undo_ : tuple or None
        The `snapshot` of the last finished epoch, while another one runs.
    taken_up_ : int
        Epochs that a checkpoint brought.
    """

    def snapshot(self):
        """Return what `restore` needs to undo training."""
        owners = [self, *(callback for _, callback in self.callbacks_)]
        attributes = [(owner, dict(vars(owner))) for owner in owners]
        parts = (self.module_, self.criterion_, self.constraint_, self.optimizer_)
        states = [(part, copied(part.state_dict())) for part in parts]
        return attributes, states, len(self.history)

    def restore(self, snapshot) -> None:
        """Undo everything since the `snapshot`, new multipliers and optimizers too."""
        attributes, states, n_epochs = snapshot
        for owner, values in attributes:
            vars(owner).update(values)
            for name in vars(owner).keys() - values.keys():
                delattr(owner, name)
        for part, state in states:
            load_state(part, state)
        del self.history[n_epochs:]

    def partial_fit(self, X, y=None, classes=None, epochs=None, **fit_params):
        """Train on, or go on from a checkpoint; Ctrl-C undoes the epoch that it cuts.

        Parameters
        ----------
        X : array-like or Dataset
        y : array-like, optional
        classes : object
            Not used.
        epochs : int, optional
            By default ``max_epochs``; those of a checkpoint count.
        **fit_params : object
            Passed to the module.

        Returns
        -------
        self

        Raises
        ------
        KeyboardInterrupt
            If no epoch was finished.
        DivergenceError
            If the loss or a weight is not finite.
        """
        if not self.initialized_:
            self.initialize()
        if epochs == 0:
            return self
        self.constraint_best_, self.undo_, self.taken_up_ = {}, None, 0
        self.notify("on_train_begin", X=X, y=y)
        start, grad_enabled = len(self.history), torch.is_grad_enabled()
        epochs = self.max_epochs if epochs is None else epochs
        try:
            self.fit_loop(X, y, epochs=epochs - self.taken_up_, **fit_params)
        except KeyboardInterrupt:
            torch.set_grad_enabled(grad_enabled)  # it may have cut torch.no_grad
            self._undo_cut_epoch()
            if len(self.history) == start:
                raise
        self.notify("on_train_end", X=X, y=y)
        self.constraint_best_, self.batches_, self.steps_ = {}, [], None
        self.backprop_ = None
        self._check_weights()
        return self

    def on_epoch_begin(self, net, **kwargs):
        """Remember how the last epoch ended."""
        self.undo_ = self.snapshot()
        super().on_epoch_begin(net, **kwargs)

    def after_epoch_end(self, net, **kwargs):
        """Nothing of this epoch will be undone."""
        self.undo_ = None

    def _undo_cut_epoch(self) -> None:
        if self.undo_ is not None:
            self.restore(self.undo_)

    def tell(self, name, callback, method_name, **cb_kwargs):
        """Tell a callback; what it rewinds, rewind with it."""
        try:
            super().tell(name, callback, method_name, **cb_kwargs)
        except KeyboardInterrupt:
            if method_name == "on_epoch_end" and self._is_further(name):
                self.undo_ = None  # it stops training; epoch and record are whole
            raise
        if getattr(callback, "load_best", False):
            self._follow(name, callback, method_name)

    def _is_further(self, name: str) -> bool:
        return name not in {*dict(self._default_callbacks), *_OURS}

    def _follow(self, name: str, callback: Callback, method_name: str) -> None:
        """Keep and rewind the multipliers where a callback does so with the weights."""
        if method_name == "on_epoch_end" and self._keeps_this_epoch(callback):
            best = {name: copied(self.constraint_.state_dict())}
            self.constraint_best_ = self.constraint_best_ | best  # a snapshot has it
        elif method_name == "on_train_end" and name in self.constraint_best_:
            self.constraint_.load_state_dict(self.constraint_best_[name])

    def _keeps_this_epoch(self, callback: Callback) -> bool:
        epoch = self.history[-1]
        if isinstance(callback, EarlyStopping):
            return callback.best_epoch_ == epoch["epoch"]
        return isinstance(callback, Checkpoint) and epoch.get(callback.event_name)

    def _check_weights(self) -> None:
        """Raise if the last step, whose loss nobody saw, left no finite weights."""
        if not all(value.isfinite().all() for value in _weights(self.module_)):
            raise self.divergence("a weight is no longer a finite number after")


def _weights(module: torch.nn.Module):
    yield from module.parameters()
    yield from module.buffers()
