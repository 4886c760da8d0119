"""The mean by one factor: exact, and no weight changes its sign."""

import copy
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from sklpos.nets.bounded import BoundedModel
from sklpos.nets.bounds import Bounds
from sklpos.repair import factor
from sklpos.repair.factor import scale_to_mean

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 3))
WEIGHT = RNG.uniform(0.5, 2, size=200)
AVERAGE = partial(np.average, axis=0, weights=WEIGHT)


def make(bias, *, gain=1.0, has_bias=True, dtype=torch.float64) -> nn.Sequential:
    """A net of one output, whose head has weights of the sign of the gain."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = nn.Linear(3, 6, dtype=dtype)
        head = nn.Linear(6, 1, bias=has_bias, dtype=dtype)
    with torch.no_grad():
        head.weight.copy_(gain * head.weight.abs() / head.weight.abs().sum())
        if has_bias:
            head.bias.fill_(bias)
    return nn.Sequential(hidden, nn.Hardtanh(0, 1), head).eval()


@torch.no_grad()
def predict(module) -> np.ndarray:
    rows = torch.as_tensor(X).to(module[-1].weight)
    return module(rows).double().numpy().ravel()


def scaled(module, mean, lower=None, upper=None):
    """Predictions before and after, and the head after."""
    before = copy.deepcopy(module.state_dict())
    model = BoundedModel(module, head="2", bounds=Bounds.read(lower, upper, 1))
    found = scale_to_mean(model, X, np.full((200, 1), mean), AVERAGE).module
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    return predict(module), predict(found), found[-1]


@pytest.mark.parametrize("mean", [2.2, 3.5])
def test_distances_from_a_bound_are_multiplied(mean):
    for sign in (1, -1):
        sides = {"lower": 2.0} if sign == 1 else {"upper": -2.0}
        before, after, _ = scaled(make(sign * 2.1, gain=sign), sign * mean, **sides)
        ratio = (after - sign * 2) / (before - sign * 2)
        assert AVERAGE(after) == pytest.approx(sign * mean, rel=1e-12)
        assert ratio == pytest.approx(np.full(200, ratio[0]))


@pytest.mark.parametrize(("mean", "end"), [(2.1, 2.0), (2.9, 3.0)])
def test_between_two_bounds_distances_become_smaller(mean, end):
    before, after, head = scaled(make(2.2, gain=0.6), mean, lower=2.0, upper=3.0)
    factor = (after - end) / (before - end)
    assert factor == pytest.approx(np.full(200, factor[0]))
    assert 0 < factor[0] < 1
    assert AVERAGE(after) == pytest.approx(mean, rel=1e-12)
    # The ends of the outputs, for all features in [0, 1].
    assert head.bias.item() >= 2.0
    assert (head.bias + head.weight.sum()).item() <= 3.0
    assert bool((head.weight >= 0).all())


def test_a_free_output_is_shifted():
    before, after, _ = scaled(make(0.3), -5.0)
    assert after - before == pytest.approx(np.full(200, -5 - AVERAGE(before)))


def test_a_model_that_hardly_leaves_its_bound_is_shifted():
    before, after, _ = scaled(make(0.01, gain=0.01), 1.0, lower=0.0)
    assert after - before == pytest.approx(np.full(200, 1 - AVERAGE(before)))


def test_rounding_does_not_break_the_bound():
    # The nearest number of float32 is below 0.7.
    _, after, head = scaled(make(0.7, dtype=torch.float32), 0.75, lower=0.7)
    assert float(head.bias.detach().double()) >= 0.7
    assert after.min() >= 0.7


@pytest.mark.parametrize("mean", [0.5, 0.6, 0.8])
def test_the_reserve_for_rounding_is_corrected(mean):
    # These outputs reach both bounds, so all weights shrink by about 3e-7.
    model = make(0.0, dtype=torch.float32)
    _, after, _ = scaled(model, mean, lower=0.0, upper=1.0)
    assert AVERAGE(after) == pytest.approx(mean, abs=1e-7)


def test_a_mean_outside_the_bounds_is_given_up():
    with pytest.warns(UserWarning, match=r"balance was dropped for outputs \[0\]"):
        before, after, _ = scaled(make(2.1), 1.5, lower=2.0)
    assert np.array_equal(after, before)


@pytest.mark.parametrize(
    ("gain", "mean", "upper", "kept"),
    [
        (1.0, 0.2, None, True),
        (1.0, 1.5, None, True),
        (0.4, 0.05, 1.0, True),
        # A larger factor may break the upper bound, and a negative one the signs.
        (0.4, 0.1, 1.0, False),
        (1.0, -0.5, None, False),
    ],
)
def test_without_a_bias_there_is_only_a_factor(gain, mean, upper, kept):
    model = make(0.0, gain=gain, has_bias=False)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        before, after, head = scaled(model, mean, lower=-1.0, upper=upper)
    assert bool(seen) is not kept
    if kept:
        assert AVERAGE(after) == pytest.approx(mean, rel=1e-12)
    else:
        assert np.array_equal(after, before)
    assert head.bias is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounded_corrections_do_not_warn(dtype):
    # Warnings are errors. The second factor is 1 but for rounding, or a little more.
    for mean in np.linspace(0.01, 0.07, 20):
        model = make(0.0, gain=0.4, has_bias=False, dtype=dtype)
        _, after, _ = scaled(model, mean, lower=-1.0, upper=1.0)
        assert AVERAGE(after) == pytest.approx(mean, rel=1e-6)


def test_features_that_take_much_memory_are_computed_again(monkeypatch):
    _, kept, _ = scaled(make(2.1), 2.5, lower=2.0)
    monkeypatch.setattr(factor, "_MAX_KEPT", 0)
    _, again, _ = scaled(make(2.1), 2.5, lower=2.0)
    assert (kept == again).all()


def test_one_pass_finds_the_features(monkeypatch):
    seen = []
    module = make(2.1)
    monkeypatch.setattr(nn.Hardtanh, "forward", counting(nn.Hardtanh.forward, seen))
    model = BoundedModel(module, head="2", bounds=Bounds.read(2.0, None, 1))
    scale_to_mean(model, X, np.full((200, 1), 2.5), AVERAGE)
    assert seen == [200]


def counting(forward, seen):
    return lambda layer, rows: seen.append(len(rows)) or forward(layer, rows)
