"""Training that survives its process: all of its state in one file."""

from __future__ import annotations

import os
from functools import partial
from numbers import Integral

from skorch.callbacks import Callback

from sklpos.nets.hints import literal, shortened
from sklpos.training.archive import read_archive, write_archive
from sklpos.training.callback_state import warn_of_forgetful
from sklpos.training.files import OwnedFile, show_path
from sklpos.training.pooled_state import (
    on_first,
    own_state,
    pool_state,
    pooled_problem,
    raise_for_all,
)
from sklpos.training.problem import describe_problem
from sklpos.training.saved import restored_state, storable_state
from sklpos.training.state import load_training_state
from sklpos.training.unsaved import unsaved_digests, warn_of_unsaved
from sklpos.training.world import Alone

# They differ where something else does.
_CONSEQUENCES = {"module", "optimizer"}


class TrainingCheckpoint(Callback):
    """Saves the state of training, from which a `fit` that was killed resumes.

    When a `fit` begins and the file exists, training continues where the file ends, and
    ends as if it had never stopped, bit for bit: weights, optimizer, multipliers,
    slack, the schedule of alpha, the order of the batches, early stopping, history. The
    file is written under another name and then renamed, so a kill at any moment leaves
    a complete one, and others may read it at any time. While `fit` trains, an empty
    file, ``<path>.lock``, keeps other fits away from it. It stays when `fit` is over:
    delete it to start again, or, with ``lr_schedule=None``, raise ``max_epochs`` to
    continue training.

    Parameters
    ----------
    path : str or os.PathLike
        The file of one `fit`, in a folder that exists. A symbolic link is followed.
    every : int, default=1
        Epochs between two writes. Each file holds the whole history.

    Raises
    ------
    ValueError
        When a `fit` begins: if the file belongs to another problem (rows, seed, initial
        weights, or parameters other than those of callbacks, ``tol`` and
        ``n_iter_no_change``), has more epochs than ``max_epochs``, is damaged, was
        written by another version of this package or of torch, or is no checkpoint, or
        if the net was trained before (``warm_start`` and `partial_fit`). Also, before
        the first epoch: if another `fit` trains with the file, or `path` is not that of
        a file, leads to no folder or is read-only.
    OSError
        If the system refuses to read or to write the file, for instance as the disk is
        full. The file of the last write, and a model fitted before, stay.

    Notes
    -----
    In `fit_data_parallel`, the first process alone uses the file, which holds the state
    of all; training resumes with as many processes.

    ``random_state`` must be given. A callback of your own lists the attributes that it
    remembers of training in ``state_attributes_``; those of numbers, strings, arrays
    or tensors, or with a ``state_dict``, are saved, and all others start again. The
    file sets nothing else, and no code of it runs: it is read by
    ``torch.load(weights_only=True)`` after its checksum was found to hold, and types
    and shapes are compared with those of the net before anything is changed.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from sklpos import PositiveOutputRegressor
    >>> X = np.linspace(-1, 1, 50).reshape(-1, 1)
    >>> y = np.maximum(X.ravel(), 0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint = TrainingCheckpoint(os.path.join(folder, "fit.ckpt"), every=5)
    ...     model = PositiveOutputRegressor(
    ...         callbacks=[checkpoint], lr_schedule=None, random_state=0
    ...     )
    ...     model = model.set_params(max_epochs=10).fit(X, y)
    ...     longer = model.set_params(max_epochs=20).fit(X, y)  # of which 10 are new
    >>> longer.n_iter_
    20
    """

    def __init__(self, path: str | os.PathLike, every: int = 1):
        self.path = path
        self.every = every

    def initialize(self):
        """Check the parameters.

        Returns
        -------
        TrainingCheckpoint
        """
        whole = isinstance(self.every, Integral) and not isinstance(self.every, bool)
        if not whole or self.every < 1:
            raise ValueError(
                f"every={self.every!r} of TrainingCheckpoint must be a whole number of "
                "epochs, at least 1."
            )
        return self

    def after_train_begin(self, net, X=None, **kwargs) -> None:
        """Continue where the file ends, if there is one.

        Parameters
        ----------
        net : ConstrainedNet
        X : Dataset
            The rows to train on.
        **kwargs : object
            Other arguments of the hook.
        """
        if net.history:
            raise ValueError(
                "callbacks holds a TrainingCheckpoint, which guards one fit from its "
                "start; with warm_start or partial_fit, store the estimator instead."
            )
        warn_of_forgetful(net.callbacks_)
        # What cannot be saved is refused before it has cost an epoch.
        storable_state(net)
        # This hook comes after ``on_train_begin`` of all callbacks, which would reset
        # what is restored here.
        world = net.run_.world
        self.problem_ = pooled_problem(world, describe_problem(net, X))
        # The others need no file system, and know what the first one knows.
        saved = on_first(world, partial(self._open, net))
        if saved is not None:
            _resume(net, self.path, saved)
        self.unsaved_ = unsaved_digests(net)

    def after_epoch_end(self, net, **kwargs) -> None:
        """Write the file after all other callbacks have seen the end of the epoch.

        Parameters
        ----------
        net : ConstrainedNet
        **kwargs : dict
            What skorch passes on; not used.
        """
        if self.unsaved_ is not None:
            warn_of_unsaved(self.unsaved_, unsaved_digests(net))
            self.unsaved_ = None
        if len(net.history) % self.every == 0:
            world = net.run_.world
            state = pool_state(world, storable_state(net))
            on_first(world, partial(self._write, net, state))

    def _open(self, net) -> dict | None:
        """The states of all processes, if there is a file of this training."""
        saved = _read(self.path, self._own_file(net))
        if saved is not None:
            self._check(saved.pop("problem"), len(saved["history"]), net.max_epochs)
        return saved

    def _write(self, net, state: dict) -> None:
        state = {"problem": self.problem_, **state}
        net.run_.files[self].write(partial(write_archive, state))

    def _own_file(self, net) -> OwnedFile:
        file = OwnedFile(self.path)
        # Ctrl-C may come while the lock is taken, and before the file is kept.
        net.run_.resources.callback(file.release)
        file.acquire()
        net.run_.files[self] = file
        return file

    def _check(self, problem: dict, n_epochs: int, max_epochs: int) -> None:
        shown, own = show_path(self.path), self.problem_
        names = problem.keys() | own.keys()
        differ = {name for name in names if problem.get(name) != own.get(name)}
        if differ:
            raise ValueError(
                f"{shown} is the checkpoint of another fit, which differs in "
                f"{shortened(', '.join(sorted(differ - _CONSEQUENCES or differ)))}; "
                "delete it, or give each fit its own path."
            )
        if n_epochs > max_epochs:
            raise ValueError(
                f"{shown} holds {n_epochs} epochs, more than "
                f"max_epochs={max_epochs}; delete it to start again."
            )


