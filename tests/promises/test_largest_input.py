"""No prediction is NaN: up to a stated size all rows are within the bounds, and beyond
it they are refused by name."""

import copy
import functools
import io
import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklpos import MLP, PositiveOutputRegressor, Stack, certify, report
from sklpos.certificates.bounds.overflow import largest_input_of
from sklpos.estimator import endings
from sklpos.repair.provable import UnprovableError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 3))
X[:, 2] = np.exp(2 * X[:, 2])
Y = np.clip(np.column_stack([X[:, 0] + X[:, 1] ** 2, np.sin(3 * X[:, 0])]), 0, 1)
HARD = functools.partial(nn.Hardtanh, 0, 1)
# name -> parameters and the upper bound
MODELS = {
    "stack": ({"module": Stack, "lr": 0.02}, np.inf),
    "stack, two bounds": ({"module": Stack, "lr": 0.02}, 1.0),
    "one sign": ({"module": MLP, "lr": 0.02}, np.inf),
    "hardtanh": ({"module": MLP, "module__activation": HARD}, 1.0),
    "softplus": ({"strategy": "activation"}, np.inf),
    "sigmoid": ({"strategy": "activation"}, 1.0),
}


@functools.cache
def fitted(name="stack", dtype="float32") -> PositiveOutputRegressor:
    params, upper = MODELS[name]
    params = {"strategy": "nonnegative_weights", "max_epochs": 15, **params}
    model = PositiveOutputRegressor(
        upper_bound=upper, dtype=dtype, random_state=0, **params
    )
    return model.fit(X, Y)


def largest_of(model) -> np.floating:
    largest = certify(model, "all").largest_input_
    # No rounding, so the largest input itself can be tried.
    assert float(np.dtype(model.dtype).type(largest)) == largest
    return np.dtype(model.dtype).type(largest)


