"""Targets that are transformed before `fit`, as in a `TransformedTargetRegressor`."""

import warnings

import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
)

import sklpos
from sklpos import MLP, PositiveOutputRegressor
from sklpos.criteria import PinballLoss
from sklpos.plotting import PositivityDisplay

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 3))
Y = 10 + 5 * np.maximum(X[:, 0] + 0.3 * RNG.normal(size=200), 0)
LOWER = 10.0


def regressor(**params):
    defaults = {"max_epochs": 5, "random_state": 0, "strategy": "unconstrained"}
    return PositiveOutputRegressor(MLP, **{**defaults, **params})


def bounded_by(transformer, lower=LOWER, **params):
    """A model with a bound that is transformed as the targets are."""
    bound = transformer.fit(Y[:, None]).transform([[lower]]).item()
    inner = regressor(lower_bound=bound, on_violated_y="ignore", **params)
    return TransformedTargetRegressor(inner, transformer=transformer)


TRANSFORMERS = {
    "standard": StandardScaler(),
    "range": MinMaxScaler(),
    "robust": RobustScaler(),
    "log": FunctionTransformer(np.log, np.exp),
    "power": PowerTransformer(),
}
transformers = pytest.mark.parametrize("kind", TRANSFORMERS)
SCALERS = ("standard", "range", "robust")


# The warning


def message_for(y, **params):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        regressor(max_epochs=1, **params).fit(X, y)
    return str(seen[0].message)


@pytest.mark.filterwarnings("ignore:balance was dropped")
def test_standardised_targets_are_recognised():
    model = TransformedTargetRegressor(regressor(), transformer=StandardScaler())
    with pytest.warns(UserWarning, match="^y was standardised by a transform") as seen:
        model.fit(X, Y)
    text = str(seen[0].message)
    assert "lower_bound=[0.0]" in text
    assert len(text) <= 300


def test_many_violated_targets_hint_at_a_transform():
    text = message_for(np.log(Y / 15))
    assert text.startswith("if a transform comes before fit, bounds are in the trans")
    assert len(text) <= 300


def test_a_few_violated_targets_do_not():
    text = message_for(np.where(np.arange(200) < 5, -1, Y))
    assert text.startswith("y is below lower_bound=[0.0] in 5 of 200 rows")


def test_raising_says_so_as_well():
    model = regressor(on_violated_y="raise")
    with pytest.raises(ValueError, match="standardised by a transform"):
        model.fit(X, StandardScaler().fit_transform(Y[:, None]).ravel())


# Reports


@transformers
def test_a_report_is_in_the_unit_of_y(kind):
    model = bounded_by(TRANSFORMERS[kind]).fit(X, Y)
    found = sklpos.report(model, X, Y)
    predictions = model.predict(X)
    np.testing.assert_allclose(found.lower_bound_, LOWER)
    assert np.isinf(found.upper_bound_).all()
    after = found.rows_[1]
    rmse = np.sqrt(np.mean((predictions - Y) ** 2))
    np.testing.assert_allclose(after.rmse, rmse)
    assert after.violation_rate == 0
    assert predictions.min() >= LOWER - 1e-9


@transformers
def test_errors_of_training_rows_are_converted_by_scalers(kind):
    found = sklpos.report(bounded_by(TRANSFORMERS[kind]).fit(X, Y), X, Y)
    for training, same in zip(found.training_, found.rows_, strict=True):
        assert training.violation_rate == same.violation_rate
        if kind in SCALERS:
            np.testing.assert_allclose(training.rmse, same.rmse)
            np.testing.assert_allclose(
                training.max_violation, same.max_violation, atol=1e-12
            )
        else:
            assert np.isnan(training.rmse).all()
            assert "not measured" in str(found)


def test_a_repair_is_converted_by_scalers():
    model = bounded_by(StandardScaler()).fit(X, Y)
    inner = model.regressor_
    raw, repaired = (
        module.module(inner_rows()).detach().numpy()
        for module in (inner.fitted_.as_trained, inner.fitted_.ending.model)
    )
    change = np.sqrt(np.mean((repaired - raw) ** 2)) * Y.std()
    found = sklpos.report(model).repair_
    np.testing.assert_allclose(np.sqrt(found.cost_), change, rtol=1e-6)
    assert found.balanced_.all()
    bent = sklpos.report(bounded_by(TRANSFORMERS["log"]).fit(X, Y)).repair_
    assert not bent.balanced_.any()


def inner_rows():
    import torch

    return torch.as_tensor(X)


def test_steps_that_turn_the_order_round_swap_the_bounds():
    turned = FunctionTransformer(np.negative, np.negative)
    inner = regressor(lower_bound=None, upper_bound=-LOWER)
    model = TransformedTargetRegressor(inner, transformer=turned).fit(X, Y)
    found = sklpos.report(model, X, Y)
    assert (found.lower_bound_, found.upper_bound_) == (LOWER, np.inf)
    assert found.training_[0].above_rate == 0
    assert found.training_[0].below_rate == found.rows_[0].below_rate > 0


