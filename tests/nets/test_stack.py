"""The stack as a module: its members one by one, and the net that they fold into."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sklpos import Stack
from sklpos.nets.bounds import Bounds
from sklpos.nets.mixing import convex_shares, plain_net
from sklpos.nets.nonnegative import NonnegativeBlocks, NonnegativeLinear

KINDS = ((0, 1.0), (4, 0.1), (4, 2.0))
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))


@pytest.fixture(params=[1, 3], ids=["one output", "three outputs"])
def stack(request) -> Stack:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Stack(3, request.param, X, width=5, n_folds=2, kinds=KINDS)
    lower = [-1.0, -np.inf, -np.inf][: request.param]
    upper = [np.inf, 2.0, np.inf][: request.param]
    made.hold(Bounds(np.array(lower), np.array(upper)))
    shares = RNG.dirichlet(np.ones(3), size=request.param)
    made.shares.copy_(torch.as_tensor(shares))
    return made


def member_outputs(stack, inputs):
    """Outputs of each member, computed alone; (n_samples, kinds, folds, outputs)."""
    inputs, outputs = torch.as_tensor(inputs), []
    for kind, source in zip(stack.kinds, stack.sources, strict=True):
        seen = torch.cat([inputs, stack.encodings[source](inputs)], dim=1)
        hidden = kind.hidden(seen).relu().chunk(stack.n_folds, dim=1)
        weight, bias = kind.head.effective()
        weights, biases = weight.chunk(stack.n_folds), bias.chunk(stack.n_folds)
        parts = zip(hidden, weights, biases, strict=True)
        outputs.append(torch.stack([h @ w.T + b for h, w, b in parts], dim=1))
    return torch.stack(outputs, dim=1).detach()


def test_members_do_not_see_each_other(stack):
    found = stack(torch.as_tensor(X)).detach()
    wanted = member_outputs(stack, X).flatten(1)
    assert found.shape == (60, stack.n_members * stack.n_outputs)
    assert found.numpy() == pytest.approx(wanted.numpy())


@pytest.mark.parametrize("far", [0.0, 1.0, 1e3, 1e8])
def test_the_plain_net_is_the_mix(stack, far):
    outputs = member_outputs(stack, far * X).mean(dim=2)
    wanted = (stack.shares.T * outputs).sum(dim=1)
    net = plain_net(stack)
    found = net(torch.as_tensor(far * X)).detach()
    assert found.numpy() == pytest.approx(wanted.numpy(), rel=1e-9)
    assert {type(layer) for layer in net} == {nn.Linear, nn.ReLU}
    assert net[-1] is net.head


def test_the_stack_is_left_alone(stack):
    before = copy.deepcopy(stack.state_dict())
    state = torch.get_rng_state()
    plain_net(stack)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in stack.state_dict().items():
        assert torch.equal(value, before[name])


def test_members_start_at_the_mean():
    with torch.random.fork_rng():
        made = Stack(3, 2, X)
    weight = RNG.integers(1, 4, size=60)
    for bounds in (Bounds.read(-100.0, None, 2), Bounds.read(None, 100.0, 2)):
        with torch.random.fork_rng():
            made = Stack(3, 2, X, sample_weight=weight).hold(bounds)
        outputs = made(torch.as_tensor(X)).detach().numpy()
        assert np.average(outputs, axis=0, weights=weight) == pytest.approx(0, abs=1e-9)


def test_blocks_are_layers_of_their_own():
    with torch.random.fork_rng():
        linear, features = nn.Linear(4, 6), torch.rand(10, 12)
    bounds = Bounds.read([0.0, None], None, 2)
    blocks = NonnegativeBlocks(linear, bounds.repeated(3), n_blocks=3)
    found = blocks(features).chunk(3, dim=1)
    for number, (own, part) in enumerate(zip(found, features.chunk(3, 1), strict=True)):
        alone = nn.utils.skip_init(nn.Linear, 4, 2)
        rows = slice(2 * number, 2 * number + 2)
        with torch.no_grad():
            alone.weight.copy_(linear.weight[rows])
            alone.bias.copy_(linear.bias[rows])
        wanted = NonnegativeLinear(alone, bounds)(part)
        assert own.detach().numpy() == pytest.approx(wanted.detach().numpy(), rel=1e-5)


def test_every_weight_is_in_one_group(stack):
    net = nn.ModuleDict({"stack": stack}).stack
    patterns = dict(stack.param_groups)
    decays = [patterns[f"kinds.{number}.*"]["weight_decay"] for number in range(3)]
    assert decays == [1.0, 0.1, 2.0]
    assert patterns["*bias"] == {"weight_decay": 0.0}
    assert all(name.startswith("kinds.") for name, _ in net.named_parameters())


@pytest.mark.parametrize(
    ("n_features", "n_intervals"), [(1, 16), (64, 16), (100, 10), (256, 4), (257, 0)]
)
def test_many_features_have_few_intervals(n_features, n_intervals):
    wide = RNG.normal(size=(40, n_features))
    with torch.random.fork_rng():
        made = Stack(n_features, 1, wide, width=2, n_folds=1)
    layers = [layer for layer in plain_net(made) if isinstance(layer, nn.Linear)]
    if n_intervals:
        assert len(made.encodings[-1]) == n_intervals * n_features
    # without intervals there is one layer less
    assert len(layers) == (4 if n_intervals else 3)


def test_constant_features_have_no_intervals():
    with torch.random.fork_rng():
        made = Stack(2, 1, np.ones((10, 2)))
    assert torch.isfinite(plain_net(made)(torch.full((1, 2), 1e6).double())).all()


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_the_best_convex_ones(seed):
    rng = np.random.default_rng(seed)
    y, weight = rng.normal(size=200), rng.uniform(0.5, 2, size=200)
    # no prediction is so wrong that its row counts less
    predictions = y[:, None] + rng.normal(scale=[0.2, 0.3, 0.5], size=(200, 3))
    shares = convex_shares(5 + 3 * predictions, 5 + 3 * y, weight)
    assert shares.sum() == pytest.approx(1)
    assert shares.min() >= 0

    def error(shares):
        return weight @ (predictions @ shares - y) ** 2

    others = rng.dirichlet(np.ones(3), size=500)
    assert error(shares) <= min(map(error, others)) + 1e-6


def test_one_wild_row_does_not_decide_the_shares():
    y = np.r_[np.linspace(-1, 1, 99), 0.0]
    good, bad = y + 0.01, 0.5 * y
    good[-1], bad[-1] = 1e6, 1e5
    shares = convex_shares(np.column_stack([good, bad]), y, np.ones(100))
    assert shares[0] > 0.5


def test_a_constant_target_has_shares():
    predictions = np.column_stack([np.full(5, 2.0), np.arange(5.0)])
    shares = convex_shares(predictions, np.full(5, 2.0), np.ones(5))
    assert shares == pytest.approx([1, 0], abs=1e-6)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"n_folds": 1.5}, {"kinds": ()}])
def test_sizes_are_positive(wrong):
    with pytest.raises(ValueError, match="positive integer"):
        Stack(3, 1, X, **wrong)


def test_two_bounds_of_one_output_are_refused():
    with torch.random.fork_rng():
        made = Stack(3, 1, X)
    with pytest.raises(ValueError, match="not both; use module=MLP"):
        made.hold(Bounds.read(0.0, 1.0, 1))
