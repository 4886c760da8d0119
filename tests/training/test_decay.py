"""Weight decay: the noisier the data, the stronger."""

from signal import SIGINT, raise_signal

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback
from torch import nn

from sklpos import MLP, PositiveOutputRegressor
from sklpos.training.decay import NoiseScaledDecay, neighbour_loss

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (200, 3))
signal = 2 + X @ [1.0, -1.0, 0.5]
noisy = np.abs(signal + 3 * rng.normal(size=200))
wide = np.hstack([X, rng.normal(size=(200, 100))])  # no row has a near neighbour


def make(**params):
    defaults = {
        "max_epochs": 3,
        "module": MLP,
        "module__hidden_layer_sizes": (8,),
        "random_state": 0,
    }
    defaults["lr_schedule"] = None  # so that epochs are the same in fits of any length
    return PositiveOutputRegressor(**{**defaults, **params})


def groups(model):
    """Weight decay by whether it is that of biases."""
    return {
        all(weight.ndim == 1 for weight in group["params"]): group["weight_decay"]
        for group in model.optimizer_.param_groups
    }


@pytest.mark.parametrize(
    ("inputs", "y", "by_loss"),
    [(X, signal, True), (X, noisy, False), (wide, noisy, True)],
    ids=["clear", "noisy", "far apart"],
)
def test_decay_is_the_smaller_estimate_of_the_noise(inputs, y, by_loss):
    model = make(max_epochs=40, lr=0.05).fit(inputs, y)
    noise = dict(model.callbacks_)["weight_decay"].noise_
    loss = model.history_[-1]["objective"]
    assert groups(model) == {False: 4.0 * min(loss, noise, 1.0), True: 0.0}
    assert (loss < noise) == by_loss


class Decays(Callback):
    """Notes the decay of each epoch."""

    def on_epoch_begin(self, net, **kwargs):
        net.history.record("decay", net.optimizer_.param_groups[-1]["weight_decay"])


def test_the_first_epoch_decays_by_the_neighbours_and_strength_is_a_parameter():
    model = make(
        callbacks=[("noted", Decays())], callbacks__weight_decay__strength=0.5
    ).fit(wide, noisy)
    assert dict(model.callbacks_)["weight_decay"].noise_ > 1
    assert model.history_[0]["decay"] == 0.5
    losses = np.minimum(model.history_[:-1, "objective"], 1.0)
    np.testing.assert_allclose(model.history_[1:, "decay"], 0.5 * losses)
    assert losses.min() < 1


def test_a_constraint_is_not_mistaken_for_noise():
    """Half of the targets on the bound, clear data: a loss that the bound causes."""
    hour = np.linspace(0, 24, 300)[:, None] / 12 - 1
    sun = np.maximum(np.cos(np.pi * hour.ravel()), 0)
    model = make(max_epochs=60, module__hidden_layer_sizes=(30,)).fit(hour, sun)
    decay = groups(model)[False]
    assert decay < 0.01
    assert decay < 0.1 * 4 * model.history_[-1]["objective"]


@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_neighbours_tell_the_noise(spread):
    places = rng.uniform(size=(4000, 2)) * [1.0, 1000.0]
    y = places @ [[1.0, 0.0], [0.0, 1e-3]] + spread * rng.normal(size=(4000, 2))
    found = neighbour_loss(places, y, np.ones(4000))
    assert found == pytest.approx(spread**2, rel=0.1)


def test_rows_that_are_there_twice_have_twice_the_weight():
    n_times = rng.integers(1, 4, size=200)
    once = neighbour_loss(X, noisy[:, None], n_times)
    rows = np.repeat(X, n_times, axis=0), np.repeat(noisy, n_times)[:, None]
    twice = neighbour_loss(*rows, np.ones(n_times.sum()))
    assert twice == pytest.approx(once, rel=1e-12)
    assert once != pytest.approx(neighbour_loss(X, noisy[:, None], np.ones(200)))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_rows_have_few_neighbours(n):
    found = neighbour_loss(X[:n], noisy[:n, None], np.ones(n))
    assert np.isinf(found) == (n == 1)


def test_extreme_inputs_have_neighbours():
    huge = np.column_stack([1e300 * X[:, 0], 1e-300 * X[:, 1], np.zeros(200)])
    y, weight = signal[:, None], np.ones(200)
    plain = neighbour_loss(np.column_stack([X[:, :2], np.zeros(200)]), y, weight)
    assert neighbour_loss(huge, y, weight) == pytest.approx(plain)


def test_a_stream_is_as_noisy_as_its_first_rows_and_a_fit_begins_anew():
    decay = NoiseScaledDecay()
    model = make(callbacks__weight_decay=decay, warm_start=True, lower_bound=None)
    noise = []
    # In the same unit, or the noise would be measured in the new one.
    like = noisy - noisy.mean()
    like = signal.mean() + like * signal.std() / like.std()
    for y in (signal, like):
        model.partial_fit(X, y)
        noise.append(dict(model.callbacks_)["weight_decay"].noise_)
    assert noise[0] == noise[1] < 0.1
    model = make(callbacks__weight_decay=decay).fit(X, noisy)
    assert dict(model.callbacks_)["weight_decay"].noise_ > 0.5


