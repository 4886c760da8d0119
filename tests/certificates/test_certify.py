"""`certify` of a bare module, and of everything else by the same function."""

import inspect
import warnings

import numpy as np
import pytest
import torch
from networks import random_network
from sklearn.linear_model import LinearRegression
from torch import nn

from sklpos import PositiveOutputRegressor, certify
from sklpos.certificates import All, Ball, Box, Hull, certify_module
from sklpos.nets.bounded import BoundedModel, as_bounded_model
from sklpos.nets.bounds import Bounds
from sklpos.nets.outputs import BoundedOutput
from sklpos.repair import repair_head

X = np.random.default_rng(0).normal(size=(60, 3))
LOW, HIGH = X.min(axis=0), X.max(axis=0)


@pytest.fixture(scope="module")
def module():
    """A net of two outputs, one of them far above 0."""
    made = random_network([3, 8, 2])
    with torch.no_grad():
        made[-1].bias[1] += 100
    return made


def same(one, two):
    assert one.status_ == two.status_
    np.testing.assert_array_equal(one.proved_min_, two.proved_min_)
    # Rows that are known are looked at, too.
    assert (one.attained_min_ <= two.attained_min_).all()


@pytest.mark.parametrize(
    ("arguments", "domain"),
    [
        ({"X": X}, Box(LOW, HIGH)),
        ({"X": torch.tensor(X)}, Box(LOW, HIGH)),
        ({"domain": (LOW, HIGH)}, Box(LOW, HIGH)),
        ({"domain": (torch.tensor(LOW), torch.tensor(HIGH))}, Box(LOW, HIGH)),
        ({"domain": "hull", "X": X[:10]}, Hull(np.unique(X[:10], axis=0))),
        ({"domain": "ball", "X": X[:4], "radius": 0.1}, Ball(X[:4], 0.1)),
        ({"domain": "all"}, All(3)),
        ({"domain": Box(LOW, HIGH)}, Box(LOW, HIGH)),
    ],
)
def test_a_module_on_every_domain(module, arguments, domain):
    found = certify(module, time_limit=5, **arguments)
    assert repr(found.domain_) == repr(domain)
    same(found, certify_module(module, domain, time_limit=5))


def test_the_box_of_the_rows_is_widened_by_a_margin_and_may_have_categories(module):
    found = certify(module, X=X, margin=0.5, method="crown").domain_
    np.testing.assert_allclose(found.low, LOW - (HIGH - LOW) / 2)
    rows = np.round(X)
    found = certify(module, X=rows, categorical=[0], method="crown").domain_
    assert found.categorical == ((0,),)


def test_the_bound_is_zero_or_what_is_asked(module):
    assert not certify(module, X=X)
    assert certify(module, X=X, lower_bound=[-np.inf, 0.0])
    lowest = certify(module, X=X, method="crown").proved_min_
    found = certify(module, X=X, lower_bound=lowest - 0.1)
    assert found
    np.testing.assert_array_equal(found.required_min_, lowest - 0.1)
    assert certify(module, X=X, lower_bound=200).status_ == "falsified"


def test_a_counterexample_is_one(module):
    found = certify(module, X=X)
    value = module(torch.tensor(found.counterexample_[None])).min()
    assert value.item() < 0


def test_a_repaired_module_behind_an_output_activation_and_alone():
    inner = random_network([3, 8, 1])
    bounded = BoundedOutput(inner, "softplus", Bounds.read(0.0, None, 1)).eval()
    for domain in ("all", (LOW, HIGH)):
        assert certify(bounded, domain)
    repaired = repair_head(inner, X).module
    found = certify(repaired, "ball", X=X, radius=0.0)
    assert found.attained_min_[0] >= 0


def test_an_estimator_is_asked_with_another_bound(small, data):
    model = small().fit(data.X, data.y)
    lowest = model.certify(method="crown").proved_min_
    assert certify(model, lower_bound=lowest - 1, method="crown")
    assert model.certify(lower_bound=lowest - 1, method="crown")
    assert model.certify(method="crown").required_min_[0] == 0


def test_a_module_is_read_as_it_is(module):
    model = as_bounded_model(module)
    assert isinstance(model, BoundedModel)
    assert model.module is module
    assert as_bounded_model(model) is model
    same(certify(model, X=X), certify(module, X=X))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "domain='box' of a bare module needs X"),
        ({"domain": "hull"}, "domain='hull' needs X"),
        ({"domain": "ball", "X": X}, "domain='ball' needs radius"),
        ({"domain": "sphere"}, "domain='sphere' is unknown"),
        ({"domain": 3}, "domain=3"),
        ({"domain": ([0.0], [1.0])}, "1 features, but the module takes 3"),
        ({"domain": "hull", "X": X[:, :2]}, "2 features, but the module takes 3"),
        ({"X": X[0]}, "X must have shape"),
        ({"X": np.full((2, 3), np.nan)}, "X contains NaN"),
        ({"X": [["a"] * 3]}, "X"),
        ({"X": X, "lower_bound": np.nan}, "lower_bound"),
        ({"X": X, "lower_bound": [0.0, 0.0, 0.0]}, "lower_bound"),
        ({"X": X, "lower_bound": "low"}, "lower_bound"),
        ({"X": X, "method": "magic"}, "method='magic'"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(module, arguments, words):
    with pytest.raises(ValueError, match=words):
        certify(module, **arguments)


@pytest.mark.parametrize(
    "model", [None, "net", LinearRegression().fit(X, X[:, 0]), nn.Linear]
)
def test_what_is_no_model_is_refused(model):
    with pytest.raises(ValueError, match="must be"):
        certify(model, X=X)


def test_a_layer_in_training_mode_is_refused():
    module = nn.Sequential(nn.Linear(3, 2), nn.Dropout(), nn.Linear(2, 1))
    with pytest.raises(ValueError, match="training mode; call eval"):
        certify(module, X=X)


def test_the_method_of_the_estimator_takes_what_the_function_takes(small, data):
    model = small(strategy="nonnegative_weights").fit(data.X, data.y)
    names = set(inspect.signature(certify).parameters) - {"model", "domain"}
    documented = inspect.getdoc(PositiveOutputRegressor.certify)
    assert all(f"``{name}``" in documented for name in names)
    with pytest.raises(TypeError, match="radii"):
        model.certify(radii=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.certify("all")