def check_repeatable(net, random_state, world: Alone | None = None) -> None:
    """Raise ValueError for a checkpoint that no other process could resume from.

    Parameters
    ----------
    net : ConstrainedNet
    random_state : None, int or numpy.random.RandomState
        Parameter of the estimator.
    world : Alone or Processes, optional
        The processes that train the net; the seed of the first one counts.
    """
    fresh = (world or Alone()).from_first(random_state is None)
    guards = [name for name, cb in net.callbacks_ if isinstance(cb, TrainingCheckpoint)]
    if len(guards) > 1:
        raise ValueError(
            f"callbacks holds {' and '.join(guards)}, but a fit resumes from one file; "
            "pass one TrainingCheckpoint."
        )
    if guards and fresh:
        raise ValueError(
            "random_state=None draws different numbers in each process; pass an "
            "integer to a fit with a TrainingCheckpoint."
        )


def _resume(net, path, saved: dict) -> None:
    """Put everything back, as it was when the file was written."""
    world, error = net.run_.world, None
    try:
        state = restored_state(net, own_state(world, saved))
    # Of arrays, a TypeError: numpy does not know every dtype of torch.
    except (ValueError, TypeError) as caught:
        error = _unusable(path, caught)
    # Nobody trains on before all processes have found their part in order.
    raise_for_all(world, error)
    load_training_state(net, state)
    net.run_.epochs_resumed = len(net.history)


def _read(path, file: OwnedFile) -> dict | None:
    try:
        saved = file.read(read_archive)
        for name, kind in {"problem": dict, "history": list}.items():
            if saved is not None and not isinstance(saved.get(name), kind):
                raise ValueError(f"it holds no {name}")
    except ValueError as error:
        raise _unusable(path, error) from error
    return saved


def _unusable(path, why) -> ValueError:
    return ValueError(
        f"{show_path(path)} cannot be used as a checkpoint: "
        f"{literal(str(why).rstrip('.'), 110)}; restore a copy of it, or delete it."
    )
