"""`repair_head` on modules of all kinds, and what it refuses."""

import warnings

import numpy as np
import pytest
import torch
from modules import assert_holds, loader_of, make_module, make_rows, make_targets
from properties import assert_same_bits
from torch import nn
from torch.utils.data import TensorDataset

from sklpos import MLP
from sklpos.repair import repair_head

# Modules of all kinds


class Residual(nn.Module):
    """A module that no certificate understands."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 8)
        self.last = nn.Linear(8, 1)

    def forward(self, X):
        hidden = self.first(X).relu()
        return self.last(hidden + self.second(hidden).sin())


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.head = nn.Linear(12, 2)

    def forward(self, X):
        return self.head(self.features(X))


@pytest.mark.parametrize("make", [Residual, lambda: MLP(4, 1), lambda: nn.Linear(4, 1)])
def test_other_modules(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = make()
    X = make_rows(2000)
    assert_holds(repair_head(module, X, y=make_targets(X)).module, X)


def test_rows_of_more_dimensions():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Images()
    X = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for rows in (X, loader_of(X)):
        assert_holds(repair_head(module, rows).module, X)


def test_a_head_without_bias_that_cannot():
    X = torch.cat([make_rows(), -make_rows()])
    module = nn.Linear(4, 1, bias=False)
    with pytest.warns(UserWarning, match="no head without bias obeys the bounds"):
        found = repair_head(module, X, lower_bound=1.0)
    assert not found.repair.feasible_.any()
    assert_same_bits(found.module.state_dict(), module.state_dict())
    with pytest.warns(UserWarning, match="a flatter one that obeys"):
        zero = repair_head(module, X)
    assert (zero.module.weight == 0).all()


def test_a_mean_that_cannot_be_kept():
    X = make_rows()
    with pytest.warns(UserWarning, match="balance was dropped") as caught:
        found = repair_head(make_module(), X, lower_bound=5.0, y=make_targets(X))
    assert caught[0].filename == __file__
    assert_holds(found.module, X, 5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        repair_head(make_module(), X, lower_bound=5.0, y=make_targets(X), balance=False)


# What is refused

ROWS = make_rows(20)


def shuffled():
    return loader_of(ROWS, batch_size=5, shuffle=True)


class Growing:
    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return iter(ROWS.split(5) * self.passes)


def changed(value):
    X = ROWS.clone()
    X[3, 1] = value
    return X


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((X for X in ROWS.split(5)), "rows is an iterator"),
        (iter([ROWS]), "rows is an iterator"),
        (shuffled(), "without shuffling"),
        (Growing(), "rows yields 60 rows on a later pass, but 40"),
        (changed(float("nan")), "rows contains NaN"),
        (loader_of(changed(float("inf"))), "rows contains NaN, infinity"),
        (ROWS.double() * 1e300, "float32, the dtype of the module, cannot hold"),
        (ROWS[:, :3], "cannot take X with 3 features"),
        ([ROWS, ROWS[:, :3]], r"rows of shape \(3,\) after some of shape \(4,\)"),
        (ROWS[0], r"rows has shape \(4,\)"),
        (list(ROWS), r"rows has shape \(4,\)"),
        (ROWS[:0], "rows is empty"),
        ([], "rows"),
        (loader_of(ROWS[:0]), "rows is empty"),
        ("rows", "must be an array"),
        ({"X": ROWS}, "must be an array"),
        (3.0, "must be an array"),
        ([{"X": ROWS}], "rows"),
        (TensorDataset(ROWS), "must be an array"),
    ],
)
def test_bad_rows_are_refused_in_a_sentence(rows, words):
    module = make_module()
    with pytest.raises((ValueError, TypeError), match=words):
        repair_head(module, rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"y": np.ones(19)}, r"y has shape \(19,\)"),
        ({"y": np.ones((20, 2))}, r"y has shape \(20, 2\)"),
        ({"y": np.full(20, np.nan)}, "y contains NaN"),
        ({"y": ["a"] * 20}, "y"),
        ({"weight": np.ones(3)}, "weight has shape"),
        ({"weight": -np.ones(20)}, "weight must be finite and non-negative"),
        ({"weight": np.zeros(20)}, "positive for at least one row"),
        ({"lower_bound": np.nan}, "lower_bound=nan"),
        ({"lower_bound": np.inf}, "lower_bound=inf"),
        ({"lower_bound": [0.0, 1.0]}, "one for each of the 1 outputs"),
        ({"lower_bound": "low"}, "lower_bound='low'"),
    ],
)
@pytest.mark.parametrize("batches", [False, True])
def test_other_bad_arguments_are_refused_in_a_sentence(arguments, words, batches):
    rows = loader_of(ROWS) if batches else ROWS
    with pytest.raises(ValueError, match=words):
        repair_head(make_module(), rows, **arguments)


class Noisy(nn.Linear):
    def forward(self, X):
        # Dropout of so few features would often be the same twice.
        return super().forward(X + torch.randn_like(X))


def shared():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    return module


@pytest.mark.global_state  # weights and noise draw
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 1), nn.ReLU()), "ends in ReLU"),
        (lambda: nn.Sequential(nn.Linear(4, 2), nn.Flatten(0)), "must map"),
        (lambda: nn.LSTM(4, 2, batch_first=True), "must map"),
        (lambda: nn.Sequential(Noisy(4, 2), nn.Linear(2, 1)), "something else each"),
        (lambda: make_module(dtype=torch.bfloat16), "bfloat16"),
        (lambda: make_module(dtype=torch.float16), "float16"),
        (lambda: nn.Sequential(nn.Linear(4, 4).half(), nn.Linear(4, 1)), "float16"),
        (shared, "shares a weight of its last nn.Linear"),
        (nn.ReLU, "no weights"),
        (lambda: torch.relu, "must be an nn.Module"),
        (lambda: nn.utils.weight_norm(nn.Linear(4, 1)), "cannot be copied"),
    ],
)
def test_modules_that_cannot_be_repaired_are_refused_in_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        repair_head(make(), ROWS)