@pytest.mark.parametrize("where", ["around", "inside", "search", "nested"])
def test_pipelines_and_searches_around_it_and_inside(where):
    shifted = 100 + 7 * X
    model = bounded_by(StandardScaler())
    if where == "around":
        model = make_pipeline(StandardScaler(), model)
    elif where == "nested":
        model = make_pipeline(
            StandardScaler(),
            TransformedTargetRegressor(model, func=np.log, inverse_func=np.exp),
        )
        model[-1].regressor.transformer = FunctionTransformer()
        model[-1].regressor.regressor.lower_bound = np.log(LOWER)
    else:
        model.regressor = make_pipeline(StandardScaler(), model.regressor)
    if where == "search":
        grid = {"regressor__positiveoutputregressor__lr": [0.01, 0.02]}
        model = GridSearchCV(model, grid, cv=2)
    model.fit(shifted, Y)
    found = sklpos.report(model, shifted, Y)
    np.testing.assert_allclose(found.lower_bound_, LOWER)
    rmse = np.sqrt(np.mean((model.predict(shifted) - Y) ** 2))
    np.testing.assert_allclose(found.rows_[1].rmse, rmse)


def test_float32_predictions_at_the_bound_are_inside():
    model = bounded_by(StandardScaler(), dtype="float32").fit(X, Y)
    found = sklpos.report(model, 3 * X)
    assert found.rows_[1].violation_rate < 0.5
    assert sklpos.report(model, X).rows_[1].violation_rate == 0


def test_several_outputs():
    both = np.c_[Y, 100 * Y]
    scaler = StandardScaler().fit(both)
    inner = regressor(lower_bound=scaler.transform([[LOWER, 100 * LOWER]]).ravel())
    inner.set_params(on_violated_y="ignore")
    model = TransformedTargetRegressor(inner, transformer=scaler).fit(X, both)
    found = sklpos.report(model, X, both)
    np.testing.assert_allclose(found.lower_bound_, [LOWER, 100 * LOWER])
    errors = np.sqrt(np.mean((model.predict(X) - both) ** 2, axis=0))
    np.testing.assert_allclose(found.rows_[1].rmse, errors)


# What else takes it


# A power has no inverse far away.
@pytest.mark.parametrize("kind", sorted(set(TRANSFORMERS) - {"power"}))
def test_enforce_holds_the_bound_on_new_rows(kind):
    model = bounded_by(TRANSFORMERS[kind]).fit(X, Y)
    assert model.predict(3 * X).min() < LOWER - 1e-6
    assert sklpos.enforce(model, 3 * X) is model
    assert model.predict(3 * X).min() >= LOWER - 1e-9


def test_plots_are_in_the_unit_of_y():
    pytest.importorskip("matplotlib").use("Agg")
    model = bounded_by(StandardScaler()).fit(X, Y)
    shown = PositivityDisplay.from_estimator(model, X, Y)
    np.testing.assert_allclose(shown.lower_bound, LOWER)
    np.testing.assert_allclose(np.sort(shown.y_pred), np.sort(model.predict(X)))


@transformers
def test_the_risk_is_that_of_the_whole_model(kind):
    model = bounded_by(TRANSFORMERS[kind]).fit(X, Y)
    found = sklpos.certify_risk(model, X[:150])
    outside = np.mean(model.predict(X[:150]) < LOWER - 1e-9)
    np.testing.assert_allclose(found.violation_rate_, outside)


@pytest.mark.parametrize(
    "call", [sklpos.certify, lambda model: sklpos.enforce(model, domain="box")]
)
def test_proofs_are_of_the_regressor_inside(call):
    model = bounded_by(StandardScaler()).fit(X, Y)
    with pytest.raises(ValueError, match=r"another unit .* pass its regressor_"):
        call(model)


def test_what_mixes_outputs_is_refused():
    both = np.c_[Y, Y**2]
    inner = regressor(lower_bound=-1e9)
    model = TransformedTargetRegressor(inner, transformer=PCA(2)).fit(X, both)
    with pytest.raises(ValueError, match="may mix the outputs"):
        sklpos.report(model)


def test_other_models_are_refused_as_before():
    with pytest.raises(NotFittedError):
        sklpos.report(TransformedTargetRegressor(regressor()))
    other = TransformedTargetRegressor(LinearRegression()).fit(X, Y)
    with pytest.raises(ValueError, match="must be a PositiveOutputRegressor"):
        sklpos.report(other)


def test_a_report_compares_each_quantile_with_the_targets():
    inner = regressor(criterion=PinballLoss([0.1, 0.9]), strategy="activation")
    model = TransformedTargetRegressor(inner, func=np.log, inverse_func=np.exp)
    error = model.fit(X, Y).predict(X) - Y[:, None]
    rows, _ = sklpos.report(model, X, Y).rows_
    np.testing.assert_allclose(rows.rmse, np.sqrt(np.mean(error**2, axis=0)))
