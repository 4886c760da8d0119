"""Violation measures, their scorers, and the choice among feasible candidates."""

import pickle

import numpy as np
import pytest
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklpos.metrics import (
    SCORERS,
    best_feasible,
    feasible_rmse_scorer,
    feasible_root_mean_squared_error,
    max_violation,
    max_violation_scorer,
    mean_violation,
    mean_violation_scorer,
    violation_rate,
    violation_rate_scorer,
)

INF = np.inf


@pytest.mark.parametrize(
    ("y_pred", "lower_bound", "rate", "largest", "mean"),
    [
        ([1.0, -0.5, 0.0, 2.0], 0.0, 0.25, 0.5, 0.125),
        ([0.0, -0.0, 1e-300], 0.0, 0.0, 0.0, 0.0),
        ([0.0, -1e-323], 0.0, 0.5, 1e-323, 5e-324),
        ([1.0, 2.0], 3.0, 1.0, 2.0, 1.5),
        ([-1.0, -2.0], -INF, 0.0, 0.0, 0.0),
        ([[1.0, -1.0], [-3.0, -1.0]], 0.0, 1.0, 3.0, 1.25),
        ([[1.0, -1.0], [-3.0, -1.0]], [0.0, -INF], 0.5, 3.0, 0.75),
        ([[5.0, 1.0], [4.0, 1.5]], [5.0, 1.0], 0.5, 1.0, 0.25),
        ([[-1.0], [2.0]], [0.0], 0.5, 1.0, 0.5),
        ([-INF, 1.0], 0.0, 0.5, INF, INF),
    ],
)
def test_violation(y_pred, lower_bound, rate, largest, mean):
    assert violation_rate(y_pred, lower_bound) == rate
    assert max_violation(y_pred, lower_bound) == largest
    assert mean_violation(y_pred, lower_bound) == mean


@pytest.mark.parametrize(
    ("y_pred", "bounds", "rate", "largest", "mean"),
    [
        ([1.0, -0.5, 0.0, 2.0], (0.0, 1.5), 0.5, 0.5, 0.25),
        ([1.0, 2.0], (None, None), 0.0, 0.0, 0.0),
        ([1.0, 2.0], (None, 1.0), 0.5, 1.0, 0.5),
        ([1.0, 2.0], (2.0, 2.0), 0.5, 1.0, 0.5),
        ([-INF, INF], (None, None), 0.0, 0.0, 0.0),
        ([-INF, INF], (0.0, None), 0.5, INF, INF),
        ([-INF, INF], (None, 0.0), 0.5, INF, INF),
        ([[5.0, 1.0], [4.0, 1.5]], ([5.0, None], [None, 1.25]), 0.5, 1.0, 0.3125),
    ],
)
def test_violation_of_either_side(y_pred, bounds, rate, largest, mean):
    assert violation_rate(y_pred, *bounds) == rate
    assert max_violation(y_pred, *bounds) == largest
    assert mean_violation(y_pred, *bounds) == mean


@pytest.mark.parametrize(
    "measure", [violation_rate, max_violation, mean_violation], ids=lambda m: m.__name__
)
def test_a_mirrored_problem_has_the_same_violations(measure):
    rng = np.random.default_rng(0)
    y_pred, lower = rng.normal(size=(50, 2)), np.array([-0.5, -INF])
    upper = np.array([0.5, 0.8])
    assert measure(y_pred, lower, upper) == measure(-y_pred, -upper, -lower) > 0
    with pytest.raises(ValueError, match=r"upper_bound=-1 is below lower_bound=0"):
        measure(y_pred, 0.0, -1.0)


@pytest.mark.parametrize(
    ("y_pred", "options", "error"),
    [
        ([0.0, 0.0, 2.0, 4.0], {}, 1.0),
        ([0.0, 0.0, 2.0, 4.0], {"lower_bound": 0.5}, INF),
        ([-2.0, 0.0, 2.0, 2.0], {"tolerance": 0.2}, INF),
        ([-2.0, 0.0, 2.0, 2.0], {"tolerance": 0.25}, 1.0),
        ([np.nan, 0.0, 2.0, 2.0], {}, INF),
        ([0.0, 0.0, 2.0, 4.0], {"upper_bound": 3.0}, INF),
        ([0.0, 0.0, 2.0, 4.0], {"upper_bound": 4.0}, 1.0),
    ],
)
def test_error_under_feasibility(y_pred, options, error):
    y_true = [0.0, 0.0, 2.0, 2.0]
    assert feasible_root_mean_squared_error(y_true, y_pred, **options) == error


def test_a_prediction_that_is_not_a_number_obeys_nothing():
    assert violation_rate([np.nan, 1.0]) == 0.5
    assert violation_rate([[np.nan, 1.0]], [-INF, 0.0]) == 1.0
    assert np.isnan(max_violation([np.nan, 1.0]))
    assert np.isnan(mean_violation([np.nan, 1.0]))


def test_there_is_no_tolerance_in_float32():
    assert float(np.float32(0.7)) < 0.7
    assert violation_rate(np.array([0.7], dtype="float32"), 0.7) == 1.0
    assert max_violation(np.array([0.7], dtype="float32"), 0.7) > 0


