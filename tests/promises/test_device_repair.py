"""What a repair and the multipliers ask of a device: sums and the rows they need."""

import numpy as np
import pytest
import torch
from device_checks import DEVICE, regressor
from fake_device import DeviceTensor, runs_on_fake_device
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sklpos.nets.placement import fetched
from sklpos.nets.rows import feature_source
from sklpos.repair import repair_head
from sklpos.training import kkt

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 3))
# Few targets near the bound, so few rows have to be lifted.
Y = np.maximum(X @ np.ones(3) + 3.0, 0.0)
WIDTH = 16


class Arrivals(TorchDispatchMode):
    """Numbers of each tensor that comes to the CPU."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        # Not by the name of the operation, which differs in inference mode.
        leaves = tree_leaves(result)
        if any(isinstance(leaf, DeviceTensor) for leaf in tree_leaves(args)):
            self.sizes += [leaf.nbytes for leaf in leaves if _is_here(leaf)]
        return result


def _is_here(leaf):
    return isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu"


def model(device, **params):
    small = {"module__hidden_layer_sizes": (WIDTH,), "max_epochs": 2, **params}
    return regressor(device, **small)


@runs_on_fake_device
def test_features_stay_on_the_device(device):
    fitted = model(device).fit(X, Y)
    chunks = list(feature_source(fitted.module_, "head", X)())
    assert {chunk.device.type for chunk in chunks} == {DEVICE}
    assert {chunk.dtype for chunk in chunks} == {torch.float64}


@runs_on_fake_device
def test_only_the_rows_that_are_cut_come_back(device):
    module = model(device, repair=None).fit(X, Y).module_
    outside = int((module(torch.as_tensor(X).to(device)) < 1e-3).sum())
    assert 0 < outside < len(X) / 4
    with Arrivals() as arrivals:
        repaired = repair_head(module, X, y=Y)
    lifted = repaired.module(torch.as_tensor(X).to(device))
    assert (fetched(lifted)[0] >= 0).all()
    # All features would be 600 rows; predictions of all rows are a column.
    assert max(arrivals.sizes) < len(X) * WIDTH * 8 / 4


@runs_on_fake_device
def test_few_transfers_however_many_chunks(device):
    """The residuals and the objective do not wait once per chunk of rows."""
    n_arrivals = []
    for size in (100, 600):
        with pytest.MonkeyPatch.context() as patch, Arrivals() as arrivals:
            patch.setattr(kkt, "rows_per_forward", lambda *_, size=size: size)
            model(device, repair=None, batch_size=600).fit(X, Y)
        n_arrivals.append(len(arrivals.sizes))
    assert n_arrivals[0] == n_arrivals[1]


@runs_on_fake_device
def test_one_transfer_for_tensors_of_any_kind(device):
    here = torch.tensor(True), torch.arange(3), torch.rand(2, 2).double(), torch.rand(0)
    with Arrivals() as arrivals:
        found = fetched(*(values.to(device) for values in here), here[2])
    assert len(arrivals.sizes) == 1
    for own, other in zip(found, [*here, here[2]], strict=True):
        assert own.dtype == other.dtype
        assert torch.equal(own, other)
