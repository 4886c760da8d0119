"""Training that outlives its process: all of its state in one file, written whole."""

from __future__ import annotations

import hashlib
import os
import re

import numpy as np
import torch
from skorch.callbacks import Callback

from sklpos.training.states import load_state
from sklpos.training.trees import from_storable, to_storable

#: Parameters of a net that may differ when it goes on.
_FREE = (
    "callbacks",
    "compile",
    "device",
    "head",
    "max_epochs",
    "stochastic",
    "targets",
    "train_split",
    "verbose",
    "warm_start",
)


class TrainingCheckpoint(Callback):
    """Saves all that training continues from; a `fit` that was killed goes on from it.

    When a `fit` begins and the file exists, training goes on where the file ends, and
    ends as if it had never stopped, bit for bit: weights, optimizer, multipliers,
    slack, the schedule of alpha, the order of the batches, early stopping, history. The
    file is written beside itself and then renamed, so a kill at any moment leaves a
    whole one. It stays when `fit` is over: delete it to train anew, or raise
    ``max_epochs`` to train on.

    Parameters
    ----------
    path : str or os.PathLike
        The file, of one `fit`; in a folder that exists.
    every : int, default=1
        Epochs between two writes. A file holds the whole history.

    Raises
    ------
    ValueError
        When a `fit` begins: if the file is of another problem (rows, seed or
        parameters, but for those of callbacks, ``tol`` and ``n_iter_no_change``), has
        more epochs than ``max_epochs`` or is no checkpoint, or if the net was trained
        before (``warm_start`` and `partial_fit`).

    Notes
    -----
    ``random_state`` must be given. Of callbacks, what is saved are attributes with a
    trailing underscore that are numbers, strings, arrays, tensors or have a
    ``state_dict``; what else they hold begins anew. Read with
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
    ...     model = PositiveOutputRegressor(callbacks=[checkpoint], random_state=0)
    ...     model = model.set_params(max_epochs=10).fit(X, y)
    ...     longer = model.set_params(max_epochs=20).fit(X, y)  # of which 10 are new
    >>> longer.n_iter_
    20
    """

    def __init__(self, path: str | os.PathLike, every: int = 1):
        self.path = path
        self.every = every

    def initialize(self):
        """Check the parameters."""
        if not isinstance(self.every, int) or self.every < 1:
            raise ValueError(
                f"every={self.every!r} of TrainingCheckpoint must be a whole number of "
                "epochs, at least 1."
            )
        return self

    def after_train_begin(self, net, X=None, **kwargs) -> None:
        """Go on where the file ends, if there is one.

        Parameters
        ----------
        net : ConstrainedNet
        X : Dataset
            The rows to train on.
        **kwargs : object
            What else callbacks are told.
        """
        if net.history:
            raise ValueError(
                "callbacks holds a TrainingCheckpoint, which guards one fit from its "
                "start; with warm_start or partial_fit, store the estimator instead."
            )
        self.problem_ = _problem(net, X)
        saved = _read(self.path)
        if saved is not None:
            self._check(saved, net.max_epochs)
            _take_up(net, saved)

    def after_epoch_end(self, net, **kwargs) -> None:
        """Write the file, when every other callback has seen the end of the epoch."""
        if len(net.history) % self.every == 0:
            _write(self.path, {"problem": self.problem_, **_state_of(net)})

    def _check(self, saved: dict, max_epochs: int) -> None:
        shown, other = os.fspath(self.path), saved["problem"]
        names = sorted(other.keys() | self.problem_.keys())
        differ = [name for name in names if other.get(name) != self.problem_.get(name)]
        if differ:
            raise ValueError(
                f"path={shown!r} is the checkpoint of another fit, which differs in "
                f"{', '.join(differ)}; delete it, or give each fit a path of its own."
            )
        n_epochs = len(saved["history"])
        if n_epochs > max_epochs:
            raise ValueError(
                f"path={shown!r} holds {n_epochs} epochs, more than "
                f"max_epochs={max_epochs}; delete it to train anew."
            )


