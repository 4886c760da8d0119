"""Outputs of any shape: taken as (n_samples, n_outputs), or refused in a sentence."""

import copy
import pickle

import numpy as np
import pytest
import torch
from properties import assert_obeys, assert_same_bits
from torch import nn
from torch.nn import functional as F

import sklpos
from sklpos import STRATEGIES, PositiveOutputRegressor
from sklpos.nets.head import find_head
from sklpos.nets.modules import layers_of
from sklpos.repair import repair_head

RNG = np.random.default_rng(0)
X = RNG.normal(size=(41, 3))
y = np.maximum(X[:, 0], 0)
ROW = torch.as_tensor(X[:1])


class Ending(nn.Module):
    """A net whose forward ends in a function of its last ``nn.Linear``."""

    def __init__(self, end, n_outputs=1):
        super().__init__()
        self.features = nn.Linear(3, 8)
        self.head = nn.Linear(8, n_outputs)
        self.end = end

    def forward(self, X):
        return self.end(self.head(torch.relu(self.features(X))))


def plain(outputs):
    return outputs


def squeezed(outputs):
    return outputs.squeeze(-1)


def squeezed_fully(outputs):
    return outputs.squeeze()


def first_column(outputs):
    return outputs[:, 0]


def flat(outputs):
    return outputs.flatten()


def deep(outputs):
    return outputs[:, :, None]


def fitted(end, **params) -> PositiveOutputRegressor:
    """With a lone last row in each epoch, from which `squeeze()` drops the rows."""
    small = {"max_epochs": 5, "batch_size": 8, "random_state": 0, **params}
    return PositiveOutputRegressor(Ending, module__end=end, **small).fit(X, y)


ACCEPTED = [squeezed, squeezed_fully, first_column, flat, deep]


@pytest.fixture(scope="module")
def expected():
    return fitted(plain)


@pytest.mark.parametrize("end", ACCEPTED)
def test_a_vector_of_predictions_trains_as_a_column(expected, end):
    model = fitted(end)
    assert_same_bits(model.predict(X), expected.predict(X))
    assert_same_bits(model.multipliers_, expected.multipliers_)
    assert_obeys(model, X, 0.0, None)
    # Further training, repairs and copies go on from there.
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.partial_fit(X, y).enforce(X)
        expected_after = copy.deepcopy(expected).partial_fit(X, y).enforce(X)
        assert_same_bits(other.predict(X), expected_after.predict(X))


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_strategy_takes_a_net_that_ends_in_flatten(strategy):
    layers = nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)
    params = {"strategy": strategy, "max_epochs": 2, "random_state": 0}
    models = [
        PositiveOutputRegressor(nn.Sequential(*layers, *more), **params).fit(X, y)
        for more in ((), (nn.Flatten(0, 1),), (nn.Flatten(),), (nn.Identity(),))
    ]
    for model in models[1:]:
        assert_same_bits(model.predict(X), models[0].predict(X))
    # As a proof reads it.
    found, known = (model.certify("box", method="crown") for model in models[:2])
    assert found.proved_min_ == pytest.approx(known.proved_min_)


def test_a_hook_is_no_part_of_the_shape():
    """A proof, and a file, must not read past a layer that computes something else."""
    net = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0, 1))
    model = PositiveOutputRegressor(net, max_epochs=1).fit(X, y)
    assert [type(layer) for layer, _ in layers_of(model.module_)] == [nn.Linear]
    model.module_[-1].register_forward_hook(lambda layer, args, output: -output)
    with pytest.raises(ValueError, match="hook"):
        model.certify("box")


def test_several_outputs_of_a_lone_row():
    both = np.column_stack([y, y[::-1]])
    params = {"max_epochs": 3, "batch_size": 8, "random_state": 0}
    models = [
        PositiveOutputRegressor(Ending(end, 2).double(), **params).fit(X, both)
        for end in (plain, squeezed_fully)
    ]
    assert models[1].predict(X).shape == (41, 2)
    assert models[1].predict(X[:1]).shape == (1, 2)


REFUSED = {
    "a pair": (lambda o: (o, o), "it returned a tuple; return the predictions alone"),
    "a dict": (lambda o: {"y": o}, "it returned a dict"),
    "nothing": (lambda o: None, "it returned a NoneType"),
    "one number": (lambda o: o.mean(), r"for 2 samples it returned \(\)"),
    "integers": (lambda o: o.long(), "in floating-point numbers, but .* torch.int64"),
    "two columns": (lambda o: torch.cat([o, o], 1), r"one sample it returned \(1, 2\)"),
    "a product": (lambda o: 2 * o, "ends in an operation"),
    "relu in place": (F.relu_, "ends in an operation"),
    "relu in place, squeezed": (lambda o: F.relu_(o).squeeze(-1), "an operation"),
    "no gradient": (lambda o: o.detach(), r"leave out detach\(\)"),
    "an error": (
        lambda o: o.missing,
        "module cannot take X with 3 features: Attribute",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_output_is_refused_in_a_sentence(name):
    end, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as error:
        fitted(end)
    assert len(str(error.value)) <= 300


@pytest.mark.parametrize("end", [lambda o: o.T, lambda o: o.T.reshape(o.shape), flat])
def test_outputs_in_another_order_are_refused(end):
    """One row looks the same in any order, and as many rows as outputs do, too."""
    both = np.column_stack([y, y[::-1]])
    with pytest.raises(ValueError, match="module must"):
        PositiveOutputRegressor(Ending(end, 2), max_epochs=1).fit(X, both)


def test_the_head_is_found_behind_views_only():
    assert find_head(Ending(plain).double(), ROW, 1) == "head"
    assert find_head(Ending(lambda o: o.view(-1, 1)).double(), ROW, 1) == "head"
    for end in (torch.relu, torch.clone, lambda o: o.add_(1)):
        with pytest.raises(ValueError, match="ends in an operation"):
            find_head(Ending(end).double(), ROW, 1)


@pytest.mark.parametrize("end", [plain, squeezed, squeezed_fully])
def test_repair_head_returns_a_module_of_the_same_kind(end):
    torch.manual_seed(0)
    module = Ending(end).double()
    found = repair_head(module, X, y=y).module
    assert type(found) is Ending
    with torch.no_grad():
        outputs = found(torch.as_tensor(X))
    assert outputs.shape == module(torch.as_tensor(X)).shape
    assert outputs.min() >= 0
    assert float(outputs.mean()) == pytest.approx(y.mean(), abs=1e-9)


def test_a_risk_of_a_module_that_returns_a_vector():
    torch.manual_seed(0)
    module = Ending(squeezed).double()
    rows = np.repeat(X, 200, axis=0)  # more than one chunk
    found = sklpos.certify_risk(module, rows)
    with torch.no_grad():
        below = (module(torch.as_tensor(X)) < 0).double().mean()
    assert found.violation_rate_ == pytest.approx(float(below))


def test_a_layer_of_another_width_is_told_in_words():
    net = nn.Sequential(nn.Linear(7, 4), nn.Linear(4, 1))
    words = "module cannot take X with 3 features: an nn.Linear of 7 inputs gets 3"
    with pytest.raises(ValueError, match=words):
        PositiveOutputRegressor(net).fit(X, y)
