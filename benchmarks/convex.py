"""Linear models under a bound: what is to be reached, and a clock for who gets there.

``F`` is the mean loss and a violation is ``bound - f``, both in scaled units: those of
standardised targets.
"""

import sys
import time
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

from benchmarks import datasets
from sklpos.nets.bounds import Bounds
from sklpos.nets.modules import MLP
from sklpos.nets.units import TargetScale

TOLERANCE = 1e-3
PATIENCE = 10  # epochs for which it must hold
BATCHES = {"max_epochs": 300, "last_lr": 1e-3}  # their noise must fade

sys.path.append(str(Path(__file__).parents[1] / "tests"))
problems = import_module("problems")


@dataclass(frozen=True)
class Task:
    """A linear model, the best of those that obey the bound, and how to look for it."""

    name: str
    X: np.ndarray
    y: np.ndarray
    bias: bool
    best: float  # smallest mean squared error, in the unit of y
    batch_size: int
    max_epochs: int
    lr: float = 0.05
    last_lr: float = 0.01  # of the last epoch, as a share of `lr`
    optimizer: type = torch.optim.Adam

    def __str__(self):
        n = len(self.X)
        batch = "full batch" if self.batch_size == n else f"batch {self.batch_size}"
        return (
            f"{self.name}, n {n:,}, {batch}, {self.optimizer.__name__}, lr {self.lr} "
            f"to {self.lr * self.last_lr:g} in {self.max_epochs} epochs"
        )

    @cached_property
    def targets(self):
        weight = np.ones(len(self.y))
        return TargetScale.from_data(
            self.y[:, None], weight, Bounds.read(0.0, None, 1), shifted=self.bias
        )

    @property
    def lowest(self):
        """The bound in scaled units."""
        return self.targets.scaled_bounds.lower.item()

    @cached_property
    def tensors(self):
        """X and the scaled y."""
        y = self.targets.standardise(self.y[:, None])
        return torch.as_tensor(self.X), torch.as_tensor(y)

    @property
    def optimum(self) -> float:
        """The F of the solution."""
        return self.best / self.targets.scale[0] ** 2

    @property
    def gamma(self) -> float:
        """The factor on the learning rate after each epoch."""
        return self.last_lr ** (1 / self.max_epochs)

    def module(self, n_features_in: int, n_outputs: int) -> torch.nn.Module:
        """The same start for everybody."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = MLP(
                n_features_in, n_outputs, hidden_layer_sizes=(), bias=self.bias
            )
        if self.bias:
            torch.nn.init.zeros_(module.head.bias)
        return module.double()


def task(problem, batch_size=None, max_epochs=500, **settings) -> Task:
    """A problem of the tests."""
    rows = problem.X, problem.y, problem.bias, problem.objective
    size = batch_size or len(problem.X)
    return Task(problem.name, *rows, size, max_epochs, **settings)


def real(load, batch_size=None, **settings) -> Task:
    """A data set whose inputs are standardised."""
    X, y = load()
    X = StandardScaler().fit_transform(X)
    solution = problems.solve_exactly(X, y)
    problem = problems.Problem(load.__name__, X, y, True, *solution)
    return task(problem, batch_size, **settings)


def tasks(quick: bool) -> list[Task]:
    """Those of ``test_kkt.py``, and three data sets that keep a line busy."""
    if quick:
        return [task(problems.line(), max_epochs=300)]
    small = (problems.one_hot(), problems.line(), problems.constant())
    found = [task(problem) for problem in small]
    dense = problems.random_dense(0)
    loads = datasets.rain, datasets.recreation, datasets.hours
    found += [task(dense), *map(real, loads), task(dense, 32, **BATCHES)]
    return found + [real(load, 128, **BATCHES) for load in loads]


class Progress:
    """F and the largest violation over all rows after each epoch.

    The time that it takes is not counted.
    """

    def __init__(self, task: Task):
        self.task = task
        self.excess, self.violation, self.seconds = [], [], []
        self.streak = 0
        self.start = time.process_time()

    def record(self, module) -> bool:
        """Look at the weights; return whether the goal is reached, and held."""
        now = time.process_time()
        self.seconds.append(now - self.start)
        X, y = self.task.tensors
        with torch.no_grad():
            predicted = module(X)
        loss = (predicted - y).square().mean().item()
        self.excess.append(loss / self.task.optimum - 1)
        self.violation.append(float(self.task.lowest - predicted.min()))
        there = max(abs(self.excess[-1]), self.violation[-1]) < TOLERANCE
        self.streak = self.streak + 1 if there else 0
        self.start += time.process_time() - now
        return self.streak == PATIENCE

    @property
    def epochs(self) -> int | None:
        """The first epoch of those at the end that all were within the tolerance."""
        return len(self.excess) - self.streak + 1 if self.streak else None

    @property
    def seconds_an_epoch(self) -> float:
        """CPU time; the median, since the first ones allocate."""
        return float(np.median(np.diff(self.seconds, prepend=0.0)))
