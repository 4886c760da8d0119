"""Training that survives its process: all of its state in one file."""

from __future__ import annotations

import hashlib
import os
import re

import numpy as np
import torch
from skorch.callbacks import Callback

from sklpos.nets.any_rows import stored_arrays
from sklpos.training.schedule import NAME
from sklpos.training.state import (
    from_storable,
    load_training_state,
    to_storable,
    training_state,
)

#: Parameters of a net that may differ when its training resumes.
_MAY_DIFFER = (
    "callbacks",
    "compile",
    "constraint",
    "device",
    "domain_constraint",
    "head",
    "max_epochs",
    "stochastic",
    "targets",
    "train_split",
    "verbose",
    "warm_start",
)


class TrainingCheckpoint(Callback):
    """Saves the state of training, from which a `fit` that was killed resumes.

    When a `fit` begins and the file exists, training continues where the file ends, and
    ends as if it had never stopped, bit for bit: weights, optimizer, multipliers,
    slack, the schedule of alpha, the order of the batches, early stopping, history. The
    file is written under another name and then renamed, so a kill at any moment leaves
    a complete one. It stays when `fit` is over: delete it to start again, or, with
    ``lr_schedule=None``, raise ``max_epochs`` to continue training.

    Parameters
    ----------
    path : str or os.PathLike
        The file of one `fit`, in a folder that exists.
    every : int, default=1
        Epochs between two writes. Each file holds the whole history.

    Raises
    ------
    ValueError
        When a `fit` begins: if the file belongs to another problem (rows, seed or
        parameters other than those of callbacks, ``tol`` and ``n_iter_no_change``), has
        more epochs than ``max_epochs`` or is not a checkpoint, or if the net was
        trained before (``warm_start`` and `partial_fit`).

    Notes
    -----
    ``random_state`` must be given. Of a callback, the attributes with a trailing
    underscore are saved if they are numbers, strings, arrays or tensors, or have a
    ``state_dict``; all others start again. The file is read by
    ``torch.load(weights_only=True)``, which runs no code of the file.

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
        if not isinstance(self.every, int) or self.every < 1:
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
        # This hook comes after ``on_train_begin`` of all callbacks, which would reset
        # what is restored here.
        self.problem_ = _problem(net, X)
        saved = _read(self.path)
        if saved is not None:
            self._check(saved, net.max_epochs)
            _resume(net, saved)

    def after_epoch_end(self, net, **kwargs) -> None:
        """Write the file after all other callbacks have seen the end of the epoch.

        Parameters
        ----------
        net : ConstrainedNet
        **kwargs : dict
            What skorch passes on; not used.
        """
        if len(net.history) % self.every == 0:
            _write(self.path, {"problem": self.problem_, **_storable_state(net)})

    def _check(self, saved: dict, max_epochs: int) -> None:
        shown, other = os.fspath(self.path), saved["problem"]
        names = sorted(other.keys() | self.problem_.keys())
        differ = [name for name in names if other.get(name) != self.problem_.get(name)]
        if differ:
            raise ValueError(
                f"path={shown!r} is the checkpoint of another fit, which differs in "
                f"{', '.join(differ)}; delete it, or give each fit its own path."
            )
        n_epochs = len(saved["history"])
        if n_epochs > max_epochs:
            raise ValueError(
                f"path={shown!r} holds {n_epochs} epochs, more than "
                f"max_epochs={max_epochs}; delete it to start again."
            )


def check_repeatable(net, random_state) -> None:
    """Raise ValueError for a checkpoint that no other process could resume from.

    Parameters
    ----------
    net : ConstrainedNet
    random_state : None, int or numpy.random.RandomState
        Parameter of the estimator.
    """
    guarded = any(isinstance(cb, TrainingCheckpoint) for _, cb in net.callbacks_)
    if guarded and random_state is None:
        raise ValueError(
            "random_state=None draws different numbers in each process; pass an "
            "integer to a fit with a TrainingCheckpoint."
        )


def _problem(net, rows) -> dict[str, str]:
    """Describe what must stay the same when training resumes."""
    params = net.get_params(deep=False)
    public = params.keys() - {name for name in params if name.startswith("_")}
    described = {
        name: _describe(params[name]) for name in public.difference(_MAY_DIFFER)
    }
    described["random_state"] = described.pop("seed")
    described["strategy"] = repr(net.strategy_)
    # The learning rates of a schedule depend on the number of epochs.
    if NAME in dict(net.callbacks_):
        described["max_epochs"] = _describe(net.max_epochs)
    return {**described, "data": _digest(net, rows)}


def _describe(value) -> str:
    """Description of a value that is the same in each process."""
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    # Addresses of objects differ between processes.
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _digest(net, rows) -> str:
    targets, digest = net.targets, hashlib.blake2b(digest_size=16)
    parts = [targets.shift, targets.scale, *targets.bounds.arrays]
    for split in net.get_split_datasets(rows):
        if split is not None:
            parts += stored_arrays(split.X.numpy())
            parts += [part.numpy() for part in (split.y, split.weight)]
    for part in parts:
        # Arrays of different shapes or dtypes may consist of the same bytes.
        digest.update(repr((part.shape, part.dtype)).encode())
        digest.update(np.ascontiguousarray(part))
    return digest.hexdigest()


def _storable_state(net) -> dict:
    """The training state, as far as a file can hold it."""
    state = training_state(net)
    callbacks = {
        name: _storable_attributes(callback, state["callbacks"][name])
        for name, callback in net.callbacks_
    }
    return {**to_storable({**state, "callbacks": {}}), "callbacks": callbacks}


def _storable_attributes(callback, attributes: dict) -> dict:
    """Fitted attributes of a callback, as far as they can be stored."""
    found = {}
    for name, value in attributes.items():
        # The checkpoint's own attributes describe the problem, which is in the file.
        if name.endswith("_") and not isinstance(callback, TrainingCheckpoint):
            try:
                found[name] = to_storable(value)
            except TypeError:
                # An open file or a writer, for instance, begins again.
                continue
    return found


def _resume(net, saved: dict) -> None:
    """Put everything back, as it was when the file was written."""
    # The file holds more than the state, and attributes that it could not hold keep
    # their present values.
    state = {name: saved[name] for name in training_state(net)}
    now = training_state(net)["callbacks"]
    learnt = from_storable(saved["callbacks"])
    state["callbacks"] = {
        name: {**attributes, **learnt.get(name, {})} for name, attributes in now.items()
    }
    state["history"] = from_storable(saved["history"])
    load_training_state(net, state)
    net.run_.epochs_resumed = len(net.history)


def _write(path, state: dict) -> None:
    """Write another file, then rename it: a kill leaves the old one or the new one."""
    beside = f"{os.fspath(path)}.part"
    with open(beside, "wb") as file:
        torch.save(state, file)
        file.flush()
        # Otherwise a power cut may leave an empty file under the new name.
        os.fsync(file.fileno())
    os.replace(beside, path)


def _read(path) -> dict | None:
    try:
        # The machine that resumes may lack the device of the one that wrote.
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    # torch passes on any error of its parsers.
    except Exception as error:
        raise _not_a_checkpoint(path) from error
    if not isinstance(saved, dict) or "problem" not in saved:
        raise _not_a_checkpoint(path)
    return saved


def _not_a_checkpoint(path) -> ValueError:
    return ValueError(
        f"path={os.fspath(path)!r} was not written by TrainingCheckpoint; pass another "
        "path, or delete the file."
    )
