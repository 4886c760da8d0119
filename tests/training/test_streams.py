"""`partial_fit` on streams whose first chunk is no guide to the unit of y."""

import copy
import pickle

import numpy as np
import pytest
import torch
from properties import assert_same_bits, assert_same_training_state
from sklearn.metrics import r2_score

from sklpos import MLP, STRATEGIES, PositiveOutputRegressor, Stack
from sklpos.strategies import Activation

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1000, 3))
Z = np.maximum(X[:, 0] + 0.3 * RNG.normal(size=1000), 0)
FIRST = slice(50)
# Targets of the first chunk, and of those that follow.
STREAMS = {
    "tiny at first": (1e-3 * Z[FIRST], 1e3 * Z),
    "huge at first": (1e3 * Z[FIRST], 1e-3 * Z),
    "far away later": (Z[FIRST], 1e6 + Z),
    "constant at first": (np.full(50, 5.0), 1e-3 * Z),
    "zero at first": (np.zeros(50), 1e3 * Z),
    "one row at first": (Z[:1], 1e3 * Z),
}


def streamed(y_first, y, n_calls=15, **params):
    model = PositiveOutputRegressor(random_state=0, **params)
    model.partial_fit(X[: len(y_first)], y_first)
    for _ in range(n_calls):
        model.partial_fit(X, y)
    return model


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_finds_its_unit(stream):
    y_first, y = STREAMS[stream]
    model = streamed(y_first, y, module=MLP)
    assert model.enforce(X).score(X, y) > 0.85


@pytest.mark.parametrize("stream", ["tiny at first", "far away later"])
def test_the_default_finds_the_unit_of_a_stream(stream):
    y_first, y = STREAMS[stream]
    model = streamed(y_first, y, n_calls=8)
    assert model.score(X, y) > 0.8
    assert model.predict(100 * X).min() >= 0


@pytest.mark.slow
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(
    "params",
    [
        {"module": MLP, "module__activation": "tanh", "upper_bound": 1e7},
        {"module": Stack},
    ],
)
def test_every_strategy_finds_the_unit(strategy, stream, params):
    if strategy == "nonnegative_weights" and "upper_bound" in params:
        params = {**params, "module__activation": "sigmoid"}
    y_first, y = STREAMS[stream]
    model = streamed(y_first, y, n_calls=60, lr=0.02, strategy=strategy, **params)
    assert model.enforce(X).score(X, y) > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("stream", sorted(set(STREAMS) - {"far away later"}))
def test_single_precision_finds_the_unit(stream):
    y_first, y = STREAMS[stream]
    model = streamed(y_first, y, n_calls=30, module=MLP, dtype="float32")
    assert model.score(X, y) > 0.85


def test_outputs_follow_for_themselves():
    y_first = np.c_[Z, np.full(1000, 2.0), Z][FIRST]
    y = np.c_[1e3 * Z, np.full(1000, 2.0), Z]
    model = streamed(y_first, y, module=MLP)
    before = streamed(y_first, y, n_calls=0, module=MLP).net_.targets
    after = model.net_.targets
    assert after.scale[0] > 100 * before.scale[0]
    assert_same_bits(after.scale[1:], before.scale[1:])
    assert r2_score(y[:, 0], model.predict(X)[:, 0]) > 0.85


# At the change


def heads_in_the_unit_of_y(model):
    """What the module in training computes, the members of a `Stack` apart."""
    net = model.net_
    with torch.no_grad():
        outputs = net.plain_module_.eval()(torch.as_tensor(X)).numpy()
    targets = net.targets
    return targets.shift + targets.scale * outputs


def test_predictions_stay_when_the_unit_changes(strategy):
    assert_stays(strategy, "MLP", None)


@pytest.mark.parametrize("upper_bound", [None, 20.0])
def test_predictions_of_members_stay(upper_bound):
    assert_stays("nonnegative_weights", "Stack", upper_bound)


@pytest.mark.slow
@pytest.mark.parametrize("upper_bound", [None, 20.0])
@pytest.mark.parametrize("module", ["MLP", "Stack"])
def test_predictions_stay_under_both_bounds(strategy, module, upper_bound):
    assert_stays(strategy, module, upper_bound)


def assert_stays(strategy, module, upper_bound):
    if strategy == "activation":
        strategy = Activation("relu")
    params = {"strategy": strategy, "upper_bound": upper_bound, "weight_decay": 0.0}
    if module == "MLP":
        params |= {"module": MLP, "module__activation": "sigmoid"}
    model = PositiveOutputRegressor(random_state=0, **params)
    for _ in range(3):
        model.partial_fit(X[:300, :], Z[:300])
    before, unit = heads_in_the_unit_of_y(model), model.net_.targets.scale
    model.set_params(lr=1e-300).partial_fit(X[300:], 3 * Z[300:] + 1)
    # An activation does not follow such a small change.
    same = isinstance(strategy, Activation)
    assert (model.net_.targets.scale == unit) == same
    np.testing.assert_allclose(heads_in_the_unit_of_y(model), before, atol=1e-9)


