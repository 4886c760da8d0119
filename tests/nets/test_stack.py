"""The stack as a module: its members one by one, and the net that they fold into."""

import copy
import re
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklpos import Stack
from sklpos.nets.bounds import Bounds
from sklpos.nets.mixing import convex_shares, plain_net
from sklpos.nets.nonnegative import NonnegativeBlocks, NonnegativeLinear

LOSSES = (F.mse_loss, F.l1_loss)
KINDS = ((0, 1.0), (4, 0.1), (4, 2.0))
RNG = np.random.default_rng(0)
X = RNG.normal(loc=(5.0, 0.0, -100.0), scale=(1.0, 0.01, 20.0), size=(60, 3))


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
    features = torch.as_tensor((inputs - X.mean(axis=0)) / X.std(axis=0))
    inputs, outputs = torch.as_tensor(inputs), []
    for kind, source in zip(stack.kinds, stack.sources, strict=True):
        seen = torch.cat([features, stack.encodings[source](inputs)], dim=1)
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
    kinds = [nn.Linear, nn.Hardtanh, nn.Linear, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in net] == kinds
    assert net[-1] is net.head


def test_members_are_folded_in_float64(stack):
    single = stack.float()
    exact = plain_net(copy.deepcopy(single).double()).float()
    for found, wanted in zip(plain_net(single), exact, strict=True):
        for name, value in wanted.state_dict().items():
            assert torch.equal(found.state_dict()[name], value)


def test_features_of_two_values_are_seen_once_and_rare_ones_less():
    many = RNG.normal(size=(10_000, 3))
    many[:, 1] = RNG.random(10_000) < 0.04
    with torch.random.fork_rng():
        made = Stack(3, 1, many, width=3)
    assert made.encodings[0].passed.tolist() == [0, 2]
    rows = torch.as_tensor(many[:50])
    assert made.inputs(rows)[0].shape == (50, 2 + len(made.encodings[0]))
    assert made.encodings[0](torch.as_tensor(many)).mean(0).abs().max() < 1e-12
    found = plain_net(made)(rows).detach()
    wanted = made.mix(made(rows)).detach()
    assert found.numpy() == pytest.approx(wanted.numpy(), rel=1e-9)


def test_the_stack_is_left_alone(stack):
    before = copy.deepcopy(stack.state_dict())
    state = torch.get_rng_state()
    plain_net(stack)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in stack.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("mean", [[0.0, 0.0], [3.0, -50.0]], ids=str)
def test_members_start_at_the_mean(mean):
    with torch.random.fork_rng():
        made = Stack(3, 2, X)
    weight = RNG.integers(1, 4, size=60)
    for bounds in (Bounds.read(-100.0, None, 2), Bounds.read(None, 100.0, 2)):
        with torch.random.fork_rng():
            made = Stack(3, 2, X, sample_weight=weight)
        made.start(torch.tensor(mean))
        outputs = made.hold(bounds)(torch.as_tensor(X)).detach().numpy()
        means = np.average(outputs, axis=0, weights=weight).reshape(-1, 2)
        assert means == pytest.approx(np.tile(mean, (len(means), 1)), abs=1e-9)


def test_free_members_start_at_a_given_mean():
    with torch.random.fork_rng():
        made = Stack(3, 2, X)
    made.start(torch.tensor([0.5, -1.0], dtype=torch.float64))
    means = made(torch.as_tensor(X)).detach().mean(dim=0).reshape(-1, 2)
    assert means.numpy() == pytest.approx(np.tile([0.5, -1.0], (12, 1)))


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
        assert own.detach().numpy() == pytest.approx(wanted.detach().numpy(), abs=1e-6)


def test_every_weight_is_in_one_group(stack):
    net = nn.ModuleDict({"stack": stack}).stack
    patterns = dict(stack.param_groups)
    decays = [patterns[f"kinds.{number}.*"]["weight_decay"] for number in range(3)]
    assert decays == [1.0, 0.1, 2.0]
    assert patterns["*bias"] == {"weight_decay": 0.0}
    # Of three outputs, one is free.
    assert ("*head.bias" in patterns) == (stack.n_outputs == 1)
    assert all(name.startswith("kinds.") for name, _ in net.named_parameters())


@pytest.mark.parametrize(
    ("n_features", "n_intervals"), [(1, 16), (64, 16), (100, 10), (256, 4), (257, 0)]
)
def test_many_features_have_few_intervals(n_features, n_intervals):
    wide = RNG.normal(size=(1200, n_features))
    with torch.random.fork_rng():
        made = Stack(n_features, 1, wide, width=2, n_folds=1)
    layers = [layer for layer in plain_net(made) if isinstance(layer, nn.Linear)]
    if n_intervals:
        assert len(made.encodings[-1]) == n_intervals * n_features
    # Without intervals, the hidden layer is the first.
    assert len(layers) == (3 if n_intervals else 2)


@pytest.mark.parametrize(("n_rows", "n_intervals"), [(30, 6), (20, 4), (19, 0)])
def test_there_are_no_more_intervals_than_distinct_rows(n_rows, n_intervals):
    few = np.repeat(RNG.normal(size=(n_rows, 5)), 3, axis=0)
    with torch.random.fork_rng():
        encoding = Stack(5, 1, few, width=2, n_folds=1).encodings[-1]
    assert len(encoding) == 5 * n_intervals


