"""Copies of a model train on like it, and apart from it; so do compiled modules."""

import copy
import pickle
import shutil

import numpy as np
import pytest
import torch
from marks import mostly_slow
from properties import assert_same_bits, assert_same_training_state, training_state
from skorch.callbacks import Checkpoint
from torch import nn
from watching import assert_same_state, make_data, regressor, state_of

from sklpos.training.step import DivergenceError


def by_pickle(net):
    return pickle.loads(pickle.dumps(net))


by_each_way = pytest.mark.parametrize("duplicate", [by_pickle, copy.deepcopy])


@by_each_way
def test_a_copy_trains_on_like_the_original_and_apart_from_it(
    duplicate, mostly_slow_strategy
):
    X, y = make_data()
    params = {"module__dropout": 0.2, "warm_start": True}
    model = regressor(strategy=mostly_slow_strategy, **params).fit(X, y)
    twin, kept = duplicate(model), copy.deepcopy(training_state(model))
    assert_same_bits(training_state(twin), kept)
    assert twin.strategy_.state_ is twin.net_.constraint_.state
    twin.fit(X, y)
    assert_same_bits(training_state(model), kept)
    model.fit(X, y)
    assert len(twin.history_) == 8
    assert_same_training_state(model, twin)


@by_each_way
@pytest.mark.parametrize("name", ["augmented_lagrangian", "slack", "certified"])
def test_a_net_trains_on_by_itself(duplicate, name):
    X, y = make_data()
    model = regressor(strategy=name).fit(X, y)
    rows = X, model.net_.targets.standardise(y[:, None])
    nets = model.net_, duplicate(model.net_)
    for net in nets:
        net.partial_fit(*rows, epochs=2)
    assert len(nets[0].history) == len(nets[1].history) == 6
    assert_same_state(*map(state_of, nets))


def test_a_net_that_is_stored_while_it_trains_trains_on(tmp_path):
    X, y = make_data()
    every = Checkpoint(None, dirname=str(tmp_path), f_pickle="net_{last_epoch[epoch]}")
    model = regressor(every).fit(X, y)
    net = pickle.loads((tmp_path / "net_2").read_bytes())
    assert len(net.history) == 2
    net.partial_fit(X, model.net_.targets.standardise(y[:, None]), epochs=2)
    assert_same_state(state_of(net), state_of(model.net_))
    assert net.history[:, "train_loss"] == model.history_[:, "train_loss"]


# torch.compile

needs_dynamo = pytest.mark.skipif(
    not torch._dynamo.is_dynamo_supported(), reason="torch.compile does not work here"
)
its_own_warnings = pytest.mark.filterwarnings("ignore")  # of non-leaf gradients


def compiled_and_not(**params):
    X, y = make_data()
    models = [
        regressor(compile=how, warm_start=True, **params).fit(X, y)
        for how in (False, True)
    ]
    torch._dynamo.reset()
    return X, *models


@needs_dynamo
@its_own_warnings
@pytest.mark.slow
@pytest.mark.parametrize("name", ["augmented_lagrangian", "exact_penalty"])
def test_compiled_module_trains_the_same(name):
    X, plain, fast = compiled_and_not(
        strategy=name, compile__backend="eager", repair="head"
    )
    assert hasattr(fast.net_.module_, "_orig_mod")
    assert not hasattr(fast.module_, "_orig_mod")
    assert type(fast.module_.head) is nn.Linear
    np.testing.assert_allclose(fast.predict(X), plain.predict(X), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fast.multipliers_, plain.multipliers_, atol=1e-9)
    assert fast.predict(X).min() >= 0


@needs_dynamo
@its_own_warnings
def test_a_compiled_module_is_compiled_again_when_loaded():
    X, y = make_data()
    params = {"compile": True, "compile__backend": "eager", "warm_start": True}
    model = regressor(**params).fit(X, y)
    twin = by_pickle(model)
    assert hasattr(twin.net_.module_, "_orig_mod")
    assert twin.net_.module_._orig_mod is twin.net_.module
    assert_same_training_state(model.fit(X, y), twin.fit(X, y))


@needs_dynamo
@its_own_warnings
@pytest.mark.parametrize(
    "name", mostly_slow(["augmented_lagrangian", "certified"], "augmented_lagrangian")
)
def test_a_compiled_module_trains_on(name):
    X, y = make_data()
    plain, fast = (
        regressor(compile=how, compile__backend="eager", strategy=name, warm_start=True)
        for how in (False, True)
    )
    for model in (plain, fast):
        model.fit(X, y).partial_fit(X, y)
        model.fit(X[:-3], y[:-3])
    assert len(fast.history_) == 9
    assert hasattr(fast.net_.module_, "_orig_mod")
    np.testing.assert_allclose(fast.predict(X), plain.predict(X), rtol=1e-9, atol=1e-9)


@needs_dynamo
@its_own_warnings
@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler"
)
def test_compiled_by_the_default_backend():
    X, plain, fast = compiled_and_not(max_epochs=1)
    np.testing.assert_allclose(fast.predict(X), plain.predict(X), rtol=1e-9, atol=1e-9)


# Warm starts that fail


def other_rows(X, y):
    return X[:-5] + 0.1, y[:-5]


@pytest.fixture(scope="module")
def steady():
    """A model to copy, and to compare with."""
    return regressor(strategy="augmented_lagrangian", warm_start=True).fit(*make_data())


@pytest.mark.parametrize(
    ("changes", "data"),
    [
        ({}, None),
        ({"batch_size": 3}, other_rows),
        ({"optimizer": torch.optim.SGD}, None),
        ({"strategy": "penalty", "alpha": 2.0}, None),
        ({"lower_bound": 0.5, "on_violated_y": "ignore"}, None),
        ({"optimizer__weight_decay": 0.1}, other_rows),
    ],
)
def test_divergence_in_a_warm_start_loses_nothing(steady, changes, data):
    X, y = make_data()
    model, changes = copy.deepcopy(steady), {"lr": 1e300, **changes}
    parameters, fit = model.get_params(), model.fitted_
    with pytest.raises(DivergenceError):
        model.set_params(**changes).fit(*(data(X, y) if data else (X, y)))
    assert model.fitted_ is fit
    assert_same_training_state(model, steady)
    np.testing.assert_array_equal(model.predict(X), steady.predict(X))

    undisturbed = copy.deepcopy(steady)
    for each in (model, undisturbed):  # and it goes on as if nothing had happened
        each.set_params(**{key: parameters.get(key, 0.0) for key in changes}).fit(X, y)
    assert len(model.history_) == 8
    assert_same_training_state(model, undisturbed)
