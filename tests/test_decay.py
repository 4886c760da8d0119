"""Weight decay: the noisier the data, the stronger."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from sklpos import PositiveOutputRegressor
from sklpos.decay import NoiseScaledDecay

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (200, 3))
signal = 2 + X @ [1.0, -1.0, 0.5]
noisy = np.abs(signal + 3 * rng.normal(size=200))


def make(**params):
    defaults = {"max_epochs": 3, "module__hidden_layer_sizes": (8,), "random_state": 0}
    return PositiveOutputRegressor(**{**defaults, **params})


def groups(model):
    """Weight decay by whether it is that of biases."""
    return {
        all(weight.ndim == 1 for weight in group["params"]): group["weight_decay"]
        for group in model.optimizer_.param_groups
    }


@pytest.mark.parametrize("y", [signal, noisy], ids=["clear", "noisy"])
def test_decay_is_the_unexplained_share(y):
    model = make(max_epochs=40, lr=0.05).fit(X, y)
    share = min(model.history_[-1]["objective"], 1.0)
    assert groups(model) == {False: 4.0 * share, True: 0.0}
    assert share < 0.1 if y is signal else share > 0.5


class Decays(NoiseScaledDecay):
    """Notes the decay of each epoch."""

    def on_epoch_begin(self, net, **kwargs):
        net.history.record("decay", net.optimizer_.param_groups[-1]["weight_decay"])


def test_the_first_epoch_decays_in_full_and_strength_is_a_parameter():
    model = make(
        callbacks=[("noted", Decays())], callbacks__weight_decay__strength=0.5
    ).fit(X, signal)
    # the observer, with a strength of its own, comes first; the estimator's is later
    assert model.history_[0]["decay"] == 0.5
    shares = np.minimum(model.history_[:-1, "objective"], 1.0)
    np.testing.assert_allclose(model.history_[1:, "decay"], 0.5 * shares)


def test_epochs_one_by_one_decay_alike():
    whole = make(repair=None).fit(X, noisy)
    parts = make()
    for _ in range(3):
        parts.partial_fit(X, noisy)
    np.testing.assert_array_equal(parts.predict(X), whole.predict(X))


def test_decay_keeps_a_net_from_learning_noise():
    """Error on what the noise hides, of the same net with and without."""
    params = {"max_epochs": 300, "module__hidden_layer_sizes": (100,), "lr": 0.01}
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
    if "module" in params:
        params = {**params, "module__hidden_layer_sizes": None}
        params.pop("module__hidden_layer_sizes")
        model = PositiveOutputRegressor(max_epochs=3, random_state=0, **params)
    else:
        model = make(**params)
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
        ({"optimizer": torch.optim.LBFGS}, "weight_decay=0.2 must be 'auto' for LBFGS"),
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