def test_features_of_few_values_leave_the_intervals_to_others():
    mixed = np.hstack([RNG.normal(size=(1200, 10)), RNG.integers(2, size=(1200, 500))])
    with torch.random.fork_rng():
        made = Stack(510, 1, mixed, width=2, n_folds=1)
    assert len(made.encodings[-1]) == 16 * 10 + 500


def test_constant_features_have_no_intervals():
    with torch.random.fork_rng():
        made = Stack(2, 1, np.ones((10, 2)))
    assert torch.isfinite(plain_net(made)(torch.full((1, 2), 1e6).double())).all()


def find_shares(predictions, y, weight=None, loss=F.mse_loss):
    """Shares of one output."""
    parts = predictions, y, np.ones(len(y)) if weight is None else weight
    tensors = [torch.as_tensor(part)[..., None] for part in parts]
    return convex_shares(*tensors, partial(loss, reduction="none"))[0].numpy()


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, F.huber_loss])
@pytest.mark.parametrize("seed", range(3))
def test_shares_are_the_best_convex_ones(seed, loss):
    rng = np.random.default_rng(seed)
    y, weight = rng.normal(size=200), rng.uniform(0.5, 2, size=200)
    # no prediction is so wrong that its row counts less
    predictions = y[:, None] + rng.normal(scale=[0.2, 0.3, 0.5], size=(200, 3))
    predictions, y = 5 + 3 * predictions, 5 + 3 * y
    shares = find_shares(predictions, y, weight, loss)
    assert shares.sum() == pytest.approx(1)
    assert shares.min() >= 0

    def error(shares):
        mixed = torch.as_tensor(predictions @ shares)
        errors = loss(mixed, torch.as_tensor(y), reduction="none").numpy()
        return np.average(errors, weights=weight)

    others = rng.dirichlet(np.ones(3), size=500)
    assert error(shares) <= min(map(error, others)) + 1e-5


def test_shares_depend_on_the_criterion():
    y = np.zeros(99)
    often = np.where(np.arange(99) % 10 > 0, 0.01, 2.0)  # exact but for some rows
    predictions = np.column_stack([often, np.full(99, -0.5)])
    squared, absolute = (find_shares(predictions, y, loss=f) for f in LOSSES)
    assert absolute[0] > squared[0] + 0.05


def test_each_output_has_shares_of_its_own():
    y = torch.linspace(-1, 1, 50).double()[:, None].repeat(1, 2)
    wrong = torch.stack([torch.zeros(2), torch.ones(2)])
    wrong[:, 1] = wrong[:, 1].flip(0)
    predictions = y[:, None] + wrong
    loss = partial(F.mse_loss, reduction="none")
    shares = convex_shares(predictions, y, torch.ones(50, 1).double(), loss)
    assert shares.numpy() == pytest.approx(np.eye(2), abs=1e-3)


def test_one_wild_row_does_not_decide_the_shares():
    y = np.r_[np.linspace(-1, 1, 99), 0.0]
    good, bad = y + 0.01, 0.5 * y
    good[-1], bad[-1] = 1e6, 1e5
    assert find_shares(np.column_stack([good, bad]), y)[0] > 0.5


def test_a_constant_target_has_shares():
    predictions = np.column_stack([np.full(5, 2.0), np.arange(5.0)])
    shares = find_shares(predictions, np.full(5, 2.0))
    assert shares == pytest.approx([1, 0], abs=1e-3)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"width": 0}, "width=0 of Stack must be a positive integer"),
        ({"n_folds": 1.5}, "n_folds=1.5 of Stack must be a positive integer"),
        ({"max_intervals": 0}, "max_intervals=0 of Stack must be a positive integer"),
        ({"max_intervals": "x"}, "max_intervals='x' of Stack must be a positive"),
        ({"kinds": ()}, "must be pairs"),
        ({"kinds": 3}, "kinds=3 of Stack must be pairs"),
        ({"kinds": "abc"}, "must be pairs"),
        ({"kinds": (16, 0.1)}, "must be pairs"),
        ({"kinds": ((-1, 0.1),)}, "must be pairs"),
        ({"kinds": ((4.5, 0.1),)}, "must be pairs"),
        ({"kinds": ((4, -0.1),)}, "must be pairs"),
        ({"kinds": ((4, np.nan),)}, "must be pairs"),
        ({"kinds": ((4, None),)}, "must be pairs"),
    ],
)
def test_wrong_parameters_are_named(wrong, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        Stack(3, 1, X, **wrong)


@pytest.mark.parametrize(
    ("bounds", "decay"),
    [
        ((-2.0, None), 5.0),
        ((-30.0, None), 0.005),
        ((None, 30.0), 0.005),
        ((-1e300, None), 0.0),
        ((-2.0, 2.0), 0.0),
        ((None, None), 0.0),
    ],
)
def test_biases_are_drawn_towards_a_near_bound(bounds, decay):
    groups = dict(Stack(3, 1, X).hold(Bounds.read(*bounds, 1)).param_groups)
    group = groups.get("*head.bias", groups["*bias"])
    assert group["weight_decay"] == pytest.approx(decay, abs=1e-12)


def test_two_bounds_of_one_output_hold_for_every_input():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Stack(3, 1, X).hold(Bounds.read(0.0, 1.0, 1))
        inputs = 10.0 ** torch.randint(-3, 9, (1000, 1)) * torch.randn(1000, 3).double()
    for net in (made, plain_net(made)):
        outputs = net(inputs.to(made.lowest)).detach()
        assert outputs.min() >= 0
        assert outputs.max() <= 1
    assert isinstance(made.activation, nn.Hardtanh)