def check_repeatable(net, random_state) -> None:
    """Raise ValueError for a checkpoint from which no other process could go on.

    Parameters
    ----------
    net : ConstrainedNet
    random_state : None, int or numpy.random.RandomState
        That of the estimator.
    """
    guarded = any(isinstance(cb, TrainingCheckpoint) for _, cb in net.callbacks_)
    if guarded and random_state is None:
        raise ValueError(
            "random_state=None draws other numbers in each process; a fit with a "
            "TrainingCheckpoint needs an integer."
        )


def _problem(net, rows) -> dict[str, str]:
    """Describe what must not change between two parts of a training."""
    params = net.get_params(deep=False)
    public = params.keys() - {name for name in params if name.startswith("_")}
    described = {name: _describe(params[name]) for name in public.difference(_FREE)}
    described["random_state"] = described.pop("seed")
    return {**described, "data": _digest(net, rows)}


def _describe(value) -> str:
    """Return what is the same in each process."""
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _digest(net, rows) -> str:
    targets, digest = net.targets, hashlib.blake2b(digest_size=16)
    parts = [targets.shift, targets.scale, targets.lower_bound]
    for split in net.get_split_datasets(rows):
        if split is not None:
            parts += [part.numpy() for part in (split.X, split.y, split.weight)]
    for part in parts:
        digest.update(repr((part.shape, part.dtype)).encode())
        digest.update(np.ascontiguousarray(part))
    return digest.hexdigest()


def _parts(net) -> dict:
    return {
        "module": net.plain_module_,
        "criterion": net.criterion_,
        "constraint": net.constraint_,
        "optimizer": net.optimizer_,
    }


def _state_of(net) -> dict:
    callbacks = {name: _attributes(callback) for name, callback in net.callbacks_}
    weights = net.plain_module_.named_parameters()
    state = {
        "states": {name: part.state_dict() for name, part in _parts(net).items()},
        "frozen": [name for name, weight in weights if not weight.requires_grad],
        "best": net.constraint_best_,
        "history": list(net.history),
    }
    return {**to_storable(state), "callbacks": callbacks}


def _attributes(callback) -> dict:
    """Return what a callback has learnt, as far as it can be stored."""
    found = {}
    for name, value in vars(callback).items():
        if name.endswith("_") and not isinstance(callback, TrainingCheckpoint):
            try:
                found[name] = to_storable(
                    value.state_dict() if _has_state(value) else value
                )
            except TypeError:  # a writer, an open file
                continue
    return found


def _has_state(value) -> bool:
    return hasattr(value, "load_state_dict") and not isinstance(value, type)


def _take_up(net, saved: dict) -> None:
    """Put everything back, as it was when the file was written."""
    for name, part in _parts(net).items():
        load_state(part, saved["states"][name])
    for name, weight in net.plain_module_.named_parameters():
        weight.requires_grad_(name not in saved["frozen"])
    for name, callback in net.callbacks_:
        _set_attributes(callback, from_storable(saved["callbacks"].get(name, {})))
    net.constraint_best_ = saved["best"]
    net.history[:] = from_storable(saved["history"])
    net.taken_up_ = len(net.history)


def _set_attributes(callback, values: dict) -> None:
    for name, value in values.items():
        live = getattr(callback, name, None)
        if _has_state(live):
            live.load_state_dict(value)
        else:
            setattr(callback, name, value)


def _write(path, state: dict) -> None:
    """Write a file beside it, then rename: a kill leaves the old one or the new one."""
    beside = f"{os.fspath(path)}.part"
    with open(beside, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave the new name, empty
    os.replace(beside, path)


def _read(path) -> dict | None:
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # torch raises whatever its parsers do
        raise _not_a_checkpoint(path) from error
    if not isinstance(saved, dict) or "problem" not in saved:
        raise _not_a_checkpoint(path)
    return saved


def _not_a_checkpoint(path) -> ValueError:
    return ValueError(
        f"path={os.fspath(path)!r} is not a file of TrainingCheckpoint; give another "
        "path, or delete it."
    )