@pytest.mark.parametrize("function", ["relu", "square", "exp"])
def test_predictions_stay_behind_an_activation(function):
    params = {"strategy": Activation(function), "weight_decay": 0.0}
    model = PositiveOutputRegressor(MLP, random_state=0, **params)
    for _ in range(3):
        model.partial_fit(X[:100], Z[:100] + 0.5)
    before, unit = heads_in_the_unit_of_y(model), model.net_.targets.scale
    model.set_params(lr=1e-300).partial_fit(X[100:], 20 * Z[100:] + 1)
    assert model.net_.targets.scale > 10 * unit
    np.testing.assert_allclose(heads_in_the_unit_of_y(model), before, atol=1e-3)


def test_worthless_predictions_keep_their_shape_instead():
    """A head a million times too large would never come down again."""
    model = PositiveOutputRegressor(MLP, random_state=0).partial_fit(X, 1e6 * Z)
    before = heads_in_the_unit_of_y(model)
    model.set_params(lr=1e-300)
    for number in (997, 998, 999):
        model.partial_fit(X[:number], Z[:number])
    after, scale = heads_in_the_unit_of_y(model), model.net_.targets.scale
    assert np.abs(after - Z[:, None]).max() < 10 * scale
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.999


def test_similar_chunks_leave_the_unit_alone():
    model = PositiveOutputRegressor(MLP, random_state=0)
    model.partial_fit(X[:500], Z[:500])
    unit = model.net_.targets
    model.partial_fit(X[500:], Z[500:])
    assert_same_bits(model.net_.targets.scale, unit.scale)
    assert_same_bits(model.net_.targets.shift, unit.shift)


def test_unscaled_targets_stay_unscaled():
    model = PositiveOutputRegressor(MLP, scale_y=False, random_state=0)
    model.partial_fit(X[FIRST], Z[FIRST]).partial_fit(X, 1e3 * Z)
    assert model.net_.targets.scale == 1
    assert model.net_.targets.shift == 0


def test_a_warm_start_takes_the_unit_of_its_rows():
    params = {"module": MLP, "warm_start": True, "random_state": 0, "max_epochs": 30}
    model = PositiveOutputRegressor(**params).fit(X, 1e6 * Z)
    assert model.fit(X, Z).score(X, Z) > 0.85
    alone = PositiveOutputRegressor(**params).fit(X, Z)
    assert_same_bits(model.net_.targets.scale, alone.net_.targets.scale)


@pytest.mark.parametrize("module", [{"module": MLP}, {}])
def test_a_stored_stream_goes_on_as_it_would_have(module):
    model = streamed(1e-3 * Z[FIRST], 1e3 * Z, n_calls=1, **module)
    twin = pickle.loads(pickle.dumps(model))
    assert_same_bits(twin.predict(X), model.predict(X))
    for each in (model, twin):
        each.partial_fit(X[:300], 1e5 * Z[:300]).partial_fit(X, 1e7 * Z)
    assert_same_training_state(model, twin)


def test_a_call_that_fails_leaves_the_unit_as_it_was():
    model = streamed(Z[FIRST], Z, n_calls=1, module=MLP)
    kept = copy.deepcopy(model)
    with pytest.raises(ValueError, match="NaN"):
        model.partial_fit(X, np.where(Z > 1, np.nan, 1e6 * Z))
    with pytest.raises(ValueError, match="diverged"):
        model.set_params(lr=1e200).partial_fit(X, 1e6 * Z)
    assert_same_training_state(model, kept)
    assert_same_bits(model.predict(X), kept.predict(X))


@pytest.mark.parametrize("module", [MLP, Stack])
def test_multipliers_of_a_domain_follow_the_unit(module):
    certified = STRATEGIES["certified"]
    model = PositiveOutputRegressor(module, strategy=certified(), random_state=0)
    model.partial_fit(X[:300], Z[:300])
    state = model.net_.domain_constraint_.state
    state.multiplier.fill_(2.0)
    unit = model.net_.targets.scale.item()
    still = copy.deepcopy(model)
    still.strategy = certified(dual_lr=0.0)
    still.partial_fit(X[300:], 3 * Z[300:])
    after = still.net_.domain_constraint_.state.multiplier.numpy()
    np.testing.assert_allclose(after * still.net_.targets.scale, 2.0 * unit)


# Of a stack


def test_shares_of_the_kinds_move_with_the_rows():
    model = PositiveOutputRegressor(random_state=0).partial_fit(X, Z)
    before = model.net_.plain_module_.shares.clone()
    other = copy.deepcopy(model).partial_fit(X[:40], Z[:40])
    after = other.net_.plain_module_.shares
    assert 0 < (after - before).abs().max() <= 40 / 1040 + 1e-12


def test_the_decay_of_biases_follows_the_bound():
    model = streamed(Z[FIRST], 1e6 + Z, n_calls=2)
    kinds = model.net_.plain_module_.kinds
    biases = {id(kind.head.bias) for kind in kinds}
    groups = model.optimizer_.param_groups
    own = [g for g in groups if biases & {id(weight) for weight in g["params"]}]
    assert [group["weight_decay"] for group in own] == [kinds[0].bias_decay]
    assert kinds[0].bias_decay < 1e-9
