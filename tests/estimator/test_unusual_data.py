"""Data that are unusual but not wrong are fitted, and the bound holds."""

import warnings

import numpy as np
import pytest
from properties import assert_obeys

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3))
Y = np.maximum(X @ RNG.normal(size=(3, 2)), 0)
y = Y[:, 0]

VALUES = {
    "one row": (X[:1], y[:1] + 1),
    "constant y": (X, 0 * y + 3),
    "y < 0": (X, -y - 1),
    "X = 0": (0 * X, y),
    "outputs of all kinds": (X, np.column_stack([y, 0 * y, -y, 0 * y + 1e6])),
}
FORMS = {
    "one row, two outputs": (X[:1], Y[:1]),
    "two rows": (X[:2], y[:2]),
    "one feature": (X[:, :1], y),
    "y = 0": (X, 0 * y),
    "integers": ((2 * X).astype(int), (9 * y).astype(int)),
    "lists": (X.tolist(), y.tolist()),
    "booleans": (X > 0, y > 0),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*y is below lower_bound"),
    pytest.mark.filterwarnings("ignore:balance was dropped"),
]


def assert_is_fitted(model, X, y):
    predictions = model.fit(X, y).predict(X)
    assert np.isfinite(predictions).all()
    assert_obeys(model, X)
    assert_obeys(model.partial_fit(X, y).enforce(X), X)


@pytest.mark.parametrize("name", VALUES)
def test_unusual_values_by_every_strategy(small, mostly_slow_strategy, name):
    assert_is_fitted(small(strategy=mostly_slow_strategy, max_epochs=2), *VALUES[name])


@pytest.mark.parametrize("name", FORMS)
def test_unusual_forms(small, name):
    assert_is_fitted(small(max_epochs=2), *FORMS[name])


def test_targets_below_the_bound_may_be_fitted_in_silence(small):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small(on_violated_y="ignore").fit(X, y - 0.1)
