"""What the processes do that tests kill or interrupt: a fit, and how it ends."""

import os
import pickle
import signal
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from properties import training_state
from skorch.callbacks import LRScheduler

import sklpos.training.checkpoint
import sklpos.training.files
from sklpos import MLP, PositiveOutputRegressor, TrainingCheckpoint

EPOCHS = 45


def guarded(path, strategy, **params) -> PositiveOutputRegressor:
    """Make a regressor with all that a training may remember between epochs."""
    schedule = LRScheduler("CosineAnnealingLR", T_max=60, step_every="batch")
    defaults = {
        "callbacks": [TrainingCheckpoint(path, every=2), ("schedule", schedule)],
        "strategy": strategy,
        "module": MLP,
        "module__hidden_layer_sizes": (8,),
        "module__dropout": 0.1,
        "early_stopping": True,
        "n_iter_no_change": 20,
        "batch_size": 8,
        "max_epochs": EPOCHS,
        "lr_schedule": None,
        "random_state": 0,
    }
    return PositiveOutputRegressor(**(defaults | params))


def make_data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3))
    Y = np.maximum(X @ rng.normal(size=(3, 2)) + 0.3 * rng.normal(size=(50, 2)), 0)
    return X, Y, rng.integers(1, 4, size=50).astype(float)


def end_of(model) -> dict:
    """Everything that must not depend on whether training was cut."""
    X, _, _ = make_data()
    state = training_state(model)
    state["history"] = [
        {name: float(value) for name, value in epoch.items()}
        for epoch in state["history"]
    ]
    schedule = dict(model.net_.callbacks_).get("schedule")
    state["schedule"] = schedule and schedule.lr_scheduler_.last_epoch
    return {**state, "n_iter": model.n_iter_, "predictions": model.predict(X)}


def fit(path, result, strategy, death=None, **params) -> None:
    """Fit, and store how it ends; `death` kills the process while it writes."""
    torch.set_num_threads(1)
    if death is not None:
        _arrange(*death)
    model = guarded(path, strategy, **params).fit(*make_data())
    Path(result).write_bytes(pickle.dumps(end_of(model)))


def fit_or_say(path, result, strategy) -> None:
    """Fit, and store how it ends, or the sentence that refuses it."""
    try:
        fit(path, result, strategy)
    except ValueError as error:
        Path(result).write_bytes(pickle.dumps(str(error)))


def unguarded(strategy, max_epochs=10**6) -> PositiveOutputRegressor:
    """Make a regressor whose fit does not end before somebody interrupts it."""
    return PositiveOutputRegressor(
        strategy=strategy,
        module=MLP,
        module__hidden_layer_sizes=(8,),
        module__dropout=0.1,
        batch_size=8,
        max_epochs=max_epochs,
        lr_schedule=None,
        random_state=0,
    )


def fit_until_interrupted(result, strategy) -> None:
    """Fit, and store what an interrupt leaves, unless it came too early."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    model = unguarded(strategy)
    try:
        model.fit(*make_data())
    except KeyboardInterrupt:
        assert not hasattr(model, "net_")
    else:
        Path(result).write_bytes(pickle.dumps(end_of(model)))


def warm_up() -> None:
    """Import what a first fit imports."""
    with tempfile.TemporaryDirectory() as folder:
        fit(f"{folder}/fit.ckpt", f"{folder}/end.pkl", "penalty", max_epochs=2)


def _arrange(where: str, number: int) -> None:
    """Die in the middle of the n-th file, or when it is written, before its name."""
    left = iter(range(number - 1, -1, -1))
    module = sklpos.training.checkpoint
    if where == "write":
        module.write_archive = partial(_write_half, module.write_archive, left)
    else:
        sklpos.training.files.os.replace = partial(_do_not_rename, os.replace, left)


def _write_half(save, left, state, file):
    save(state, file)
    if next(left) == 0:
        file.truncate(file.tell() // 2)
        file.flush()
        die()


def _do_not_rename(replace, left, *names):
    if next(left) == 0:
        die()
    replace(*names)


def die():
    os.kill(os.getpid(), signal.SIGKILL)
