"""What a certificate says was seen, was predicted: for rows alone, in their dtype."""

import numpy as np
import pytest
import torch
from networks import outputs, random_network
from torch import nn

from sklpos import MLP, PositiveOutputRegressor
from sklpos.certificates import All, Ball, Box, Hull, certify, certify_module
from sklpos.nets.bounds import Bounds
from sklpos.nets.outputs import BoundedOutput

X = np.random.default_rng(0).normal(size=(60, 3))


def disturbed(monkeypatch):
    """A net of plain layers whose matrix products depend on the size of the batch."""
    module = random_network([2, 8, 1])
    forward = nn.Sequential.forward
    monkeypatch.setattr(
        nn.Sequential,
        "forward",
        lambda self, X: forward(self, X) - (X.dim() == 2 and len(X) > 1) * 1.0,
    )
    return module


@pytest.mark.parametrize("domain", [Box([0, 0], [1, 1]), Ball([[0, 0], [1, 1]], 0.2)])
def test_a_counterexample_holds_alone(monkeypatch, domain):
    module = disturbed(monkeypatch)
    alone = certify_module(module, domain, lower_bound=-1e9).attained_min_[0]
    # Out of bounds in a batch, and well inside alone.
    bound = alone - 0.5
    found = certify_module(module, domain, lower_bound=bound, method="crown")
    assert found.status_ != "falsified"
    assert found.counterexample_ is None
    broken = certify_module(module, domain, lower_bound=alone + 0.5, method="auto")
    assert broken.status_ == "falsified"
    assert outputs(module, broken.counterexample_[None])[0, 0] < alone + 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attained_values_are_those_of_a_row_alone(monkeypatch, dtype):
    module = disturbed(monkeypatch).to(dtype)
    found = certify_module(module, Box([0, 0], [1, 1]), lower_bound=-1e9)
    points = [[0, 0], [0, 1], [1, 0], [1, 1], [0.5, 0.5]]
    values = [outputs(module, np.array([point]))[0, 0] for point in points]
    # Only corners and the centre were looked at, because intervals proved the bound.
    assert found.method_ == "interval"
    assert found.attained_min_[0] in values
    assert found.attained_max_[0] in values


def test_rows_that_are_known_are_looked_at():
    module = random_network([3, 16, 1], "tanh", gain=5.0)
    values = outputs(module, X)
    for domain in ("box", "hull", "all"):
        found = certify(module, domain, X=X, lower_bound=-1e9, upper_bound=1e9)
        assert found.method_ == "interval"
        assert found.attained_min_[0] <= values.min() + 1e-12
        assert found.attained_max_[0] >= values.max() - 1e-12
    hull = certify_module(module, Hull(X), lower_bound=-1e9)
    assert hull.attained_min_[0] <= values.min() + 1e-12
    # A row outside of the domain was not seen in it.
    centre = X.mean(axis=0)
    small = certify(module, (centre - 1e-3, centre + 1e-3), X=X, lower_bound=-1e9)
    assert small.attained_min_[0] > values.min()


def test_training_rows_are_looked_at():
    y = np.sin(9 * X[:, 0]) + 1
    model = PositiveOutputRegressor(MLP, lower_bound=-1e6, random_state=0).fit(X, y)
    found = model.certify()
    assert found.method_ == "interval"
    assert found.attained_min_[0] <= model.predict(X).min() + 1e-9
    assert found.attained_max_[0] >= model.predict(X).max() - 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", ["softplus", "exp", "relu", "square"])
@pytest.mark.parametrize("sides", [(0.0, None), (None, 1.0), (0.0, 1.0)])
def test_no_overflow_of_an_output_activation_is_verified(dtype, function, sides):
    inner = random_network([2, 4, 1], dtype=dtype)
    module = BoundedOutput(inner, function, Bounds.read(*sides, 1), scale=3.0).eval()
    lower, upper = sides
    for size in (1.0, 1e3, 1e30, 1e37, 1e155, 1e300):
        corners = size * np.array([[-1, -1], [1, 1], [1, -1], [-1, 1]])
        box = Box([-size, -size], [size, size])
        found = certify_module(module, box, lower_bound=lower, upper_bound=upper)
        finite = np.isfinite(outputs(module, corners)).all()
        assert not found or finite
        assert found or size > 1
        assert not np.isnan([found.attained_min_, found.attained_max_]).any()
    everywhere = certify_module(module, All(2), lower_bound=lower, upper_bound=upper)
    assert everywhere
    far = everywhere.largest_input_ * np.array([[-1, -1], [1, 1], [1, -1], [-1, 1]])
    assert np.isfinite(outputs(module, far)).all()


@pytest.mark.parametrize("method", ["interval", "auto", "branch_and_bound"])
def test_an_overflow_leaves_no_nan(method):
    module = random_network([2, 4, 1])
    with torch.no_grad():
        module[0].weight.mul_(1e300)
    box = Box([-1e30, -1e30], [1e30, 1e30])
    found = certify_module(module, box, method=method, time_limit=0.1)
    assert found.status_ != "verified"
    numbers = found.numerical_slack_, found.proved_min_, found.attained_min_
    assert not np.isnan(numbers).any()
