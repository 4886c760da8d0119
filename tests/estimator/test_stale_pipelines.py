"""Promises about whole pipelines end when a step before the net is changed."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from problems import make_data
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import sklpos
from sklpos import MLP, PositiveOutputRegressor

Z, y = make_data(150, [7.0, -3.5], shift=-2.0)
X = np.array([20.0, -3.0]) + np.array([4.0, 0.2]) * Z


def make_net(**params):
    defaults = {
        "module": MLP,
        "module__hidden_layer_sizes": (8,),
        "strategy": "unconstrained",
        "repair": None,
        "max_epochs": 10,
        "lr": 0.05,
    }
    return PositiveOutputRegressor(**(defaults | {"random_state": 0} | params))


def make_enforced():
    model = make_pipeline(StandardScaler(), PCA(2), make_net()).fit(X, y)
    return sklpos.enforce(model, domain="hull", X=X, time_limit=2)


@pytest.fixture(scope="module")
def enforced():
    return make_enforced()


def shift_the_scaler(model):
    model[0].mean_ = model[0].mean_ + 1


def turn_the_projection(model):
    # In place, and with the same size of each number.
    model[1].components_ *= -1


def exchange_a_step(model):
    model.steps[0] = ("scaler", StandardScaler().fit(2 * X))


CHANGES = [shift_the_scaler, turn_the_projection, exchange_a_step]


@pytest.mark.parametrize("change", CHANGES)
def test_a_proof_of_a_pipeline_ends_with_its_steps(enforced, change):
    model = copy.deepcopy(enforced)
    proof = sklpos.certify(model, "hull", X=X)
    assert proof
    assert sklpos.report(model).certificate_
    change(model)
    assert not proof
    assert proof.subject_.changes() == ("scalers",)
    found = sklpos.report(model)
    assert not found.certificate_
    assert found.promise_ == "nothing, the model has changed since (scalers)"


def test_the_regressor_of_an_enforced_pipeline_knows_its_proof():
    model = make_enforced()
    assert model[-1].certificate_
    assert "proved" in sklpos.report(model[-1]).promise_
    turn_the_projection(model)
    assert not model[-1].certificate_
    assert "changed" in sklpos.report(model[-1]).promise_


def test_a_stored_pipeline_keeps_its_proof_and_its_regressor_alone_does_not(enforced):
    stored = pickle.loads(pickle.dumps(enforced))
    assert not stored[-1].certificate_
    assert sklpos.report(stored).certificate_
    # Behind other steps it is not what was proved.
    other = make_pipeline(StandardScaler().fit(2 * X), stored[1], stored[-1])
    assert not sklpos.report(other).certificate_
    assert sklpos.report(stored).certificate_


def test_a_proof_of_a_search_is_of_its_best_pipeline():
    pipeline = make_pipeline(StandardScaler(), make_net(max_epochs=2))
    grid = {"positiveoutputregressor__lr": [0.01, 0.05]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    sklpos.enforce(search, domain="box", time_limit=2)
    assert sklpos.report(search).certificate_
    assert sklpos.report(search.best_estimator_).certificate_


def test_a_repair_of_rows_ends_the_proof_of_a_domain():
    model = make_enforced()
    sklpos.enforce(model, X)
    assert model[-1].certificate_ is None


def test_the_categories_of_an_encoder_are_part_of_the_proof():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": X[:, 0], "day": rng.choice(["mon", "tue"], len(X))})
    columns = make_column_transformer(
        (StandardScaler(), ["a"]), (OneHotEncoder(), ["day"])
    )
    model = make_pipeline(columns, make_net()).fit(frame, y)
    sklpos.enforce(model, domain="box", time_limit=2)
    assert sklpos.report(model).certificate_
    # The box has other features than the net.
    assert np.isnan(sklpos.report(model).training_[1].violation_rate)
    encoder = model[0].named_transformers_["onehotencoder"]
    encoder.categories_[0][:] = ["mon", "sun"]
    assert not sklpos.report(model).certificate_


def test_violations_of_training_rows_are_not_read_off_a_box_in_another_unit():
    """By its numbers the box covers the scaled rows; the rows are far off."""
    model = make_pipeline(StandardScaler(), make_net()).fit(X, y)
    sklpos.enforce(model, domain=([-9.0, -9.0], [9.0, 9.0]), time_limit=2)
    assert (np.abs(model[0].transform(X)) < 9).all()
    assert np.isnan(sklpos.report(model).training_[1].violation_rate)


def test_a_box_before_a_projection_is_not_compared_with_what_comes_after_it():
    wide = np.column_stack([X, X @ [1.0, 1.0]])
    model = make_pipeline(PCA(2), make_net()).fit(wide, y)
    sklpos.enforce(model, wide, domain="box", time_limit=2)
    assert sklpos.report(model).certificate_


def test_an_output_activation_behind_columns_is_certified():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": X[:, 0], "day": rng.choice(["mon", "tue"], len(X))})
    columns = make_column_transformer(
        (StandardScaler(), ["a"]), (OneHotEncoder(drop="first"), ["day"])
    )
    net = make_net(strategy="activation")
    model = make_pipeline(columns, net).fit(frame, np.maximum(y, 0))
    assert sklpos.certify(model, "box", X=frame)
    with pytest.raises(ValueError, match="takes 3"):
        sklpos.certify(model, sklpos.certificates.Box([0.0] * 2, [1.0] * 2))