def test_of_many_rows_some_are_looked_at(monkeypatch):
    seen = []

    def look(X, y, weight):
        seen.append((X, y, weight))
        return 0.5

    monkeypatch.setattr("sklpos.training.decay.neighbour_loss", look)
    inputs, weight = rng.normal(size=(5000, 1)), rng.uniform(1, 2, size=5000)
    make(max_epochs=1).fit(inputs, np.abs(inputs.ravel()), weight)
    ((found, targets, weights),) = seen
    np.testing.assert_array_equal(found, inputs[::5])
    assert targets.shape == (1000, 1)
    np.testing.assert_allclose(weights, weight[::5] / weight.mean())


def test_epochs_one_by_one_decay_alike():
    whole = make(repair=None).fit(X, noisy)
    parts = make()
    for _ in range(3):
        parts.partial_fit(X, noisy)
    np.testing.assert_array_equal(parts.predict(X), whole.predict(X))


def test_decay_keeps_a_net_from_learning_noise():
    """Error on what the noise hides, of the same net with and without."""
    params = {
        "max_epochs": 300,
        "module": MLP,
        "module__hidden_layer_sizes": (100,),
        "lr": 0.01,
    }
    target = noisy - noisy.mean() + 10
    truth = signal - signal.mean() + 10
    errors = [
        np.mean((make(**params, **decay).fit(X, target).predict(X) - truth) ** 2)
        for decay in ({}, {"weight_decay": 0.0})
    ]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize(
    "params",
    [
        {"optimizer": torch.optim.Adam},
        {"criterion": nn.L1Loss},
        {"optimizer__weight_decay": 0.01},
        {"module": nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))},
    ],
    ids=["optimizer", "criterion", "given", "pretrained"],
)
def test_auto_leaves_the_rest_alone(params):
    defaults = {"module": MLP, "max_epochs": 3, "random_state": 0}
    model = PositiveOutputRegressor(**(defaults | params))
    model.fit(X, signal)
    (group,) = model.optimizer_.param_groups
    default = torch.optim.Adam if "optimizer" in params else torch.optim.AdamW
    weights = [nn.Parameter(torch.zeros(1))]
    assert group["weight_decay"] == default(weights).defaults["weight_decay"]


def test_a_number_is_the_optimizers():
    model = make(weight_decay=0.3, optimizer=torch.optim.SGD).fit(X, signal)
    assert [g["weight_decay"] for g in model.optimizer_.param_groups] == [0.3]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"optimizer__weight_decay": 0.1}, "weight_decay=0.2 and optimizer__weight"),
        ({"optimizer": torch.optim.LBFGS}, "=0.2 must be 'auto' or 0 for LBFGS"),
    ],
)
def test_a_number_that_cannot_be_used(params, words):
    with pytest.raises(ValueError, match=words):
        make(weight_decay=0.2, **params).fit(X, signal)


def test_a_warm_start_cannot_change_it():
    model = make(warm_start=True).fit(X, signal)
    with pytest.raises(ValueError, match="weight_decay is part of the net"):
        clone(model).fit(X, signal).set_params(weight_decay=0.1).fit(X, signal)


def test_another_optimizer_is_left_alone():
    model = make(warm_start=True).fit(X, signal)
    model.set_params(optimizer=torch.optim.SGD, lr=1e-3).fit(X, signal)
    assert isinstance(model.optimizer_, torch.optim.SGD)
    assert set(groups(model).values()) == {0.0}


class CtrlC(NoiseScaledDecay):
    """Is pressed while the decay is set."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 3:
            raise_signal(SIGINT)
        super().on_epoch_end(net, **kwargs)


def test_an_epoch_whose_decay_is_cut_is_undone():
    model = make(max_epochs=5, callbacks__weight_decay=CtrlC())
    with pytest.warns(ConvergenceWarning, match="interrupted at epoch 3 of 5"):
        model.fit(wide, noisy)
    whole = make(max_epochs=2).fit(wide, noisy)
    assert model.n_iter_ == 2
    assert groups(model) == groups(whole)
    assert groups(make(max_epochs=3).fit(wide, noisy)) != groups(whole)


def test_no_decay_is_what_an_optimizer_without_it_does():
    params = {"optimizer": torch.optim.LBFGS, "batch_size": -1}
    none, auto = (make(weight_decay=decay, **params) for decay in (0, "auto"))
    predictions = none.fit(X, noisy).predict(X)
    np.testing.assert_array_equal(predictions, auto.fit(X, noisy).predict(X))


class Tokens(nn.Module):
    """Mean of what is known of each token."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, X):
        return self.head(self.embedding(X.long()).mean(1))


class Sequences(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 1)

    def forward(self, X):
        return self.head(X.flatten(1))


@pytest.mark.parametrize("module", [Tokens, Sequences])
def test_tokens_and_sequences_have_no_neighbours_that_tell_the_noise(module):
    """The decay of rows without near neighbours would keep the net from learning."""
    tokens = rng.integers(0, 20, (300, 4))
    rows = tokens.reshape(300, 2, 2) if module is Sequences else tokens
    params = {"lr": 0.05, "max_epochs": 100, "random_state": 0, "lower_bound": None}
    weights = rng.normal(size=20)[tokens] if module is Tokens else 0.1 * tokens
    y = weights.sum(axis=1)
    model = PositiveOutputRegressor(module, **params).fit(rows, y)
    assert groups(model) == {False: 0.01, True: 0.0}
    assert dict(model.callbacks_)["weight_decay"].noise_ is None
    assert model.score(rows, y) > 0.95