def test_scorers_read_the_bound(small, data):
    model = small(strategy="unconstrained", lower_bound=0.3, on_violated_y="ignore")
    model.set_params(repair=None).fit(data.X, data.Y)
    predictions = model.predict(data.X)
    rate = np.mean((predictions < 0.3).any(axis=1))
    assert 0 < violation_rate(predictions) < rate
    pipe = make_pipeline("passthrough", make_pipeline("passthrough", model))
    for estimator in (model, pipe):
        assert violation_rate_scorer(estimator, data.X, data.Y) == -rate
        assert max_violation_scorer(estimator, data.X) == predictions.min() - 0.3
        assert mean_violation_scorer(estimator, data.X) == -np.mean(
            np.maximum(0.3 - predictions, 0)
        )
        assert feasible_rmse_scorer(estimator, data.X, data.Y) == -INF
    per_output = model.set_params(lower_bound=[0.3, -INF])
    assert violation_rate_scorer(per_output, data.X) == -np.mean(
        predictions[:, 0] < 0.3
    )


def test_scorers_take_0_for_estimators_without_a_bound(data):
    low = DummyRegressor(strategy="constant", constant=-2.0).fit(data.X, data.y)
    assert violation_rate_scorer(low, data.X) == -1
    assert (
        max_violation_scorer(
            make_pipeline(StandardScaler(), low).fit(data.X, data.y), data.X
        )
        == -2
    )
    line = LinearRegression().fit(data.X, data.y)
    assert max_violation_scorer(line, data.X) == min(line.predict(data.X).min(), 0)


def results(rmse, violation, names=("rmse", "violation_rate")):
    return {
        f"mean_test_{names[0]}": -np.array(rmse, dtype=float),
        f"mean_test_{names[1]}": -np.array(violation, dtype=float),
    }


NAN = np.nan
LINE = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])


@pytest.mark.parametrize(
    ("rmse", "violation", "tolerance", "best"),
    [
        ([1, 2, 3], [0.1, 0, 0], 0.0, 1),
        ([3, 2, 1], [0, 0, 0], 0.0, 2),
        ([1, 2, 3], [0.05, 0, 0], 0.05, 0),
        ([1, 2, 2], [0.1, 0, 0], 0.0, 1),
        ([NAN, 2, 3], [0, 0, 0], 0.0, 1),
        ([1, 2, 3], [NAN, 0.5, 0], 0.0, 2),
    ],
)
def test_best_feasible(rmse, violation, tolerance, best):
    choice = best_feasible(tolerance=tolerance)(results(rmse, violation))
    assert choice == best
    assert type(choice) is int


@pytest.mark.parametrize(
    ("rmse", "violation", "best"),
    [
        ([1, 2, 3], [0.3, 0.2, 0.4], 1),
        ([3, 2, 1], [0.2, 0.2, 0.4], 1),
        ([NAN, 2, 3], [0.1, 0.2, 0.4], 1),
        ([1, 2, 3], [NAN, 0.2, 0.4], 1),
        ([NAN, NAN], [NAN, NAN], 0),
    ],
)
def test_nothing_feasible(rmse, violation, best):
    with pytest.warns(UserWarning, match="no candidate has violation_rate <= 0.05"):
        assert best_feasible(tolerance=0.05)(results(rmse, violation)) == best


def test_names_of_the_scorers():
    refit = best_feasible(score="mae", violation="largest")
    assert refit(results([1, 2], [1, 0], ("mae", "largest"))) == 1
    with pytest.raises(ValueError, match="no scorer named 'mae'; pass scoring="):
        refit(results([1, 2], [1, 0]))


def test_the_results_of_the_search_are_left_alone():
    found = results([1, NAN], [NAN, 0.0])
    before = {name: values.copy() for name, values in found.items()}
    with pytest.warns(UserWarning, match="the smallest is inf"):
        best_feasible()(found)
    for name, values in before.items():
        np.testing.assert_array_equal(found[name], values)


def test_the_choice_can_be_pickled():
    refit = pickle.loads(pickle.dumps(best_feasible(tolerance=0.2)))
    assert refit(results([1, 2], [0.1, 0])) == 0


def test_scorers_can_be_pickled_and_are_named():
    for name, scorer in SCORERS.items():
        if callable(scorer):
            copied = pickle.loads(pickle.dumps(scorer))
            assert copied == scorer
            assert repr(scorer) == f"{name}_scorer"
            assert copied(LINE, [[-1.0], [2.0]]) == scorer(LINE, [[-1.0], [2.0]]) < 0


def test_scorers_are_greater_for_the_better(small, data):
    free, bounded = (
        small(strategy=name, repair=None).fit(data.X, data.y)
        for name in ("unconstrained", "activation")
    )
    for scorer in (violation_rate_scorer, max_violation_scorer, mean_violation_scorer):
        assert scorer(free, data.X) < scorer(bounded, data.X) == 0


def test_scorers_by_name_serve_a_search_and_its_scorers(small, data):
    search = GridSearchCV(
        small(lower_bound=0.3, balance=False, on_violated_y="ignore"),
        {"strategy": ["unconstrained", "activation"]},
        scoring=SCORERS,
        refit=best_feasible(violation="mean_violation"),
        cv=2,
    ).fit(data.X, data.y)
    assert search.best_params_ == {"strategy": "activation"}
    assert {f"mean_test_{name}" for name in SCORERS} <= set(search.cv_results_)


def test_a_search_has_the_bound_of_its_best_estimator(small, data):
    model = small(lower_bound=0.3, balance=False, on_violated_y="ignore")
    search = GridSearchCV(model, {"alpha": [1.0]}, cv=2).fit(data.X, data.y)
    predictions = search.predict(data.X)
    error = np.sqrt(np.mean((predictions - data.y) ** 2))
    assert feasible_rmse_scorer(search, data.X, data.y) == pytest.approx(-error)
    search.best_estimator_.lower_bound = 100.0
    assert violation_rate_scorer(search, data.X) == -1
    assert feasible_rmse_scorer(search, data.X, data.y) == -INF
