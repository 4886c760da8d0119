"""Mixed precision: products of training steps in bfloat16, everything else is not."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import GridSearchCV, cross_val_score
from torch import nn

from sklpos import MLP, PositiveOutputRegressor, Stack
from sklpos.training.stacked import find_passes

MIXED = "bfloat16-mixed"


class Dtypes(nn.Module):
    """A net that notes in which dtype its first layer computes, by mode."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.head = nn.Linear(8, 1)
        self.seen = {True: set(), False: set()}

    def forward(self, X):
        hidden = self.first(X)
        self.seen[self.training].add(hidden.dtype)
        return self.head(torch.relu(hidden))


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


def states(model):
    """Dtypes of all tensors that the training keeps."""
    found = {weight.dtype for weight in model.net_.module_.parameters()}
    kept = [model.net_.constraint_.state_dict(), *model.optimizer_.state.values()]
    return found | {value.dtype for state in kept for value in state.values()}


def test_only_training_steps_compute_in_bfloat16(data, small):
    module = Dtypes()
    model = small(module=module, dtype=MIXED, early_stopping=True)
    model.fit(data.X, data.y)
    seen = model.net_.module_.seen
    assert seen[True] - {torch.float32} == {torch.bfloat16}
    assert seen[False] == {torch.float32}
    assert states(model) == {torch.float32, torch.int64}  # row numbers


@pytest.mark.parametrize("module", [MLP, Stack])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_caller_may_use_autocast_instead(data, small, module, early_stopping):
    params = {"module": module, "early_stopping": early_stopping, "batch_size": 9}
    X = data.X.astype(np.float32)
    with autocast():
        model = small(**params).fit(X, data.Y)
    mixed = small(**params, dtype=MIXED).fit(X, data.Y)
    plain = small(**params).fit(X, data.Y)
    np.testing.assert_array_equal(model.predict(X), mixed.predict(X))
    assert (mixed.predict(X) != plain.predict(X)).any()


def test_bounds_hold_in_float32(data, small, strategy):
    model = small(strategy=strategy, dtype=MIXED, lower_bound=0.1, upper_bound=3)
    if strategy == "nonnegative_weights":
        model.set_params(module__activation=nn.Sigmoid)
    model.set_params(on_violated_y="ignore").fit(data.X, data.Y)
    predictions = model.predict(data.X)
    assert predictions.dtype == np.float32
    if model.repair_ is not None or strategy in ("activation", "nonnegative_weights"):
        assert np.float32(0.1) <= predictions.min() <= predictions.max() <= 3


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps", "xpu"])
@pytest.mark.parametrize("module", [MLP(3, 1), Stack(3, 1, X=np.eye(3))])
def test_hand_written_passes_step_aside_under_any_autocast(device, module):
    assert find_passes(module) is not None
    # The flag alone, because the context of a device that is missing only warns.
    torch.set_autocast_enabled(device, True)
    try:
        assert find_passes(module) is None
    finally:
        torch.set_autocast_enabled(device, False)


def test_predictions_under_autocast_are_those_that_obey_the_bounds(data, fitted):
    model = fitted(dtype="float32", lower_bound=0.1, on_violated_y="ignore")
    with autocast():
        predictions = model.predict(data.X)
        assert model.module_(torch.ones(1, 3)).dtype == torch.bfloat16
    np.testing.assert_array_equal(predictions, model.predict(data.X))


def test_training_is_continued_in_the_same_precision(data, small):
    params = {"dtype": MIXED, "batch_size": 9, "warm_start": True}
    halves = small(**params, max_epochs=2)
    halves.fit(data.X, data.Y).fit(data.X, data.Y)
    whole = small(**params, max_epochs=4).fit(data.X, data.Y)
    np.testing.assert_array_equal(halves.predict(data.X), whole.predict(data.X))


def test_precisions_are_searched_over(data, small):
    grid = {"dtype": ["float32", "float64", MIXED]}
    search = GridSearchCV(small(), grid, cv=2, error_score="raise")
    assert np.isfinite(search.fit(data.X, data.Y).cv_results_["mean_test_score"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("module", [MLP, Stack])
def test_mixed_precision_is_as_accurate(module):
    X, y = load_diabetes(return_X_y=True)
    X = (X / X.std(axis=0)).astype(np.float32)
    model = PositiveOutputRegressor(module, random_state=0)
    scores = [
        cross_val_score(model.set_params(dtype=dtype), X, y, cv=3).mean()
        for dtype in ("float32", MIXED)
    ]
    assert abs(scores[1] - scores[0]) < 0.02
