"""Small fits, and callbacks that remember what happens in them."""

import copy

import numpy as np
import torch
from skorch.callbacks import Callback

from sklpos import MLP, PositiveOutputRegressor

N = 50
COLUMNS = (
    "objective",
    "constraint",
    "max_violation",
    "violation_rate",
    "max_multiplier",
    "mean_multiplier",
    "alpha",
)


def make_data(seed=0, n=N, n_outputs=1):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    y = np.maximum(X[:, :n_outputs] + 0.3 * rng.normal(size=(n, n_outputs)), 0)
    return X, y.squeeze()


def regressor(*callbacks, **params):
    defaults = {
        "module": MLP,
        "module__hidden_layer_sizes": (8,),
        "max_epochs": 4,
        "batch_size": 16,
        "random_state": 0,
        "repair": None,
        "lr": 0.01,
        "weight_decay": 0.0,
        "lr_schedule": None,
    }
    return PositiveOutputRegressor(callbacks=list(callbacks), **{**defaults, **params})


def overshooting(*callbacks, **params):
    """A run whose loss rises again: the best epoch is not the last."""
    return regressor(*callbacks, **{"lr": 0.1, "max_epochs": 60, **params})


def fitted(model, name):
    """The callback of a fitted model."""
    return dict(model.callbacks_)[name]


def state_of(net):
    """Copies of the weights, and of the tensors of the strategy."""
    return copy.deepcopy(
        {
            "module": dict(net.module_.state_dict()),
            "strategy": dict(net.strategy_.state_.state_dict()),
        }
    )


def assert_same_state(one, two, parts=("module", "strategy")):
    for part in parts:
        assert one[part].keys() == two[part].keys()
        for name, value in one[part].items():
            assert torch.equal(value, two[part][name]), (part, name)


def forward(model, state, X):
    """Outputs of the training module in an earlier state."""
    module = copy.deepcopy(model.net_.module_)
    module.load_state_dict(state["module"])
    with torch.no_grad():
        return module(torch.as_tensor(X)).numpy()


class States(Callback):
    """Remembers the training state after each epoch."""

    def initialize(self):
        self.states_ = []
        return self

    def on_epoch_end(self, net, **kwargs):
        self.states_.append(state_of(net))


class Steps(Callback):
    """Remembers what happens in each batch."""

    def initialize(self):
        self.batches_ = []
        return self

    def on_batch_begin(self, net, batch, training, **kwargs):
        if training:
            before = state_of(net)
            self.batches_.append({"batch": batch, "before": before, "gradients": 0})

    def on_violation(self, net, violation, index):
        self.batches_[-1].setdefault("violations", []).append(violation.clone())
        self.batches_[-1].update(
            index=index, detached=not violation.requires_grad, seen=state_of(net)
        )

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.batches_[-1]["gradients"] += 1

    def on_batch_end(self, net, batch, training, **step):
        if training:
            self.batches_[-1].update(after=state_of(net), step=step)
