"""Kernels, reads and uploads of a training, on the imitated device."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from device_traffic import Traffic, note, watched_traffic
from problems import make_data
from skorch.callbacks import Callback

from sklpos import MLP, STRATEGIES, PositiveOutputRegressor
from sklpos.training.net import ConstrainedNet

N_EPOCHS, N_STEPS = 3, 3
X, y = make_data(24, np.eye(3, 2), noise=0.3)
MODULES: dict[str, dict[str, Any]] = {
    "MLP": {"module": MLP, "module__hidden_layer_sizes": (8,)},
    "Stack": {},
}


class Marks(Callback):
    """Marks epochs; it listens to no batch."""

    def on_epoch_begin(self, net, **kwargs):
        note("epoch begins")


def _marked(step: Callable) -> Callable:
    def train_step(net, batch, **params):
        note("step begins")
        result = step(net, batch, **params)
        note("step ends")
        return result

    return train_step


def watched_fit(device: str, **params) -> tuple[Traffic, PositiveOutputRegressor]:
    """Fit three epochs of three steps, and record the events.

    The fused kernel is that of a real device, where it is chosen by itself.
    """
    weight = params.pop("sample_weight", None)
    callbacks = [*params.pop("callbacks", []), Marks()]
    if "optimizer" not in params:
        params["optimizer__fused"] = True
    model = PositiveOutputRegressor(
        device=device,
        max_epochs=N_EPOCHS,
        random_state=0,
        callbacks=callbacks,
        **{"batch_size": 8, "lr": 0.01, "repair": None, **params},
    )
    with pytest.MonkeyPatch.context() as patch, watched_traffic() as traffic:
        patch.setattr(ConstrainedNet, "train_step", _marked(ConstrainedNet.train_step))
        model.fit(X, y, sample_weight=weight)
    return traffic, model


def second_epoch(traffic: Traffic) -> Traffic:
    """The events from the begin of the second epoch to that of the third.

    The first step of a training allocates what the others use, and the last epoch is
    followed by the end of the training.
    """
    return traffic.between("epoch begins", "epoch ends")[1]


def counts(device: str, **params) -> dict[str, int]:
    """Kernels and reads of a step and of an epoch, once training is under way."""
    epoch = second_epoch(watched_fit(device, **params)[0])
    steps = epoch.between("step begins", "step ends")
    assert len(steps) == N_STEPS
    within = epoch.inside("step begins", "step ends")
    return {
        "kernels": max(step.count("kernel") for step in steps),
        "reads": within.count("read"),
        "uploads": within.count("upload"),
        "reads of the epoch": epoch.count("read"),
        "uploads of the epoch": epoch.count("upload"),
        "other kernels of the epoch": epoch.count("kernel")
        - sum(step.count("kernel") for step in steps),
    }


def table(device: str) -> str:
    """The kernels of a step, and the reads, of every strategy, as Markdown."""
    lines = [
        "| strategy | kernels, `MLP` | kernels, `Stack` | reads per step | reads per "
        "epoch |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in STRATEGIES:
        found = [counts(device, strategy=name, **own) for own in MODULES.values()]
        cells = [
            f"`{name}`",
            *(str(own["kernels"]) for own in found),
            str(max(own["reads"] for own in found)),
            str(max(own["reads of the epoch"] for own in found)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