def rows_within(largest) -> np.ndarray:
    rng = np.random.default_rng(1)
    signs = rng.choice([-1.0, 0.0, 1.0], size=(6_000, 3))
    share = 10 ** rng.uniform(-60, 0, size=signs.shape)
    share[:2_000] = 1.0
    rows = (float(largest) * signs * share).astype(largest.dtype)
    tiny = np.finfo(largest.dtype).smallest_subnormal * signs[:1000]
    return np.vstack([rows, tiny.astype(rows.dtype), X.astype(rows.dtype)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_up_to_the_largest_input_the_bounds_hold(name, dtype):
    model = fitted(name, dtype)
    rows = rows_within(largest_of(model))
    for size in (len(rows), 7, 1):
        for start in range(0, len(rows), max(size, len(rows) // 20)):
            predictions = model.predict(rows[start : start + size])
            assert not np.isnan(predictions).any()
            assert predictions.min() >= 0
            assert predictions.max() <= MODELS[name][1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_beyond_it_the_row_is_named(name, dtype):
    model = fitted(name, dtype)
    rows = X.astype(dtype)
    for sign in (-1, 1):
        rows[[5, 7], 1] = sign * 1.1 * float(largest_of(model))
        with pytest.raises(ValueError, match=r"X\[5, 1\]=.* is too large: in float"):
            model.predict(rows)


@pytest.mark.parametrize("params", [{}, {"upper_bound": 1.0}])
def test_a_fit_to_larger_rows_is_refused(params):
    model = PositiveOutputRegressor(max_epochs=2, random_state=0, **params)
    before = vars(model).copy()
    with pytest.raises(ValueError, match=r"X\[\d+, \d\]=.* is too large: in float64"):
        model.fit(1e300 * X, Y)
    assert vars(model) == before


def test_strategies_that_are_repaired_refuse_as_well(small, data, repaired_strategy):
    model = small(module=MLP, strategy=repaired_strategy, dtype="float32")
    model.fit(data.X, data.Y)
    rows = np.full((2, 3), 1e38)
    with pytest.raises(ValueError, match=r"X\[0, 0\]=1e\+38 is too large"):
        model.predict(rows)
    assert np.isfinite(model.predict(np.full((2, 3), 1e30))).all()


@pytest.mark.parametrize("adjust", ["head", "bias"])
@pytest.mark.parametrize("upper_bound", [None, 3e12])
def test_a_domain_beyond_it_is_not_proved(adjust, upper_bound):
    """Sums overflow there; without a warning, as those are errors here."""
    params = {"dtype": "float32", "max_epochs": 2, "random_state": 0}
    model = PositiveOutputRegressor(upper_bound=upper_bound, **params)
    model.fit(X, 1e12 * Y)
    far = np.full(3, 1.1 * float(largest_of(model)))
    for size in (far, np.full(3, 1e36), np.full(3, 1e300)):
        model.enforce(domain=(-size, size), adjust=adjust)
        beyond = size[0] >= far[0]
        assert model.certificate_.status_ == ("unknown" if beyond else "verified")
        assert np.isinf(model.certificate_.proved_min_).all() == beyond


@pytest.mark.parametrize("adjust", ["head", "bias"])
def test_no_head_is_proved_where_features_overflow(adjust):
    model = PositiveOutputRegressor(
        MLP, strategy="penalty", max_epochs=2, random_state=0
    ).fit(X, 1e12 * Y)
    far = np.full(3, 1e300)
    with pytest.raises(UnprovableError, match="X and y are too large"):
        model.enforce(domain=(-far, far), adjust=adjust)


@pytest.mark.filterwarnings("ignore:.* far outside the range")
def test_it_follows_the_head(small, data):
    model = small(module=MLP, strategy="penalty").fit(data.X, data.Y)
    before = model.fitted_.ending.largest_input
    model.enforce(5 * data.X_new)
    assert model.fitted_.ending.largest_input == largest_input_of(model.module_)
    assert model.fitted_.ending.largest_input != before
    refitted = copy.deepcopy(model).fit(data.X, 1e3 * data.Y)
    assert refitted.fitted_.ending.largest_input < before


def test_it_is_computed_once(monkeypatch):
    model = copy.deepcopy(fitted())
    vars(model.fitted_.ending).pop("largest_input", None)
    calls = []
    monkeypatch.setattr(
        endings, "largest_input_of", lambda module: calls.append(module) or 1e30
    )
    for _ in range(3):
        model.predict(X)
    assert len(calls) == 1


def copies():
    yield copy.deepcopy(fitted())
    yield pickle.loads(pickle.dumps(fitted()))
    file = io.BytesIO()
    joblib.dump(fitted(), file)
    file.seek(0)
    yield joblib.load(file)


def test_it_travels():
    rows = np.full((1, 3), 1e38)
    for model in copies():
        assert model.fitted_.ending.largest_input == largest_input_of(model.module_)
        with pytest.raises(ValueError, match=r"X\[0, 0\]=1e\+38 is too large"):
            model.predict(rows)


def test_it_travels_in_skops():
    skops = pytest.importorskip("skops.io")
    stored = skops.dumps(fitted())
    loaded = skops.loads(stored, trusted=skops.get_untrusted_types(data=stored))
    with pytest.raises(ValueError, match=r"X\[0, 0\]=1e\+38 is too large"):
        loaded.predict(np.full((1, 3), 1e38))


def test_a_pipeline_states_it_in_the_unit_of_the_data():
    unit = np.array([1e-6, 1.0, 1e9])
    pipeline = make_pipeline(StandardScaler(), copy.deepcopy(fitted()))
    grid = {"positiveoutputregressor__max_epochs": [2]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(unit * X, Y)
    certificate = certify(search, "all")
    largest = certificate.largest_input_
    assert certificate.status_ == "verified"
    # The first feature is the one that the scaler enlarges.
    assert largest < 1e-4 * certify(search.best_estimator_[-1], "all").largest_input_
    predictions = search.predict(rows_within(np.array(largest)))
    assert predictions.min() >= 0
    with pytest.raises(ValueError, match=r"X\[0, 0\]=.* is too large"):
        search.predict(np.full((1, 3), 30 * largest))


def test_other_methods_refuse_the_row():
    model, rows = copy.deepcopy(fitted()), X.copy()
    rows[3, 2] = -1e38
    for call in (model.enforce, model.certify_risk, lambda X: report(model, X)):
        with pytest.raises(ValueError, match=r"X\[3, 2\]=-1e\+38 is too large"):
            call(rows)


def test_the_report_states_it():
    largest = certify(fitted(), "all").largest_input_
    promise = f"any input up to a size of {largest:.3g}, by construction"
    assert report(fitted()).promise_ == promise
    assert report(fitted()).promise_ in repr(report(fitted()))


class Differences(nn.Module):
    """A module that certificates do not understand."""

    def __init__(self, n_features_in, n_outputs):
        super().__init__()
        self.features = nn.Linear(n_features_in, 8)
        self.head = nn.Linear(8, n_outputs)

    def forward(self, X):
        # Infinity less infinity, for large inputs.
        big = 1e30 * self.features(X).relu()
        return self.head(1e-30 * (big - big + big))


@pytest.mark.parametrize("strategy", ["activation", "augmented_lagrangian"])
def test_a_nan_of_another_module_is_an_error(strategy):
    model = PositiveOutputRegressor(
        Differences, strategy=strategy, dtype="float32", max_epochs=2, random_state=0
    ).fit(X, Y)
    assert model.fitted_.ending.largest_input == np.inf
    rows = X.copy()
    rows[4] = 1e30
    with pytest.raises(ValueError, match=r"X\[4\] is predicted as NaN in float32"):
        model.predict(rows)


def test_weights_that_were_changed_by_hand_give_no_nan():
    model = copy.deepcopy(fitted())
    model.predict(X)
    with torch.no_grad():
        model.module_.hidden.weight.mul_(1e300)
    with pytest.raises(ValueError, match="is predicted as NaN"):
        model.predict(1e6 * X)


@pytest.mark.filterwarnings("ignore:training diverged", "ignore:overflow")
@pytest.mark.parametrize("strategy", ["activation", "nonnegative_weights", "penalty"])
def test_a_fit_whose_unit_overflows_is_refused(strategy):
    """Each number is in the range of float32, but not their products."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 3)) * [1e-25, 1e17, 1e8]
    y = np.maximum(rng.normal(size=20), 0) * 1e27
    model = PositiveOutputRegressor(
        MLP,
        strategy=strategy,
        lower_bound=-np.inf,
        dtype="float32",
        lr=0.05,
        max_epochs=1,
        random_state=0,
    )
    with pytest.raises(ValueError, match=r"X\[0\] is predicted|standardise X and y"):
        model.fit(X, y)
    assert not hasattr(model, "fitted_")
