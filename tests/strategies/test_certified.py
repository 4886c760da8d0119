"""Certified training: the interval bound over a domain, driven like a row."""

import copy
import pickle
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from marks import mostly_slow
from properties import assert_same_training_state
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sklpos import PositiveOutputRegressor
from sklpos.certificates.bounds.crown import interval_bounds
from sklpos.certificates.bounds.network import read_network, trainable_network
from sklpos.nets.bounds import Bounds
from sklpos.nets.modules import MLP
from sklpos.strategies import (
    Certified,
    DomainConstraint,
    IntervalBounds,
    OutputConstraint,
)

SETTINGS = {
    "strategy": Certified(warm_up=10),
    "module": MLP,
    "module__hidden_layer_sizes": (16,),
    "lr": 0.01,
    "max_epochs": 60,
    "batch_size": 20,
    "repair": None,
    "random_state": 0,
    "lr_schedule": None,
}


def regressor(**params):
    return PositiveOutputRegressor(**(SETTINGS | params))


def corners(X, margin=0.0):
    low, high = X.min(axis=0), X.max(axis=0)
    wider = margin * (high - low)
    return np.array([*product(*zip(low - wider, high + wider, strict=True))])


def samples(X, n=5000, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(X.min(axis=0), X.max(axis=0), size=(n, X.shape[1]))


def lowest(model):
    """The bound of the fitted net over its whole domain, scaled units."""
    return bounds_of(model)(model.net_.module_.eval())[0].detach().numpy()


def bounds_of(model):
    return model.net_.domain_constraint_.bounds


def scaled(model, X):
    """Outputs of the training state."""
    with torch.no_grad():
        dtype = next(model.net_.module_.parameters()).dtype
        return model.net_.module_.eval()(torch.as_tensor(X, dtype=dtype)).numpy()


def domain_multiplier(model):
    return model.net_.domain_constraint_.state.multiplier[0].numpy()


# What training reaches


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ends_with_the_box_proved(data, dtype):
    model = regressor(dtype=dtype).fit(data.X, data.y)
    assert model.certify(method="interval")
    assert model.predict(samples(data.X)).min() >= 0
    assert model.predict(corners(data.X)).min() >= 0
    assert model.kkt_.max_violation == 0
    plain = regressor(dtype=dtype, strategy="unconstrained").fit(data.X, data.y)
    assert plain.predict(samples(data.X)).min() < 0
    assert model.score(data.X, data.y) > 0.5


@pytest.mark.parametrize("activation", ["tanh", "gelu", "leaky_relu"])
def test_other_activations(data, activation):
    model = regressor(module__activation=activation).fit(data.X, data.y)
    assert model.certify(method="interval")
    assert model.predict(np.vstack([samples(data.X), corners(data.X)])).min() >= 0


def test_margin_widens_the_box(data):
    model = regressor(strategy=Certified(warm_up=10, margin=0.2)).fit(data.X, data.y)
    assert model.certify(method="interval", margin=0.2)
    assert model.predict(corners(data.X, 0.2)).min() >= 0


def test_outputs_of_their_own_bounds_and_a_free_one(data):
    Y = np.column_stack([data.y + 3, data.Y[:, 1], data.Y[:, 1] - 2])
    model = regressor(lower_bound=[3.0, 0.0, -np.inf]).fit(data.X, Y)
    everywhere = model.predict(np.vstack([samples(data.X), corners(data.X)]))
    assert (everywhere[:, :2].min(axis=0) >= [3, 0]).all()
    assert everywhere[:, 2].min() < -2
    assert domain_multiplier(model).shape == (2,)
    assert model.multipliers_.shape == Y.shape


@pytest.mark.parametrize(
    "sides", mostly_slow([(0.0, None), (None, 1.0), (0.0, 1.0)], (0.0, 1.0))
)
def test_training_pulls_the_whole_domain_within_its_bounds(data, sides):
    bounds = Bounds.read(*sides, n_outputs=1)
    params = {"lower_bound": sides[0], "upper_bound": sides[1], "max_epochs": 100}
    X = np.vstack([samples(data.X), corners(data.X)])

    def violations(strategy):
        """Largest ones below and above, over the domain and as the interval says."""
        model = regressor(strategy=strategy, **params).fit(data.X, y)
        interval = IntervalBounds(torch.tensor(data.X))(model.net_.module_.eval())
        module = model.net_.targets.scaled_bounds
        ends = np.ravel([end.item() for end in interval])
        found = bounds.violation(model.predict(X)[:, None])
        return found.max(), max(module.lower - ends[0], ends[1] - module.upper)[0]

    y = bounds.clip(data.y)
    plain, certified = violations("unconstrained"), violations(Certified(warm_up=10))
    assert plain[0] > 0.05
    assert plain[1] > 0.5
    assert certified[0] < 0.01
    assert certified[1] < 0.05


def test_the_domain_has_a_multiplier_for_each_side(data):
    y = np.clip(data.y, 0, 1)
    model = regressor(upper_bound=1.0).fit(data.X, y)
    assert domain_multiplier(model).shape == (2,)
    assert (domain_multiplier(model) > 0).all()


def test_hull(data):
    model = regressor(strategy=Certified("hull", warm_up=10)).fit(data.X, data.y)
    mixtures = np.random.default_rng(0).dirichlet(np.full(len(data.X), 0.1), 5000)
    bound = lowest(model)
    assert bound >= model.net_.targets.scaled_bounds.lower - 1e-2
    assert (scaled(model, mixtures @ data.X) >= bound - 1e-9).all()
    box = IntervalBounds(torch.tensor(data.X))
    assert bound > box(model.net_.module_)[0].item()


def test_hull_of_a_linear_model_is_exact(data):
    module = nn.Linear(3, 1).double().eval()
    outputs = module(torch.tensor(data.X))
    lowest, highest = IntervalBounds(torch.tensor(data.X), "hull")(module)
    torch.testing.assert_close(lowest[0, 0], outputs.min())
    torch.testing.assert_close(highest[0, 0], outputs.max())


def test_dropout_and_batch_norm_are_read_as_they_predict(data):
    torch.manual_seed(0)
    layers = [nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2)]
    module = nn.Sequential(*layers, nn.Linear(16, 1))
    params = SETTINGS | {"module": module, "max_epochs": 150}
    del params["module__hidden_layer_sizes"]
    model = PositiveOutputRegressor(**params).fit(data.X, data.y)
    assert lowest(model) >= model.net_.targets.scaled_bounds.lower - 0.05
    assert (scaled(model, samples(data.X)) >= lowest(model) - 1e-9).all()


