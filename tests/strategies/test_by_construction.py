"""Outputs that are within their bounds by construction, for every input."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from sklpos import PositiveOutputRegressor, Stack
from sklpos.nets.bounds import Bounds
from sklpos.nets.modules import MLP
from sklpos.nets.nonnegative import NonnegativeLinear
from sklpos.nets.output_functions import OUTPUT_ACTIVATIONS
from sklpos.nets.outputs import BoundedOutput
from sklpos.nets.units import TargetScale
from sklpos.nets.within import keep_within
from sklpos.strategies import Activation, NonnegativeWeights

INF = np.inf
DTYPES = [torch.float32, torch.float64]
ROW = torch.zeros(1, 1)
# Lower, upper, both, none, and both at the same place: one output each.
MIXED = Bounds.read([-0.3, None, -0.7, None, 0.5], [None, 0.9, 1.3, None, 0.5], 5)


def assert_within(outputs, bounds):
    """In the dtype of the outputs, without a tolerance."""
    rounded = bounds.in_dtype(outputs.dtype)
    assert rounded.contain(outputs.detach().double().numpy()).all()


def random_bounds(rng, size=4, apart=0.0):
    """Bounds of every kind, of any size, and at any distance from 0."""
    ends = rng.normal(size=(2, size)) * 10.0 ** rng.integers(-6, 6, size=(2, size))
    lower, upper = np.sort(ends, axis=0)
    upper = np.maximum(upper, lower + apart * np.abs(ends).max(axis=0))
    kind = rng.permutation(size) % 4
    return Bounds(np.where(kind == 1, -INF, lower), np.where(kind == 0, INF, upper))


# -- the output activation ----------------------------------------------------------


def everywhere(n_outputs, dtype):
    """Outputs of a module, from one end of the number line to the other."""
    ends = torch.logspace(-30, 30, 121, dtype=torch.float64)
    near = torch.linspace(-50, 50, 2001, dtype=torch.float64)
    z = torch.cat([-ends, near, ends, torch.tensor([-INF, 0.0, INF])])
    return z.to(dtype)[:, None].expand(-1, n_outputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", OUTPUT_ACTIVATIONS)
def test_an_output_activation_is_within_its_bounds_for_every_input(function, dtype):
    rng = np.random.default_rng(0)
    for bounds in [MIXED, *(random_bounds(rng) for _ in range(100))]:
        size = len(bounds)
        scale = 10.0 ** rng.integers(-3, 3, size=size)
        like = nn.Linear(1, size).to(dtype)
        output = BoundedOutput(like, function, bounds, shift=1.0, scale=scale)
        output.module = nn.Identity()
        found = output(everywhere(size, dtype))
        assert_within(found, bounds)
        # What a certificate reads is what is attained.
        ends = Bounds(output.lower.double().numpy(), output.upper.double().numpy())
        assert_within(found, ends)
        assert bounds.in_dtype(dtype).contain(ends.lower)[np.isfinite(ends.lower)].all()
        assert bounds.in_dtype(dtype).contain(ends.upper)[np.isfinite(ends.upper)].all()


@pytest.mark.slow
def test_far_bounds_do_not_spoil_the_fit(data):
    """A sigmoid that follows its input is as good as no activation."""
    free, *wide = (
        PositiveOutputRegressor(
            strategy="activation",
            lower_bound=lower,
            upper_bound=upper,
            max_epochs=60,
            random_state=0,
        )
        .fit(data.X, data.y)
        .score(data.X, data.y)
        for lower, upper in ((None, None), (-1e3, 1e3), (-4.0, 1e4), (-1e6, 8.0))
    )
    assert min(wide) > free - 0.1


@pytest.mark.parametrize("function", OUTPUT_ACTIVATIONS)
def test_each_output_has_the_function_of_its_bounds(function):
    act, _ = OUTPUT_ACTIVATIONS[function]
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None].expand(-1, 5)
    units = {"shift": 2.0, "scale": 3.0}
    module = nn.Linear(5, 5).double()
    output = BoundedOutput(module, function, MIXED, **units)
    output.module = nn.Identity()
    lower, upper, both, free, constant = output(z).T
    torch.testing.assert_close(lower, -0.3 + 3 * act(z[:, 0]))
    torch.testing.assert_close(upper, 0.9 - 3 * act(-z[:, 0]))
    torch.testing.assert_close(both, -0.7 + 2 * torch.sigmoid(z[:, 0]))
    torch.testing.assert_close(free, 2 + 3 * z[:, 0])
    assert (constant == 0.5).all()


def test_no_overflow_of_another_output_enters_the_gradient():
    module = nn.Linear(1, 5).double()
    output = BoundedOutput(module, "exp", MIXED)
    output(torch.full((1, 1), 1e5, dtype=torch.float64))[:, 2:].sum().backward()
    assert module.weight.grad[2:].ravel().tolist() == [0, 1e5, 0]


@pytest.mark.parametrize("mean", [[0.0] * 5, [1.0, 0.2, -1.5, 3.0, -1e5]], ids=str)
@pytest.mark.parametrize("function", OUTPUT_ACTIVATIONS)
def test_an_activation_starts_at_the_scaled_mean(function, mean):
    strategy = Activation(function)
    bounds = Bounds.read(
        [-0.5, None, -2.0, None, -1e6], [None, 0.7, 0.3, None, 1.0], n_outputs=5
    )
    module = nn.Linear(1, 5).double()
    module.weight.data.zero_()
    mean = torch.tensor(mean, dtype=torch.float64)
    module.bias.data = strategy.initial_bias(bounds, mean)
    wrapped = strategy.wrap(module, "", X=ROW, bounds=bounds)
    start = wrapped(torch.zeros(1, 1, dtype=torch.float64))
    torch.testing.assert_close(start[0], mean, rtol=0, atol=1e-9)


@pytest.mark.parametrize("function", OUTPUT_ACTIVATIONS)
def test_an_activation_starts_at_a_finite_number(function):
    """If the mean is on a bound, outside, or there is no room at all."""
    bounds = Bounds.read([0, None, 0, 0, 3, -5], [None, 0, 1, 0, 4, -4], 6)
    start = Activation(function).initial_bias(bounds, torch.zeros(6))
    assert start.isfinite().all()


def test_an_activation_names_its_choices():
    with pytest.raises(ValueError, match=r"function='tanh'.*softplus"):
        Activation("tanh").wrap(nn.Linear(1, 1), "", X=ROW, bounds=Bounds())


# -- the head of one sign -----------------------------------------------------------


def in_any_order(head, features):
    """Outputs with the terms added one by one, in three orders and two groups."""
    weight, bias = head.weight.detach(), head.bias.detach()
    terms = features[:, None, :] * weight
    start = bias.expand(len(features), -1)[..., None]
    for order in (torch.cat([start, terms], -1), torch.cat([terms, start], -1)):
        yield order.cumsum(-1)[..., -1]
        yield order.flip(-1).cumsum(-1)[..., -1]
    half = terms.shape[-1] // 2
    yield terms[..., :half].sum(-1) + (terms[..., half:].sum(-1) + bias)
    yield nn.functional.linear(features, weight, bias)


def corners(rng, n_features, dtype, n=64):
    """Features in [0, 1], most of them at an end, and both extreme corners."""
    inner = torch.tensor(rng.random((n, n_features)))
    ends = torch.tensor(rng.integers(0, 2, (n, n_features)), dtype=torch.float64)
    ones = torch.ones(1, n_features, dtype=torch.float64)
    shares = rng.random((n, 1)) < 0.5
    return torch.cat(
        [torch.where(torch.tensor(shares), inner, ends), ones, 0 * ones]
    ).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reserve_covers_every_order_of_the_sum(dtype):
    rng = np.random.default_rng(1)
    for n_features in (1, 3, 30, 300):
        features = corners(rng, n_features, dtype)
        for _ in range(20):
            bounds = random_bounds(rng, apart=1e-3)
            layer = NonnegativeLinear(nn.Linear(n_features, 4).to(dtype), bounds)
            with torch.no_grad():  # well beyond the upper bound, if not scaled down
                layer.weight.mul_(torch.tensor(10.0 ** rng.uniform(-2, 6)))
            head = layer.plain()
            keep_within(head, bounds)
            for outputs in in_any_order(head, features):
                assert_within(outputs, bounds)
            for outputs in in_any_order(head, features[:1]):
                assert_within(outputs, bounds)


def test_the_reserve_costs_next_to_nothing():
    layer = NonnegativeLinear(nn.Linear(50, 1), Bounds.read(0.0, 1.0, 1))
    nn.init.constant_(layer.weight, 9.0)
    head = layer.plain()
    keep_within(head, Bounds.read(0.0, 1.0, 1))
    assert head(torch.ones(1, 50)).item() == pytest.approx(1, abs=2e-5)
    assert head(torch.zeros(1, 50)).item() == pytest.approx(0, abs=1e-3)


def test_bounds_too_close_for_the_reserve_are_refused():
    """Rather than that all weights are 0."""
    head = nn.Linear(100, 2)
    keep_within(head, Bounds.read(1e3, 1e3 + 1, 2))
    assert head.weight.any()
    keep_within(head, Bounds.read(0.1, 0.1, 2))
    assert not head.weight.any()
    with pytest.raises(ValueError, match=r"lower_bound=100000\.0 and .*float32; use"):
        keep_within(head, Bounds.read([0.0, 1e5], [1.0, 1e5 + 1], 2))


def test_a_head_that_is_within_is_left_alone():
    head = nn.Linear(3, 2)
    nn.init.constant_(head.weight, 0.1)
    nn.init.constant_(head.bias, 0.5)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    keep_within(head, Bounds.read([0.0, None], [1.0, None], 2))
    torch.testing.assert_close(head.state_dict(), before, rtol=0, atol=0)


def test_the_head_of_both_bounds_reaches_both():
    bounds = Bounds.read(-1.0, 3.0, 1)
    layer = NonnegativeLinear(nn.Linear(4, 1), bounds)
    nn.init.constant_(layer.weight, -50.0)
    nn.init.zeros_(layer.bias)
    assert layer(torch.zeros(1, 4)).item() == -1
    assert layer(torch.ones(1, 4)).item() == pytest.approx(3, rel=1e-6)


def test_an_upper_bound_is_the_mirror_image_of_a_lower_one():
    torch.manual_seed(0)
    linear = nn.Linear(4, 1).double()
    features = torch.rand(20, 4, dtype=torch.float64) * 100
    rising = NonnegativeLinear(linear, Bounds.read(2.0, None, 1))
    linear.bias.data.neg_()
    falling = NonnegativeLinear(linear, Bounds.read(None, -2.0, 1))
    assert torch.equal(falling(features), -rising(features))


@pytest.mark.parametrize(
    ("lower", "upper", "ends"),
    [(-1, None, (0, INF)), (None, 1, (-INF, 0)), (-1, 4, (0, 4)), (-4, 1, (-4, 0))],
)
def test_without_a_bias_the_cone_starts_at_0(lower, upper, ends):
    linear = nn.Linear(2, 1, bias=False)
    nn.init.constant_(linear.weight, 1e9)
    bounds = Bounds.read(lower, upper, 1)
    head = NonnegativeLinear(linear, bounds).plain()
    keep_within(head, bounds)
    found = head(torch.tensor([[0.0, 0.0], [1.0, 1.0]])).ravel().tolist()
    expected = [np.clip(end, -2e9, 2e9) for end in ends]
    assert sorted(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("lower", "upper"), [(1, None), (None, -1), (1, 2), (-2, -1)])
def test_a_head_without_bias_must_be_able_to_predict_0(lower, upper):
    net = nn.Sequential(nn.Linear(1, 2), nn.Sigmoid(), nn.Linear(2, 1, bias=False))
    with pytest.raises(ValueError, match=r"without bias requires lower_bound <= 0 <= "):
        NonnegativeWeights().wrap(net, "2", X=ROW, bounds=Bounds.read(lower, upper, 1))


# -- the features of that head ------------------------------------------------------

UNIT = [
    nn.Sigmoid,
    nn.Hardsigmoid,
    lambda: nn.Hardtanh(0, 1),
    lambda: nn.Hardtanh(0.25, 0.5),
    lambda: nn.Softmax(dim=1),
]
RISING = [nn.ReLU, nn.ReLU6, nn.Softplus, lambda: nn.Hardtanh(0, 1.01)]
SIGNED = [nn.Tanh, nn.Hardtanh, nn.ELU, lambda: nn.Softplus(beta=-1.0), nn.Identity]


def wrapped(layer, *, bounds, after=nn.Identity):
    net = nn.Sequential(nn.Linear(1, 2), layer(), after(), nn.Linear(2, 1))
    return NonnegativeWeights().wrap(net, "3", X=ROW, bounds=bounds)


@pytest.mark.parametrize("layer", UNIT)
def test_features_in_the_unit_interval_suit_all_bounds(layer):
    for lower, upper in itertools.product((None, 0.0), (None, 1.0)):
        net = wrapped(layer, bounds=Bounds.read(lower, upper, 1), after=nn.Dropout)
        assert type(net[-1]) is NonnegativeLinear


@pytest.mark.parametrize("layer", RISING)
def test_other_non_negative_features_suit_one_bound(layer):
    for sides in ((0.0, None), (None, 1.0)):
        wrapped(layer, bounds=Bounds.read(*sides, 1))
    with pytest.raises(
        ValueError, match=r"both bounds needs features in \[0, 1\]: put"
    ):
        wrapped(layer, bounds=Bounds.read(0.0, 1.0, 1))


@pytest.mark.parametrize("layer", SIGNED)
def test_features_that_can_be_negative_suit_none(layer):
    for sides in ((0.0, None), (None, 1.0)):
        with pytest.raises(ValueError, match=r"cannot be negative: put an nn\.ReLU"):
            wrapped(layer, bounds=Bounds.read(*sides, 1))
    with pytest.raises(ValueError, match=r"nn\.Hardtanh\(0, 1\).*partial\(nn\.Ha"):
        wrapped(layer, bounds=Bounds.read(0.0, 1.0, 1))


# -- the product, in the unit of y --------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", [Activation(), NonnegativeWeights()], ids=str)
def test_the_product_is_within_its_bounds_in_any_unit(strategy, dtype):
    rng = np.random.default_rng(2)
    X = torch.tensor(rng.normal(size=(40, 3))).to(dtype)
    far = torch.cat([X, *(sign * 10.0**e * X for sign in (1, -1) for e in (3, 30))])
    for _ in range(30):
        bounds = random_bounds(rng, apart=1e-3)
        reach = np.where(bounds.bounded, np.maximum(bounds.size, 1e-9), 1.0)
        y = bounds.clip(reach * rng.normal(size=(20, 4)))
        targets = TargetScale.from_data(y, np.ones(20), bounds)
        module = MLP(3, 4, (9,), "sigmoid").to(dtype)
        scaled = targets.scaled_bounds
        module.head.weight.data.mul_(float(10.0 ** rng.uniform(-2, 4)))
        net = strategy.wrap(module, "head", X=X[:1], bounds=scaled)
        with torch.no_grad():
            product = strategy.finalize(net, "head", targets).eval()
            assert_within(product(far), bounds)
            for row in far[::17]:
                assert_within(product(row[None]), bounds)


SIDES = [(0.0, None), (None, 1.0), (-0.5, 1.0), ([0.0, None], [0.8, 0.1]), (0.2, 0.2)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_a_fitted_model_is_within_its_bounds(
    small, data, everywhere_strategy, dtype, sides
):
    bounds = Bounds.read(*sides, n_outputs=2)
    params = {"module__activation": "sigmoid", "dtype": dtype, "max_epochs": 10}
    model = small(
        strategy=everywhere_strategy,
        lower_bound=sides[0],
        upper_bound=sides[1],
        on_violated_y="ignore",
        **params,
    ).fit(data.X, bounds.clip(data.Y - 0.3))
    rounded = bounds.in_dtype(getattr(torch, dtype))
    for size in (1.0, 1e3, 1e30):
        X = size * np.concatenate([data.X, -data.X_new])
        assert rounded.contain(model.predict(X)).all()
        assert all(rounded.contain(model.predict(row[None])).all() for row in X[::9])
    assert model.kkt_.max_violation < 1e-6
    assert not model.multipliers_.any()


def test_the_members_of_a_stack_have_the_bounds_in_their_dtype():
    stack = Stack(1, len(MIXED), X=[[0.0], [1.0]])
    Activation().wrap(stack, None, X=ROW, bounds=MIXED)
    assert torch.equal(stack.output.lower, torch.as_tensor(MIXED.lower))
    assert len(list(stack.output.parameters())) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["activation", "nonnegative_weights"])
def test_a_range_costs_little_accuracy(name):
    """Shares between 0 and 1, many of them at an end."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    y = np.clip(0.5 + X @ [0.4, -0.3, 0.2], 0, 1)
    model = PositiveOutputRegressor(
        strategy=name,
        upper_bound=1.0,
        module__activation="sigmoid",
        module=MLP,
        module__hidden_layer_sizes=(30,),
        lr=0.02,
        max_epochs=150,
        random_state=0,
    )
    assert model.fit(X[:200], y[:200]).score(X[200:], y[200:]) > 0.97


def test_a_relu_net_is_refused_for_both_bounds_before_training(small, data):
    model = small(strategy="nonnegative_weights", upper_bound=9.0)
    asked = r"put nn\.Hardtanh\(0, 1\), nn\.Sigmoid or.*module=MLP, module__activation="
    with pytest.raises(ValueError, match=asked):
        model.fit(data.X, data.y)
    model.set_params(module__activation=partial(nn.Hardtanh, 0, 1))
    assert model.fit(data.X, data.y).predict(data.X).max() <= 9
