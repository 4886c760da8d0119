"""What a certificate says was seen, was predicted: for rows alone, in their dtype."""

import numpy as np
import pytest
import torch
from marks import mostly_slow
from networks import outputs, random_network
from torch import nn

from sklpos import MLP, PositiveOutputRegressor
from sklpos.certificates import All, Ball, Box, Hull, certify, certify_module
from sklpos.certificates.bounds.crown import crown_bounds
from sklpos.certificates.bounds.network import read_network
from sklpos.certificates.search import programme, split_duals
from sklpos.certificates.search.milp import milp_minimum
from sklpos.certificates.search.subproblems import Units
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


@pytest.mark.parametrize("domain", [Box([0, 0], [1, 1]), Ball([[0, 0], [1, 1]], 0.2)])
def test_no_point_outside_of_its_part_is_seen(monkeypatch, domain):
    def beyond(network, region, *, seed):
        return (region.high + 1e-9)[:, None].expand(-1, network.n_outputs, -1)

    monkeypatch.setattr("sklpos.certificates.methods.attack", beyond)
    module = nn.Linear(2, 1).double()
    nn.init.constant_(module.weight, -1.0)
    # At the end of each part, and not broken by a little more.
    ends = outputs(module, domain.region().high.numpy())
    found = certify_module(module, domain, lower_bound=ends.min())
    assert found.status_ != "falsified"
    assert found.attained_min_ == ends.min()


def careless(solve):
    """A solver that keeps to its limits only up to its tolerance."""

    def solver(*args, **kwargs):
        found = solve(*args, **kwargs)
        if found.x is not None:
            found.x = found.x + 1e-7 * np.where(found.x < 0.5, -1, 1)
        return found

    return solver


def assert_inside(points, rows):
    # A point of the hull is on no side farther out than every row.
    directions = np.random.default_rng(0).normal(size=(2000, rows.shape[1]))
    farthest = (rows @ directions.T).min(axis=0)
    assert (points @ directions.T >= farthest - 1e-12).all()


def test_points_of_an_integer_programme_are_in_the_hull(monkeypatch):
    monkeypatch.setattr(programme, "milp", careless(programme.milp))
    for seed in range(5):
        network = read_network(random_network([3, 6, 1], seed=seed))
        region = Hull(X[:8]).region()
        hidden = crown_bounds(network, region).hidden
        found = milp_minimum(network, region, hidden)
        assert_inside(found.minimiser[None], X[:8])


@pytest.mark.parametrize("domain", [Hull(X[:8]), Box([-1] * 3, [1] * 3)], ids=repr)
def test_points_of_a_split_are_in_its_part(monkeypatch, domain):
    monkeypatch.setattr(split_duals, "linprog", careless(split_duals.linprog))
    network = read_network(random_network([3, 2, 1], seed=1))
    region = domain.region()
    units = Units(network, region, crown_bounds(network, region).hidden)
    some = units.whole()
    for unit in range(2):
        some.unit.fill_(unit)
        some = units.retightened(some.children())
    points = split_duals.solved(units, some)[1].numpy()
    if isinstance(domain, Hull):
        assert_inside(points, X[:8])
    assert (np.abs(points) <= np.abs(region.low.numpy()).max()).all()


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
    model = PositiveOutputRegressor(
        MLP, lower_bound=-1e6, max_epochs=5, random_state=0
    ).fit(X, y)
    found = model.certify()
    assert found.method_ == "interval"
    assert found.attained_min_[0] <= model.predict(X).min() + 1e-9
    assert found.attained_max_[0] >= model.predict(X).max() - 1e-9


@pytest.mark.parametrize(
    "dtype", mostly_slow([torch.float32, torch.float64], torch.float32)
)
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


@pytest.mark.parametrize("activation", ["tanh", "softplus", "silu", "gelu", "elu"])
@pytest.mark.parametrize("size", [1e155, 1e200, 1e290])
def test_no_size_of_a_box_leaves_nan(activation, size):
    module = random_network([2, 4, 3, 1], activation)
    for domain in (Box([-size, 0], [size, size]), Hull([[-size, 0], [0, size]])):
        found = certify_module(module, domain, time_limit=0.1)
        numbers = found.proved_min_, found.proved_max_, found.numerical_slack_
        assert not np.isnan(numbers).any()
    if size < 1e200:
        # CROWN still knows something.
        assert np.isfinite([found.proved_min_, found.proved_max_]).any()
