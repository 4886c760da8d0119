"""Certificates of a pipeline, in the unit of the data before its scalers."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from problems import make_data
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

import sklpos
from sklpos import MLP, PositiveOutputRegressor
from sklpos.estimator.column_steps import read_steps

UNIT = np.array([4.0, 0.2])  # of the features
CENTER = np.array([20.0, -3.0])

SCALERS = [
    StandardScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    MinMaxScaler(feature_range=(-2, 1)),
    RobustScaler(),
    RobustScaler(with_centering=False, unit_variance=True),
    RobustScaler(with_scaling=False),
    MaxAbsScaler(),
    make_pipeline("passthrough", MaxAbsScaler(), RobustScaler()),
]


Z, y = make_data(150, [7.0, -3.5], shift=-2.0)
X = CENTER + UNIT * Z


def make_net(**params):
    defaults = {
        "module": MLP,
        "module__hidden_layer_sizes": (10,),
        "max_epochs": 20,
        "lr": 0.05,
    }
    return PositiveOutputRegressor(**(defaults | {"random_state": 0} | params))


@functools.cache
def fitted(scaler, **params):
    """A pipeline that tests look at."""
    return make_pipeline(scaler, make_net(**params)).fit(X, y)


@pytest.fixture(scope="module")
def model():
    return fitted(SCALERS[0])


@pytest.mark.parametrize("scaler", SCALERS, ids=str)
def test_a_scale_is_what_its_scalers_do(scaler):
    scale, _ = read_steps([scaler.fit(X)])
    expected = scaler.transform(X)
    np.testing.assert_allclose(X @ scale.gain.T + scale.offset, expected, atol=1e-9)
    np.testing.assert_array_equal(scale.transform(X), expected)
    layer = torch.nn.Linear(2, 3).double()
    weight, bias = scale.fold(layer.weight, layer.bias)
    before = torch.as_tensor(X) @ weight.T + bias
    torch.testing.assert_close(before, layer(torch.as_tensor(expected)))
    low, high = scale.range_before(expected.min(axis=0), expected.max(axis=0))
    assert (low <= X.min(axis=0)).all()
    assert (high >= X.max(axis=0)).all()
    np.testing.assert_allclose([low, high], [X.min(axis=0), X.max(axis=0)], rtol=1e-12)


@pytest.mark.parametrize("scaler", [SCALERS[0], SCALERS[3], SCALERS[-1]], ids=str)
def test_the_box_is_that_of_the_data_before_the_scalers(scaler):
    model = fitted(scaler, lr=0.01)
    found = sklpos.certify(model)
    assert (found.domain_.low <= X.min(axis=0)).all()
    assert (found.domain_.high >= X.max(axis=0)).all()
    inner = model[-1].certify("box")
    assert found.status_ == inner.status_
    edges = np.linspace(found.domain_.low, found.domain_.high, 101)
    points = np.stack(np.meshgrid(*edges.T), axis=-1).reshape(-1, 2)
    assert model.predict(points).min() >= found.proved_min_[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_counterexample_is_one_of_the_pipeline(dtype):
    model = fitted(StandardScaler(), dtype=dtype, weight_decay=0.0)
    found = sklpos.certify(model, "box", margin=1.0)
    assert found.status_ == "falsified"
    assert model.predict(found.counterexample_[None])[0] < 0
    assert (found.counterexample_ >= found.domain_.low).all()
    assert (found.counterexample_ <= found.domain_.high).all()


def test_a_bound_of_the_pipeline_is_that_of_the_net(model):
    low, high = CENTER - UNIT, CENTER + [0, 0.3] * UNIT
    outer = sklpos.certify(model, (low, high), method="crown")
    inner = model[-1].certify(tuple(model[:-1].transform([low, high])), method="crown")
    np.testing.assert_allclose(outer.proved_min_, inner.proved_min_, atol=1e-8)


def test_hull_and_balls_are_in_the_unit_of_the_data(model):
    hull = sklpos.certify(model, "hull", X=X, time_limit=2)
    assert hull.domain_.n_features == 2
    mixed = np.random.default_rng(0).dirichlet(np.ones(len(X)), size=500) @ X
    assert model.predict(mixed).min() >= hull.proved_min_[0]
    balls = sklpos.certify(model, "ball", X=X, radius=0.01 * UNIT)
    assert "verified" in balls.rows_
    corners = X[balls.rows_ == "verified"] + 0.01 * UNIT * [1, -1]
    assert model.predict(corners).min() >= 0


def test_integers_are_integers_of_the_data():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(0, 4, size=80), rng.normal(size=80)])
    model = make_pipeline(StandardScaler(), make_net()).fit(X, np.maximum(X[:, 1], 0))
    found = sklpos.certify(model, "box", categorical=[0])
    assert found.domain_.categorical == ((0,),)
    grid = np.linspace(X[:, 1].min(), X[:, 1].max(), 2001)
    lowest = min(
        model.predict(np.column_stack([np.full(2001, k), grid])).min() for k in range(4)
    )
    assert found.proved_min_[0] <= lowest
    assert found.attained_min_[0] >= lowest - 1e-3
    if found.counterexample_ is not None:
        assert found.counterexample_[0] in range(4)


def test_column_names_are_checked_but_not_needed():
    frame = pd.DataFrame(X, columns=["rain", "wind"])
    scaler = StandardScaler().set_output(transform="pandas")
    model = make_pipeline(scaler, make_net()).fit(frame, y)
    found = sklpos.certify(model, "hull", X=frame, time_limit=1)
    assert found.proved_min_[0] <= model.predict(frame).min()
    assert scaler.feature_names_in_.tolist() == ["rain", "wind"]
    with pytest.raises(ValueError, match="feature names"):
        sklpos.certify(model, "hull", X=frame[["wind", "rain"]])


def test_a_search_stands_for_its_best_pipeline():
    pipeline = make_pipeline(MinMaxScaler(), make_net(max_epochs=3))
    grid = {"positiveoutputregressor__strategy": ["penalty", "nonnegative_weights"]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    found = sklpos.certify(search)
    expected = sklpos.certify(search.best_estimator_)
    np.testing.assert_array_equal(found.proved_min_, expected.proved_min_)


def test_positive_by_construction_behind_a_scaler():
    for strategy in ("activation", "nonnegative_weights"):
        model = fitted(RobustScaler(), strategy=strategy)
        assert sklpos.certify(model, "all")
        assert sklpos.certify(model, "box")
        assert sklpos.certify(model, (CENTER, CENTER + UNIT)).domain_.n_features == 2


def test_a_single_regressor_is_a_model_too():
    net = make_net().fit(Z, y)
    assert sklpos.certify(net).proved_min_ == net.certify().proved_min_


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (QuantileTransformer(n_quantiles=10), "QuantileTransformer is not affine"),
        (MinMaxScaler(clip=True), "MinMaxScaler with clip=True"),
    ],
)
def test_other_steps_are_refused_by_name(step, message):
    model = fitted(step)
    with pytest.raises(ValueError, match=message):
        sklpos.certify(model)


def test_a_subclass_of_a_scaler_is_refused():
    class Odd(StandardScaler):
        def transform(self, X, copy=None):
            return np.abs(super().transform(X, copy))

    model = fitted(Odd())
    with pytest.raises(ValueError, match="Odd is not affine"):
        sklpos.certify(model)


def test_what_is_no_model_is_refused(model):
    with pytest.raises(NotFittedError):
        sklpos.certify(make_pipeline(StandardScaler(), make_net()))
    wrapped = TransformedTargetRegressor(make_net()).fit(X, y)
    with pytest.raises(ValueError, match="pass its regressor_"):
        sklpos.certify(wrapped)
    with pytest.raises(ValueError, match="domain has 1 features"):
        sklpos.certify(model, ([0.0], [1.0]))
    with pytest.raises(ValueError, match="2 features"):
        sklpos.certify(model, "hull", X=[[1.0], [2.0]])


def test_constant_features_have_the_unit_one():
    constant = X * [1, 0] + [0, 7]
    for scaler in (StandardScaler(), MinMaxScaler(), RobustScaler(), MaxAbsScaler()):
        model = make_pipeline(scaler, make_net(max_epochs=2)).fit(constant, y)
        domain = sklpos.certify(model).domain_
        np.testing.assert_allclose([domain.low[1], domain.high[1]], 7.0, rtol=1e-12)


def test_the_proof_names_the_dtype_that_scalers_must_work_in(model):
    found = sklpos.certify(model, "box")
    assert any("scalers" in assumption for assumption in found.assumptions_)


def test_limits_feature_by_feature_are_not_taken_for_corners():
    X, y = np.eye(2), np.ones(2)
    model = PositiveOutputRegressor(max_epochs=1, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="the lows of all features and their highs"):
        sklpos.certify(model, [(-2, 2), (-1, 3)])
    domain = sklpos.certify(model, ([-2, -1], [2, 3]), method="interval").domain_
    assert repr(domain) == "Box(2 features: -2 to 2, -1 to 3)"
