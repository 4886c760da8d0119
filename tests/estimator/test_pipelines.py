"""Repairs, risks and bounds of pipelines, in the unit of the data that they take."""

import copy
import warnings

import numpy as np
import pytest
import torch
from marks import mostly_slow
from problems import make_data
from sklearn.compose import make_column_transformer
from sklearn.decomposition import TruncatedSVD
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    PolynomialFeatures,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

import sklpos
from sklpos import MLP, PositiveOutputRegressor
from sklpos.certificates import bound_risk

UNIT = np.array([4.0, 0.2])  # of the features
CENTER = np.array([20.0, -3.0])
Z, y = make_data(150, [7.0, -3.5], shift=-2.0)
X = CENTER + UNIT * Z
HOLDOUT = CENTER + UNIT * np.random.default_rng(5).normal(size=(400, 2))


def make_net(**params):
    defaults = {
        "module": MLP,
        "module__hidden_layer_sizes": (10,),
        "strategy": "unconstrained",
        "repair": None,
        "max_epochs": 20,
        "lr": 0.05,
    }
    return PositiveOutputRegressor(**(defaults | {"random_state": 0} | params))


def fitted(*steps, **params):
    return make_pipeline(*steps, make_net(**params)).fit(X, y)


@pytest.fixture(scope="module")
def scaled():
    return fitted(StandardScaler())


ROW_STEPS = [
    (StandardScaler(),),
    (QuantileTransformer(n_quantiles=10),),
    (RobustScaler(), PolynomialFeatures(2)),
]


