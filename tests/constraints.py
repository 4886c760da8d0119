"""Small problems for constraints in a training loop of one's own."""

import numpy as np
import torch
from torch import nn

from sklpos import STRATEGIES
from sklpos.strategies import Architecture, OutputConstraint

#: Strategies that are a term of the loss.
TERMS = [name for name, cls in STRATEGIES.items() if not issubclass(cls, Architecture)]
#: Those with multipliers.
STATEFUL = ["slack", "lagrangian", "augmented_lagrangian", "certified"]
#: Those that wait for a dual step.
WAITING = [name for name in TERMS if STRATEGIES[name].needs_dual_step]

ROWS = torch.arange(8)
LOWER_BOUND = np.array([0.0, 0.5, -np.inf])  # the last output is free


def make_problem():
    """Targets, predictions and weights of 8 rows and 3 outputs, float64."""
    rng = np.random.default_rng(0)
    y = np.maximum(rng.normal(size=(8, 3)), 0) * [1.0, 10.0, 0.1] + [0, 1, 5]
    y_pred = torch.as_tensor(rng.normal(size=(8, 3)) * [1.0, 5.0, 1.0])
    return y, y_pred, rng.uniform(0.5, 2.0, size=8)


def make_constraint(strategy, y, **params) -> OutputConstraint:
    own = STRATEGIES[strategy] if isinstance(strategy, str) else strategy
    # A weight without an effect warns.
    weight = {"alpha": 1.5} if own.uses_alpha else {}
    params = {"lower_bound": LOWER_BOUND} | weight | params
    return OutputConstraint(y, strategy=strategy, **params)


def weighted_deviation(y, weight):
    return np.sqrt(np.average((y - np.average(y, 0, weight)) ** 2, 0, weight))


class Problem:
    """Rows whose targets are often 0, a net, and a loop over batches of 8."""

    def __init__(self, strategy, *, dtype=torch.float64, unit=1.0, **params):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.X = torch.rand(40, 2, dtype=torch.float64) * 2 - 1
            noise = 0.1 * torch.randn(40, 1, dtype=torch.float64)
            net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
            self.orders = [torch.randperm(40).split(8) for _ in range(300)]
        self.y = (self.X.sum(1, keepdim=True) + noise).relu()
        self.X, self.y = self.X.to(dtype), self.y.to(dtype)
        self.unit = unit
        self.net = net.to(dtype)
        self.constraint = OutputConstraint(unit * self.y, strategy=strategy, **params)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.02)

    def predict(self, X):
        return self.unit * self.net(X)

    def loss(self, y_pred, index):
        """Loss of a batch, in scales, so that the unit of y plays no part."""
        fit = nn.functional.mse_loss(y_pred, self.unit * self.y[index])
        return (fit + self.constraint(y_pred, index)) / self.unit**2

    def step(self, index):
        y_pred = self.predict(self.X[index])
        self.constraint.dual_step(y_pred, index)
        loss = self.loss(y_pred, index)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def train(self, epochs, start=0):
        for order in self.orders[start : start + epochs]:
            for index in order:
                self.step(index)
            self.constraint.end_epoch()
        return self

    def state(self):
        parts = {"net": self.net, "constraint": self.constraint}
        parts["optimizer"] = self.optimizer
        return {name: part.state_dict() for name, part in parts.items()}

    def load(self, state):
        for name, values in state.items():
            getattr(self, name).load_state_dict(values)
        return self
