"""Models that are hard to store, and the ways to store them."""

import io
import pickle

import joblib
import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

REGRESSOR = "sklpos.estimator.regressor.PositiveOutputRegressor"


class Tied(nn.Module):
    """Two layers with the same weights, a statistic, and attributes of many types."""

    made = 0

    def __init__(self, n_features_in, n_outputs):
        super().__init__()
        type(self).made += 1
        self.first = nn.Linear(n_features_in, n_features_in)
        self.second = nn.Linear(n_features_in, n_features_in)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(n_features_in)
        self.register_buffer("gain", torch.ones(1), persistent=False)
        self.sizes = {"in": [n_features_in], "out": (n_outputs,)}
        self.head = nn.Linear(n_features_in, n_outputs)

    def forward(self, X):
        hidden = self.second(torch.tanh(self.first(X)))
        return self.head(torch.relu(self.norm(hidden)) * self.gain)


class Counter(Callback):
    """A user's callback, with a state of its own."""

    def initialize(self):
        self.seen_ = []
        return self

    def on_epoch_end(self, net, **kwargs):
        self.seen_.append((len(net.history), np.float64(net.history[-1, "train_loss"])))


def skops_io():
    return pytest.importorskip("skops.io")


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def by_joblib(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    return joblib.load(file)


def by_skops(model):
    stored = skops_io().dumps(model)
    return skops_io().loads(stored, trusted=untrusted(stored))


def untrusted(stored):
    return skops_io().get_untrusted_types(data=stored)
