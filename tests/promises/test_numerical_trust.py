"""Rounding: threads, casts, and the company a row is predicted in."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from sklpos.nets.bounds import Bounds
from sklpos.nets.rows import feature_source, obeys, predict_rows, rounding_margin

DTYPES = ["float32", "float64"]
TIGHT = {"float32": 1e-6, "float64": 1e-12}


@pytest.fixture(scope="module")
def crowd():
    """400 rows whose targets are mostly 0: many predictions end at the bound."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4))
    return X, np.maximum(X[:, 0] + 0.3 * rng.normal(size=400) - 1, 0)


def companies(n):
    """Ways to go through n rows: row by row, in blocks, in another order."""
    shuffled = np.random.default_rng(1).permutation(n)
    yield shuffled, 1
    for order in (np.arange(n), shuffled, np.arange(n)[::-1]):
        for size in (7, 64, 333, n):
            yield order, size


def predict_in(model, X, order, size):
    predictions = np.empty(len(X))
    for start in range(0, len(X), size):
        rows = order[start : start + size]
        predictions[rows] = model.predict(X[rows])
    return predictions


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [(8,), (100,), ()])
def test_no_company_takes_a_row_below_the_bound(small, crowd, width, dtype):
    X, y = crowd
    model = small(dtype=dtype, lower_bound=0.1, module__hidden_layer_sizes=width)
    model.fit(X, y + 0.1)
    together = model.predict(X)
    for order, size in companies(len(X)):
        predictions = predict_in(model, X, order, size)
        assert predictions.min() >= 0.1
        np.testing.assert_allclose(predictions, together, atol=TIGHT[dtype])


@pytest.mark.filterwarnings("ignore:the nearest head of outputs")
@pytest.mark.parametrize("offset", [0.0, 1e3, -1e5])
def test_a_repair_solved_in_float64_holds_in_float32(small, crowd, offset):
    """At any distance of y from 0, in units of its deviation."""
    X, y = crowd
    model = small(dtype="float32", lower_bound=offset).fit(X, y + offset)
    assert {p.dtype for p in model.module_.parameters()} == {torch.float32}
    assert model.predict(X).dtype == np.float32
    for size in (1, 333, len(X)):
        assert predict_in(model, X, np.arange(len(X)), size).min() >= offset


def test_a_crowd_on_the_bound(small, crowd):
    """More rows within rounding of the bound than a repair looks at one by one."""
    X = np.sign(crowd[0])
    X[:300] = -1
    y = np.maximum(X @ [1, 0.5, 0.2, 0.1] - 0.5, 0) + 1 / 3
    model = small(dtype="float32", lower_bound=1 / 3, max_epochs=50).fit(X, y)
    near = model.predict(X) < 1 / 3 + 8 * model.repair_.margin_
    assert near.sum() > 256
    for order, size in companies(len(X)):
        assert predict_in(model, X, order, size).min() >= 1 / 3


class Cancelling(torch.nn.Module):
    """Loses most digits of its features, and a little for a row that comes alone."""

    def __init__(self, alone=0.0):
        super().__init__()
        self.alone = alone
        self.head = torch.nn.Linear(1, 1)
        with torch.no_grad():
            self.head.weight.fill_(1.0)
            self.head.bias.fill_(1.0)

    def forward(self, X):
        return self.head((X + 1e4) - 1e4) - self.alone * (len(X) == 1)


def margin_of(module, X):
    features = feature_source(module, "head", X)
    head = np.ones((1, 2))
    bounds = Bounds.read(0.0, None, 1)
    sizes = {"bounds": bounds, "scale": np.ones(1)}
    return rounding_margin(module, X, features, head, **sizes)[0]


def test_the_margin_covers_rounding_that_is_seen_and_that_is_possible():
    module, X = Cancelling(), np.linspace(0.01, 0.02, 50)[:, None]
    exact = predict_rows(Cancelling().double(), X)
    seen = np.abs(predict_rows(module, X) - exact).max()
    possible = np.finfo(np.float32).eps
    assert margin_of(module, X) >= 4 * seen > 100 * possible
    assert margin_of(module, np.zeros((1, 1))) >= 8 * possible  # 1 is exact here


@pytest.mark.parametrize(("alone", "sides"), [(1e-6, (1, None)), (-1e-6, (None, 1))])
def test_a_row_that_is_out_of_bounds_only_when_alone_is_seen(alone, sides):
    X, bounds, margin = np.zeros((5, 1)), Bounds.read(*sides, 1), np.full(1, 1e-6)
    assert obeys(Cancelling(), X, bounds, margin)
    assert not obeys(Cancelling(alone=alone), X, bounds, margin)


THREADS = """
import sys
import numpy as np
import torch
from sklpos import MLP, PositiveOutputRegressor

torch.set_num_threads(int(sys.argv[1]))
rng = np.random.default_rng(0)
X = rng.normal(size=(300, 20))
y = np.maximum(X[:, 0] + 0.3 * rng.normal(size=300), 0)
fixed = {"module": MLP, "module__hidden_layer_sizes": (256, 256), "random_state": 0}
model = PositiveOutputRegressor(
    strategy=sys.argv[2], max_epochs=3, batch_size=150, **fixed
).fit(X, y)
np.save(sys.argv[3], [model.predict(X), model.multipliers_[:, 0]])
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["augmented_lagrangian", "slack"])
def test_one_and_two_threads_agree(tmp_path, strategy):
    results = []
    for threads in ("1", "2"):
        path = tmp_path / f"{threads}.npy"
        command = [sys.executable, "-c", THREADS, threads, strategy, str(path)]
        subprocess.run(command, check=True)
        results.append(np.load(path))
    np.testing.assert_allclose(*results, rtol=1e-6, atol=1e-6)