@pytest.mark.parametrize("steps", ROW_STEPS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("adjust", ["head", "bias"])
def test_rows_are_enforced_behind_any_transformer(steps, adjust):
    model = fitted(*steps)
    assert model.predict(X).min() < 0
    assert sklpos.enforce(model, X, adjust=adjust) is model
    assert model.predict(X).min() >= 0
    assert sklpos.report(model, X).rows_[1].violation_rate == 0


def test_a_search_is_enforced_by_its_best_estimator():
    pipeline = make_pipeline(StandardScaler(), make_net(max_epochs=3))
    grid = {"positiveoutputregressor__lr": [0.01, 0.05]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert sklpos.enforce(search, X) is search
    assert search.predict(X).min() >= 0


@pytest.mark.parametrize("steps", ROW_STEPS, ids=lambda value: type(value).__name__)
def test_the_risk_is_that_of_the_pipelines_predictions(steps):
    model = fitted(*steps)
    with np.errstate(all="ignore"):
        found = sklpos.certify_risk(model, HOLDOUT, risk_level=0.1)
    below = np.mean(model.predict(HOLDOUT) < 0)
    assert found.violation_rate_[0] == below > 0
    assert found.n_samples_ == len(HOLDOUT)
    assert found.risk_level_ == 0.1


def test_the_methods_of_a_regressor_are_the_functions():
    net = make_net().fit(Z, y)
    one, other = net.certify_risk(Z), sklpos.certify_risk(net, Z)
    assert repr(one) == repr(other)
    low, high = Z - 0.1, Z + 0.1
    for left, right in zip(
        net.output_bounds(low, high), sklpos.output_bounds(net, low, high), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    one, other = net.certified_radius(Z), sklpos.certified_radius(net, Z)
    np.testing.assert_array_equal(one, other)
    own, again = copy.deepcopy(net).enforce(Z), sklpos.enforce(copy.deepcopy(net), Z)
    np.testing.assert_array_equal(own.predict(Z), again.predict(Z))


def test_modules_are_models_too():
    module = torch.nn.Linear(2, 1).double()
    rows = np.random.default_rng(0).normal(size=(100, 2))
    below = np.mean(module(torch.as_tensor(rows)).detach().numpy() < 0)
    assert sklpos.certify_risk(module, rows).violation_rate_[0] == below


def test_predictions_belong_to_bound_risk(scaled):
    with pytest.raises(ValueError, match="for predictions, call sklpos"):
        sklpos.certify_risk(scaled.predict(X), 0.0)
    expected = sklpos.certify_risk(scaled, X)
    assert repr(bound_risk(scaled.predict(X))) == repr(expected)


def test_a_domain_is_enforced_in_the_unit_of_the_data():
    model = fitted(StandardScaler())
    low, high = X.min(axis=0), X.max(axis=0)
    corners = np.stack(np.meshgrid(*np.linspace(low, high, 101).T), -1).reshape(-1, 2)
    assert model.predict(corners).min() < 0
    sklpos.enforce(model, domain="box", time_limit=1)
    assert model.predict(corners).min() >= 0
    proof = sklpos.report(model).certificate_
    assert proof.status_ == "verified"
    np.testing.assert_allclose([proof.domain_.low, proof.domain_.high], [low, high])
    assert sklpos.certify(model, "box")


@pytest.mark.parametrize("adjust", mostly_slow(["head", "bias"], "bias"))
def test_hulls_and_balls_are_enforced_in_the_unit_of_the_data(adjust):
    model = fitted(StandardScaler())
    with warnings.catch_warnings():
        # A shift costs much accuracy, and says so.
        warnings.simplefilter("ignore", UserWarning)
        sklpos.enforce(model, X, domain="hull", adjust=adjust, time_limit=1)
    mixed = np.random.default_rng(0).dirichlet(np.ones(len(X)), size=500) @ X
    assert min(model.predict(mixed).min(), model.predict(X).min()) >= 0
    sklpos.enforce(model, X, domain="ball", radius=0.1 * UNIT, time_limit=1)
    moved = X + 0.1 * UNIT * np.random.default_rng(0).choice([-1, 1], size=X.shape)
    assert model.predict(moved).min() >= 0


def test_a_domain_behind_another_step_is_refused_by_name():
    model = fitted(QuantileTransformer(n_quantiles=10))
    before = model.predict(X)
    for ask in (
        lambda: sklpos.enforce(model, domain="box"),
        lambda: sklpos.output_bounds(model, X, X),
        lambda: sklpos.certified_radius(model, X),
    ):
        with pytest.raises(ValueError, match="QuantileTransformer"):
            ask()
    np.testing.assert_array_equal(model.predict(X), before)


def test_bounds_and_radii_are_in_the_unit_of_the_data(scaled):
    lower, upper = sklpos.output_bounds(scaled, X - 0.1 * UNIT, X + 0.1 * UNIT)
    radius = sklpos.certified_radius(scaled, X, scale=UNIT)
    assert (radius > 0).any()
    rng = np.random.default_rng(0)
    for _ in range(20):
        step = UNIT * rng.uniform(-1, 1, size=X.shape)
        near = scaled.predict(X + 0.1 * step)
        assert ((near >= lower[:, 0]) & (near <= upper[:, 0])).all()
        moved = scaled.predict(X + radius[:, None] * step)
        assert moved[radius > 0].min() >= 0
    # Not in the unit of the regressor, in which they would be much farther.
    inner = scaled[-1].certified_radius(scaled[:-1].transform(X))
    assert not np.allclose(inner, radius)


def test_rows_that_only_a_scaler_turns_into_those_of_training_do_not_warn(scaled):
    """Warnings are errors here; the regressor itself would warn of its range."""
    sklpos.certify_risk(scaled, X)
    with pytest.warns(UserWarning, match=r"sklpos\.certify_risk with the pipeline"):
        scaled[-1].certify_risk(X)


def test_what_is_no_model_is_not_enforced():
    with pytest.raises(ValueError, match="must be a PositiveOutputRegressor"):
        sklpos.enforce(StandardScaler().fit(X), X)
    with pytest.raises(ValueError, match="enforce needs X"):
        sklpos.enforce(fitted(StandardScaler()))


WRONG_CALLS = [
    (lambda model: sklpos.enforce(None, X), "model=None must be a PositiveOutput"),
    (lambda model: sklpos.enforce(torch.nn.Linear(2, 1), X), "repair_head"),
    (lambda model: sklpos.enforce(model, "box"), "write domain='box'"),
    (lambda model: sklpos.enforce(model, X, radius=0.1), "radius=0.1 describes a"),
    (lambda model: sklpos.enforce(model, X, margin=0.1), "margin=0.1 describes a"),
    (
        lambda model: sklpos.certify_risk(model, X, risk_level="a"),
        "risk_level='a' must",
    ),
    (lambda model: sklpos.certify_risk(X, 0.0), "bound_risk"),
]


@pytest.mark.parametrize(("call", "message"), WRONG_CALLS)
def test_a_wrong_call_is_told_what_would_be_right(scaled, call, message):
    with pytest.raises(ValueError, match=message):
        call(scaled)


def test_the_proof_of_a_pipeline_looks_at_the_pipeline():
    model = fitted(StandardScaler())
    sklpos.enforce(model, domain="box", time_limit=1)
    assert model[-1].certificate_
    assert sklpos.report(model).certificate_
    assert "proved" in sklpos.report(model).promise_
    again = copy.deepcopy(model)
    assert sklpos.report(again).certificate_
    model[0].mean_ += 1
    assert not model[-1].certificate_
    assert not sklpos.report(model).certificate_
    assert sklpos.report(again).certificate_
    with torch.no_grad():
        again[-1].module_.head.bias.sub_(50)
    assert not sklpos.report(again).certificate_


def test_a_proof_ends_with_the_projection_that_it_is_about():
    # Without a centre, whose projection would change as well.
    model = fitted(TruncatedSVD(2), strategy="nonnegative_weights")
    found = sklpos.certify(model, "box", X=X)
    assert found
    model[0].components_[0, 0] += 1e-9
    assert not found


def test_terms_of_one_column_that_cancel_between_two_steps_are_rounded():
    """The folded weight is 0; each term is large, and rounded in float32."""
    # Without an offset, whose size would cover the rounding.
    twice = make_column_transformer(
        (StandardScaler(with_mean=False), [0]),
        (RobustScaler(with_centering=False), [0]),
    )
    rows = Z[:, :1]
    net = PositiveOutputRegressor(
        torch.nn.Linear(2, 1),
        strategy="unconstrained",
        repair=None,
        max_epochs=1,
        dtype="float32",
    )
    model = make_pipeline(twice, net).fit(rows, y)
    scale, iqr = twice.named_transformers_.values()
    with torch.no_grad():
        weights = [1e4 * scale.scale_[0], -1e4 * iqr.scale_[0]]
        next(model[-1].module_.parameters()).copy_(torch.tensor([weights]))
    lower, upper = sklpos.output_bounds(model, rows, rows)
    predicted = model.predict(rows)
    assert np.ptp(predicted) > 1e-4
    assert (predicted >= lower[:, 0]).all()
    assert (predicted <= upper[:, 0]).all()
