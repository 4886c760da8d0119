"""The rows and the net that all have in common."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from sklearn.neural_network import MLPRegressor
from torch import nn

from sklpos import MLP, PositiveOutputRegressor

LR = 0.01
SMALL, DEEP = (10, 100, 1), (10, 64, 64, 1)
WIDE, LARGE = (10, 256, 256, 1), (784, 784, 784, 2)


@dataclass(frozen=True)
class Problem:
    """Rows, a fifth of which sit on the bound, and a net."""

    n_samples: int
    widths: tuple[int, ...]  # inputs, hidden layers, outputs
    batch_size: int

    def __str__(self):
        net = "-".join(map(str, self.widths))
        return f"{net}, batch {self.batch_size}, n {self.n_samples:,}"

    @property
    def n_batches(self) -> int:
        return -(-self.n_samples // self.batch_size)

    @cached_property
    def X(self):
        rng = np.random.default_rng(0)
        size = self.n_samples, self.widths[0]
        return rng.standard_normal(size=size, dtype=np.float32)

    @cached_property
    def y(self):
        rng, k = np.random.default_rng(1), self.widths[-1]
        signal = self.X[:, :k] + self.X[:, k : 2 * k] * self.X[:, -k:]
        noise = 0.3 * rng.normal(size=signal.shape)
        return np.maximum(1 + signal + noise, 0).astype(np.float32)

    @cached_property
    def scaled(self):
        return (self.y - self.y.mean(axis=0)) / self.y.std(axis=0)

    @cached_property
    def bound(self):
        return torch.as_tensor(-self.y.mean(axis=0) / self.y.std(axis=0))

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        n_inputs, *hidden, n_outputs = self.widths
        return MLP(n_inputs, n_outputs, hidden_layer_sizes=hidden)

    def estimator(self, **params):
        """Ours; one epoch and no repair, unless `params` say otherwise."""
        defaults = {
            "module": MLP,
            "module__hidden_layer_sizes": self.widths[1:-1],
            "batch_size": self.batch_size,
            "lr": LR,
            "max_epochs": 1,
            "repair": None,
            "random_state": 0,
        }
        return PositiveOutputRegressor(**{**defaults, **params})

    def mlp(self, **params):
        """That of scikit-learn."""
        return MLPRegressor(
            hidden_layer_sizes=self.widths[1:-1],
            batch_size=self.batch_size,
            learning_rate_init=LR,
            alpha=0.0,
            random_state=0,
            **params,
        )
