"""Training waits for a device once per epoch; kernels per step are as documented."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from counted_fits import MODULES, X, counts, second_epoch, watched_fit
from device_traffic import watched_traffic
from fake_device import runs_on_fake_device
from torch import nn

from sklpos.strategies import STRATEGIES

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "accelerator.md"
ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", re.MULTILINE)


@pytest.fixture(autouse=True)
def few_epochs_warn():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the bounds", UserWarning)
        yield


def documented() -> dict[str, list[int]]:
    """Of each strategy: kernels of `MLP` and `Stack`, reads per step and per epoch."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    return {name: [int(number) for number in numbers] for name, *numbers in rows}


@pytest.mark.parametrize("name", STRATEGIES)
@runs_on_fake_device
def test_strategy(device, name):
    """No read in any step, one after the last, and at most the kernels of the page."""
    *kernels, reads, reads_of_epoch = documented()[name]
    assert (reads, reads_of_epoch) == (0, 1)
    for (which, params), most in zip(MODULES.items(), kernels, strict=True):
        found = counts(device, strategy=name, **params)
        assert (found["reads"], found["uploads"]) == (reads, 0), (which, found)
        assert found["kernels"] <= most, (which, found)
        assert found["reads of the epoch"] == reads_of_epoch, (which, found)


VARIANTS = {
    "both bounds": {
        "lower_bound": 0.0,
        "upper_bound": [1.0, 2.0],
        "on_violated_y": "ignore",
    },
    "one output free": {"lower_bound": [0.0, -np.inf]},
    "weights": {"sample_weight": np.linspace(0.5, 2.0, len(X))},
    "another criterion": {"criterion": nn.HuberLoss},
    "a module with a graph": {"module__activation": "gelu"},
    "dropout": {"module__dropout": 0.3},
    "another optimizer": {"optimizer": torch.optim.SGD},
    "a last batch of its own size": {"batch_size": 9},
    "a hull": {"strategy": STRATEGIES["certified"](domain="hull")},
    "bounds of tanh": {"strategy": "certified", "module__activation": "tanh"},
    "bounds of both sides": {
        "strategy": "certified",
        "upper_bound": 2.0,
        "on_violated_y": "ignore",
    },
}


@pytest.mark.parametrize("name", VARIANTS)
@runs_on_fake_device
def test_variants_wait_no_more_often(device, name):
    found = counts(device, **{**MODULES["MLP"], **VARIANTS[name]})
    assert (found["reads"], found["uploads"]) == (0, 0), found
    assert found["reads of the epoch"] == 1, found


@runs_on_fake_device
def test_validation_rows_cost_one_more_read(device):
    epoch = second_epoch(
        watched_fit(device, **MODULES["MLP"], early_stopping=True, batch_size=7)[0]
    )
    assert epoch.inside("step begins", "step ends").count("read") == 0
    assert epoch.count("read") <= 2


@runs_on_fake_device
def test_reads_are_counted(device):
    there = torch.arange(6.0, device=device)
    readers = {
        "item": lambda: there[0].item(),
        "float": lambda: float(there[0]),
        "bool": lambda: bool(there[0] > 1),
        "all": lambda: bool((there > 1).all()),
        "tolist": there.tolist,
        "cpu": there.cpu,
        "to": lambda: there.to("cpu"),
        "copy": lambda: torch.empty(6).copy_(there),
        "nonzero": there.nonzero,
        "mask": lambda: there[there > 1],
        "mask that is set": lambda: there.__setitem__(there < 0, 1.0),
        "where": lambda: torch.where(there > 1),
        "equal": lambda: torch.equal(there, there + 1),
        "unique": lambda: torch.unique(there),
        "repeat": lambda: torch.repeat_interleave(there.long()),
    }
    for name, read in readers.items():
        with watched_traffic() as traffic:
            read()
        assert traffic.count("read") == 1, (name, traffic)


@runs_on_fake_device
def test_what_does_not_read(device):
    there = torch.ones(2, 3, device=device)
    layer = nn.Linear(3, 1).to(device)
    with watched_traffic() as traffic:
        there.reshape(-1)[:2]
        there.T.unsqueeze(0)
        there.detach().view(3, 2)
        torch.empty_like(there)
        there.to(device)
    assert traffic.events == []
    with watched_traffic() as traffic:
        layer(there).sum().backward()
        there.double()
    assert traffic.count("read") == traffic.count("upload") == 0
    # in the thread of autograd, too
    assert {"addmm", "sum", "mm", "_to_copy"} <= traffic.names("kernel").keys()


@runs_on_fake_device
def test_uploads_are_counted(device):
    there = torch.ones(2, 3, device=device)
    for upload in (
        lambda: torch.ones(3).to(device),
        lambda: torch.tensor([1.0], device=device),
        lambda: there.copy_(torch.zeros(2, 3)),
        lambda: there[torch.tensor([0])],
    ):
        with watched_traffic() as traffic:
            upload()
        assert (traffic.count("upload"), traffic.count("read")) == (1, 0)
    with watched_traffic() as traffic:
        there[0] = 2.0  # a number travels with the call
        there * 3
    assert traffic.count("upload") == 0