# The bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["relu", "silu", "softplus", "sigmoid"])
def test_differentiable_reading_gives_the_bound_of_the_exact_one(dtype, activation):
    torch.manual_seed(0)
    module = MLP(3, 2, (8, 8), activation, dropout=0.5).to(dtype)
    network = trainable_network(module)  # in training mode
    low, high = -torch.ones(1, 3, dtype=dtype), torch.ones(1, 3, dtype=dtype)
    found = interval_bounds(network, low, high)
    exact = interval_bounds(read_network(module.eval()), low.double(), high.double())
    for own, other in zip(found, exact, strict=True):
        assert own.dtype == dtype
        assert own.requires_grad
        torch.testing.assert_close(own.double(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("domain", ["box", "hull"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
def test_gradient_of_the_bound(data, domain, activation):
    """Against central differences, weight by weight."""
    torch.manual_seed(0)
    module = MLP(3, 1, (5,), activation).double().eval()
    bounds = IntervalBounds(torch.tensor(data.X), domain, margin=0.1)
    bounds(module)[0].sum().backward()
    for weight in module.parameters():
        flat, slope = weight.data.view(-1), weight.grad.view(-1)
        for k in range(len(flat)):
            value, ends = flat[k].item(), []
            for step in (1e-6, -1e-6):
                flat[k] = value + step
                ends.append(bounds(module)[0].item())
            flat[k] = value
            assert slope[k].item() == pytest.approx(
                (ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-6
            )


def test_warm_up_grows_the_domain_from_its_centre():
    bounds = IntervalBounds(torch.tensor([[0.0], [2.0], [8.0]]), warm_up=4)
    module, seen = nn.Linear(1, 1), []
    nn.init.ones_(module.weight), nn.init.zeros_(module.bias)
    for _ in range(6):
        seen.append([end.item() for end in bounds(module)])
        bounds.end_epoch()
    assert seen == [[3, 5], [2, 6], [1, 7], [0, 8], [0, 8], [0, 8]]
    assert bounds(module.eval())[0].item() == 0


# Its multiplier


def test_the_domains_multiplier_moves_both_ways():
    """By a step in units of the domain's own curvature, down to 0."""
    lowest = torch.zeros(1, 1)
    rows = OutputConstraint(n_samples=3)
    own = Certified(domain_curvature=0.5, dual_lr=0.1).domain_term(torch.zeros(3, 1))
    domain = DomainConstraint(
        lambda module: (lowest, lowest),
        like=rows,
        strategy=own.strategy,
        alpha=own.alpha_share,
    )
    reached = []
    for violation in (2.0, -1.0, -5.0):
        lowest.fill_(-violation)
        domain.dual_step(nn.Identity())
        reached.append(domain.state.multiplier.item())
    assert reached == pytest.approx([0.2, 0.1, 0.0])
    assert not rows.multipliers.any()


def test_the_multiplier_lets_go_in_training(data):
    """With targets that are far above the bound, what the start raised falls to 0."""
    model = regressor(strategy=Certified(warm_up=1), max_epochs=1)
    model.fit(data.X, data.y + 10 * (data.X[:, 0] > 0) + 100)
    domain = copy.deepcopy(model.net_).domain_constraint_
    domain.state.multiplier.fill_(1.0)
    assert domain.violation(model.net_.module_).item() < 0
    domain.dual_step(model.net_.module_)
    assert domain.state.multiplier.item() < 1


# Continued, saved, stopped


def test_box_grows_with_the_rows_of_partial_fit(data):
    model = regressor(strategy=Certified(warm_up=1), batch_size=-1)
    wide = np.vstack([data.X[20:], [[9.0, 0.0, 0.0]]])
    model.partial_fit(data.X[:20], data.y[:20])
    raised = domain_multiplier(model).item()
    model.partial_fit(wide, np.append(data.y[20:], 0.0))
    assert domain_multiplier(model) > raised > 0
    model.partial_fit(data.X[:5], data.y[:5])
    everything = np.vstack([data.X, wide])
    points = bounds_of(model).points.numpy()
    np.testing.assert_array_equal(points[0], everything.min(axis=0))
    np.testing.assert_array_equal(points[1], everything.max(axis=0))
    assert bounds_of(model).n_epochs.item() == 3


def test_hull_grows_but_does_not_repeat_rows(data):
    model = regressor(strategy=Certified("hull"))
    for rows in (slice(0, 20), slice(20, 40), slice(10, 30)):
        model.partial_fit(data.X[rows], data.y[rows])
    assert len(bounds_of(model).points) == len(data.X)


def test_parts_equal_the_whole(data):
    whole = regressor(max_epochs=6).fit(data.X, data.y)
    parts = regressor(max_epochs=3, warm_start=True).fit(data.X, data.y)
    parts.fit(data.X, data.y)
    assert_same_training_state(whole, parts)


def test_held_out_rows_are_in_the_box(data):
    model = regressor(early_stopping=True, n_iter_no_change=40, max_epochs=100)
    model.fit(data.X, data.y)
    points = bounds_of(model).points.numpy()
    np.testing.assert_array_equal(points[0], data.X.min(axis=0))
    np.testing.assert_array_equal(points[1], data.X.max(axis=0))
    assert len(model.strategy_.state_.multiplier) == 36
    assert model.multipliers_.shape == (40, 1)


def test_pickled_net_goes_on_as_if_it_were_not(data):
    model = regressor(max_epochs=2, warm_start=True).fit(data.X, data.y)
    again = pickle.loads(pickle.dumps(model)).fit(data.X, data.y)
    assert_same_training_state(again, model.fit(data.X, data.y))


def test_another_strategy_may_go_on(data):
    model = regressor(max_epochs=2, warm_start=True, strategy="augmented_lagrangian")
    model.fit(data.X, data.y).set_params(strategy="certified").fit(data.X, data.y)
    assert model.kkt_.max_violation > 0
    model.set_params(strategy="unconstrained").fit(data.X, data.y)


def test_weights_equal_repeated_rows(data):
    weight = data.weight.astype(int)
    repeated = data.X.repeat(weight, axis=0), data.y.repeat(weight)
    params = {"batch_size": -1, "max_epochs": 20, "optimizer": torch.optim.SGD}
    weighted = regressor(**params).fit(data.X, data.y, weight)
    plain = regressor(**params).fit(*repeated)
    np.testing.assert_allclose(
        weighted.predict(data.X), plain.predict(data.X), rtol=1e-9, atol=1e-9
    )


def test_rows_of_weight_zero_do_not_widen_the_box(data):
    X = np.vstack([data.X, [[50.0, 0.0, 0.0]]])
    weight = np.append(np.ones(40), 0.0)
    model = regressor(max_epochs=1).fit(X, np.append(data.y, 1.0), weight)
    assert bounds_of(model).points.max() < 50


def test_no_output_with_a_bound(data):
    model = regressor(max_epochs=2, lower_bound=-np.inf).fit(data.X, data.y)
    assert model.strategy_.state_.multiplier.shape == (40, 0)


# Refusals


class Twice(nn.Module):
    def __init__(self, n_features_in, n_outputs):
        super().__init__()
        self.head = nn.Linear(n_features_in, n_outputs)

    def forward(self, X):
        return self.head(2 * X)


def test_a_module_that_is_not_understood_is_refused_before_training(data):
    model = PositiveOutputRegressor(Twice, strategy="certified")
    with pytest.raises(ValueError, match=r"strategy='certified'.*Twice is not underst"):
        model.fit(data.X, data.y)
    model.set_params(strategy="unconstrained", warm_start=True, max_epochs=1)
    before = model.fit(data.X, data.y).predict(data.X)
    with pytest.raises(ValueError, match=r"strategy='certified'.*Twice is not underst"):
        model.set_params(strategy="certified").fit(data.X, data.y)
    np.testing.assert_array_equal(model.predict(data.X), before)


def test_an_activation_with_weights_is_refused():
    module = nn.Sequential(nn.Linear(3, 2), nn.PReLU(), nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"PReLU \('1'\)"):
        trainable_network(module)


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("domain", "ball", "'box', 'hull'"),
        ("margin", -0.1, "at least 0"),
        ("margin", np.nan, "number"),
        ("warm_up", 1.5, "integer"),
        ("warm_up", -1, "integer, at least 0"),
        ("safety", np.inf, "number"),
        ("domain_curvature", 0.0, "above 0"),
    ],
)
def test_parameters_are_checked(data, name, value, right):
    model = regressor(strategy=Certified(**{name: value}))
    with pytest.raises(ValueError, match=rf"{name}=.* of Certified must be .*{right}"):
        model.fit(data.X, data.y)


def test_alpha_zero_is_refused(data):
    with pytest.raises(ValueError, match="alpha=0"):
        regressor(alpha=0.0).fit(data.X, data.y)


def repaired(**params):
    return regressor(repair="head", **params)


def sample(X, domain, n=3000):
    rng = np.random.default_rng(0)
    if domain == "hull":
        return rng.dirichlet(np.full(len(X), 0.03), size=n) @ X
    low, high = X.min(axis=0), X.max(axis=0)
    ends = np.where(rng.random((n, X.shape[1])) < 0.5, low, high)
    return np.vstack([ends, rng.uniform(low, high, size=(n, X.shape[1]))])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("domain", ["box", "hull"])
def test_fit_ends_with_a_certificate(data, domain, dtype):
    params = {"strategy": Certified(domain, warm_up=5), "dtype": dtype}
    model = repaired(lower_bound=[0.0, -np.inf], **params).fit(data.X, data.Y)
    assert model.certificate_
    points = sample(data.X, domain)
    assert model.predict(points)[:, 0].min() >= model.certificate_.proved_min_[0] >= 0
    assert model.repair_.balanced_.all()
    tolerance = 1e-9 if dtype == "float64" else 1e-5
    off = np.abs(model.predict(data.X).mean(axis=0) - data.Y.mean(axis=0))
    assert (off <= tolerance * data.Y.std(axis=0)).all()
    rows = data.X if domain == "hull" else None
    assert model.certify(domain, X=rows, method="crown")


def test_a_net_that_was_hardly_trained_is_repaired(data):
    model = repaired(strategy=Certified(warm_up=100), max_epochs=2, lr=0.3)
    model.fit(data.X, data.y)
    assert model.certificate_
    assert model.predict(sample(data.X, "box")).min() >= 0
    assert model.repair_.cost_[0] > 0
    model.partial_fit(data.X, data.y)
    assert model.certificate_ is None
    assert model.enforce(domain="box", time_limit=1).certificate_


def test_without_repair_the_certificate_says_how_far_training_came(data):
    params = {"strategy": Certified(warm_up=100), "repair": None}
    model = regressor(max_epochs=2, **params).fit(data.X, data.y)
    assert model.certificate_.status_ != "verified"
    assert model.repair_ is None


def test_the_certificate_covers_the_margin(data):
    for domain in ("box", "hull"):
        strategy = Certified(domain, margin=0.25, warm_up=5)
        model = repaired(strategy=strategy).fit(data.X, data.y)
        assert model.certificate_
        points = sample(data.X, domain)
        centre = np.unique(data.X, axis=0).mean(axis=0)
        if domain == "box":
            centre = (data.X.min(axis=0) + data.X.max(axis=0)) / 2
        assert model.predict(centre + 1.5 * (points - centre)).min() >= 0


def test_what_a_proof_costs_is_not_blamed_on_the_balance():
    """The corner of the box is far below the bound, but no row is: no warning."""
    X = np.random.default_rng(0).uniform(-1, 1, size=(200, 3))
    X = X[X.sum(axis=1) > -1]
    y = X.sum(axis=1) + 1
    net = torch.nn.Linear(3, 1).double()
    with torch.no_grad():
        net.weight.fill_(1.0)
        net.bias.fill_(1.0)
    model = PositiveOutputRegressor(net, strategy="certified", max_epochs=0)
    model.fit(X, y)
    assert model.certificate_
    assert model.repair_.balanced_.all()
    errors = model.predict(X) - y
    assert np.sqrt(np.mean(errors**2)) > 0.25 * y.std()


class Kernels(TorchDispatchMode):
    """Counts operations, and those that wait for the device."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        self.names[operation._schema.name] += 1
        return result


def test_a_step_takes_few_kernels_and_waits_for_no_device(data):
    """The operations that 10 more steps per epoch add, per step."""

    def kernels(strategy, n_copies):
        X, y = np.tile(data.X, (n_copies, 1)), np.tile(data.y, n_copies)
        model = regressor(strategy=strategy, max_epochs=2, warm_start=True)
        model.fit(X, y)
        with Kernels() as found:
            model.fit(X, y)
        return found.names

    def per_step(strategy):
        more = kernels(strategy, 10)
        more.subtract(kernels(strategy, 5))
        return {name: count / 20 for name, count in more.items()}

    certified, rows = map(per_step, (Certified(), "augmented_lagrangian"))
    assert sum(certified.values()) - sum(rows.values()) < 120
    waits = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero")
    for name in waits:
        assert certified.get(name, 0) == rows.get(name, 0)
