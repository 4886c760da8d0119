"""Heads of non-negative weights hold their bounds in TF32 and in bfloat16."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sklpos import MLP, Stack

rng = np.random.default_rng(0)
X = rng.normal(size=(200, 3)).astype(np.float32)
y = (X[:, 0] + X[:, 1] * X[:, 2]).astype(float)
FAR = torch.as_tensor(np.concatenate([X, 10 * X, 1_000 * X]))
#: Modules with such heads, by name.
MODELS = {
    "Stack": {"module": Stack},
    "MLP": {
        "module": MLP,
        "module__activation": partial(nn.Hardtanh, 0, 1),
        "strategy": "nonnegative_weights",
    },
}


def rounded(values):
    """In TF32: to 11 binary digits, as the units of a GPU do."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


class TF32(TorchFunctionMode):
    """Linear layers multiply rounded numbers, and add in float32."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is nn.functional.linear:
            X, weight, *bias = args
            args = rounded(X), rounded(weight), *bias
        return func(*args, **(kwargs or {}))


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


PRECISIONS = {"TF32": TF32, "bfloat16": bfloat16}


@pytest.fixture(scope="module")
def fit(small):
    def make(name, **bounds):
        params = {"max_epochs": 20, **MODELS[name], **bounds}
        clipped = np.clip(y, bounds["lower_bound"], bounds.get("upper_bound"))
        return small(**params).fit(X, clipped)

    return make


@torch.no_grad()
def outputs(model, precision):
    with PRECISIONS[precision]():
        return model.module_(FAR).float()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_one_bound(fit, name, precision):
    """0 is a number of every precision."""
    assert outputs(fit(name, lower_bound=0.0), precision).min() >= 0


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_two_bounds(fit, name, precision):
    """The upper one up to the rounding of the weights, which may all go up."""
    found = outputs(fit(name, lower_bound=0.0, upper_bound=1.0), precision)
    assert found.min() >= 0
    assert found.max() <= 1 + 2**-8


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_rounds_a_bound(fit, name):
    model = fit(name, lower_bound=0.7)
    bound = torch.tensor(0.7).bfloat16().float()
    assert bound < np.float32(0.7)
    assert outputs(model, "bfloat16").min() >= bound
    assert outputs(model, "TF32").min() >= np.float32(0.7)


@pytest.mark.parametrize("name", MODELS)
def test_predict_leaves_the_autocast_of_its_caller(fit, name):
    model = fit(name, lower_bound=0.7)
    with bfloat16():
        found = model.predict(FAR.numpy())
    assert found.min() >= np.float32(0.7)
    np.testing.assert_array_equal(found, model.predict(FAR.numpy()))


def test_weights_under_two_bounds_may_all_be_rounded_up():
    """Why the page on accelerators promises less under two bounds."""
    head = nn.Linear(17, 1)
    with torch.no_grad():
        head.weight.fill_(1 / 17)
        head.bias.zero_()
        with TF32():
            found = head(torch.ones(1, 17))
    assert 1 < found.item() <= 1 + 2**-10
