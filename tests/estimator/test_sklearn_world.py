"""In pipelines, searches, ensembles and files, as any scikit-learn regressor."""

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from properties import assert_obeys, assert_same_bits, assert_same_training_state
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import BaggingRegressor
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.metrics import get_scorer
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_validate,
)
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklpos import MLP, STRATEGIES, PositiveOutputRegressor
from sklpos.metrics import best_feasible, violation_rate_scorer
from sklpos.strategies import AugmentedLagrangian

STEP = "positiveoutputregressor__"


def test_pipeline(small, data):
    model = make_pipeline(StandardScaler(), small()).fit(100 + 7 * data.X, data.Y)
    assert_obeys(model, 100 + 7 * data.X)
    assert model.score(100 + 7 * data.X, data.Y) > 0


def test_grid_search_over_every_strategy(small, data):
    with_alpha = sorted(n for n, s in STRATEGIES.items() if s.uses_alpha)
    others = sorted(set(STRATEGIES) - set(with_alpha))
    grid = [{"strategy": with_alpha, "alpha": [0.5, 2.0]}, {"strategy": others}]
    search = GridSearchCV(small(), grid, cv=2).fit(data.X, data.Y)
    results = search.cv_results_
    assert np.isfinite(results["mean_test_score"]).all()
    assert len(results["params"]) == 2 * len(with_alpha) + len(others)
    assert search.best_estimator_.strategy == search.best_params_["strategy"]
    assert_obeys(search.best_estimator_, data.X)


@pytest.mark.slow
def test_grid_search_in_processes_over_a_pipeline_of_a_frame(small, data):
    frame = pd.DataFrame(data.X, columns=["age", "size", "dose"])
    grid = {
        f"{STEP}strategy": ["penalty", AugmentedLagrangian(dual_lr=0.2)],
        f"{STEP}module__hidden_layer_sizes": [(4,), (5, 5)],
        f"{STEP}optimizer__weight_decay": [0.0, 0.1],
    }
    scaler = StandardScaler().set_output(transform="pandas")
    searches = [
        GridSearchCV(
            make_pipeline(scaler, small(weight_decay="auto")), grid, cv=2, n_jobs=n_jobs
        )
        for n_jobs in (2, None)
    ]
    parallel, serial = (search.fit(frame, data.Y) for search in searches)
    assert_same_bits(
        parallel.cv_results_["mean_test_score"], serial.cv_results_["mean_test_score"]
    )
    scores = serial.cv_results_["mean_test_score"].reshape(2, 2, 2)
    assert all(np.ptp(scores, axis=axis).any() for axis in range(3))
    best = parallel.best_estimator_[-1]
    assert list(best.feature_names_in_) == list(frame)
    widths = tuple(layer.out_features for layer in best.module_.features[::2])
    assert widths == parallel.best_params_[f"{STEP}module__hidden_layer_sizes"]
    with pytest.raises(ValueError, match="feature names"):
        parallel.predict(frame.rename(columns={"age": "years"}))


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_thread_counts_are_left_alone(small, data, two_threads):
    counts = torch.get_num_threads(), torch.get_num_interop_threads()
    model = small(early_stopping=True).fit(data.X, data.y)
    small().partial_fit(data.X, data.y).predict(data.X)
    model.enforce(data.X_new).certify("box", method="crown")
    assert (torch.get_num_threads(), torch.get_num_interop_threads()) == counts


def test_a_frame_in_and_out(small, data):
    frame, target = pd.DataFrame(data.X, columns=list("abc")), pd.Series(data.y)
    model = small().fit(frame, target)
    assert list(model.feature_names_in_) == list("abc")
    assert_same_bits(model.predict(frame), small().fit(data.X, data.y).predict(data.X))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(data.X)


@pytest.mark.parametrize(
    ("halving", "more"),
    [(HalvingGridSearchCV, {}), (HalvingRandomSearchCV, {"n_candidates": 6})],
)
def test_successive_halving_gives_epochs_to_the_best(small, data, halving, more):
    grid = {"strategy": ["penalty", "lagrangian"], "lr": [1e-6, 0.01, 0.1]}
    epochs = {"resource": "max_epochs", "min_resources": 2, "max_resources": 20}
    search = halving(small(), grid, cv=2, random_state=0, **epochs, **more)
    search.fit(data.X, data.y)
    assert search.n_resources_ == [2, 6]
    assert search.n_candidates_ == [6, 2]
    epochs = [params["max_epochs"] for params in search.cv_results_["params"]]
    assert epochs == 6 * [2] + 2 * [6]
    assert search.best_params_["lr"] > 1e-6
    assert search.best_estimator_.n_iter_ == 6
    assert_obeys(search.best_estimator_, data.X)


def test_search_for_a_width(small, data):
    """Distributions give numpy integers."""
    search = RandomizedSearchCV(
        small(),
        {"module__hidden_layer_sizes": np.arange(3, 6), "module__bias": [True, False]},
        n_iter=3,
        cv=2,
        random_state=0,
    )
    width = search.fit(data.X, data.y).best_params_["module__hidden_layer_sizes"]
    assert search.best_estimator_.module_.head.in_features == width


def test_search_for_the_best_feasible(small, data):
    search = GridSearchCV(
        small(max_epochs=15),
        {"strategy": ["unconstrained", "penalty", "activation"], "repair": [None]},
        scoring={
            "rmse": "neg_root_mean_squared_error",
            "violation_rate": violation_rate_scorer,
        },
        refit=best_feasible(),
        cv=2,
    ).fit(data.X, data.Y)
    violation = -search.cv_results_["mean_test_violation_rate"]
    assert violation[:2].min() > 0
    assert search.best_params_["strategy"] == "activation"
    assert search.best_index_ == 2
    search.set_params(refit=best_feasible(), param_grid={"repair": [None, "head"]})
    with pytest.warns(UserWarning, match="no candidate has violation_rate <= 0"):
        search.set_params(estimator=small(strategy="unconstrained")).fit(data.X, data.Y)
    violation = -search.cv_results_["mean_test_violation_rate"]
    assert violation[search.best_index_] == violation.min()
    assert pickle.loads(pickle.dumps(search)).best_index_ == search.best_index_


@pytest.mark.parametrize("target", ["y", "Y"])
def test_cross_validation(small, data, target):
    y = getattr(data, target)
    model = small(strategy="activation")
    assert cross_val_predict(model, data.X, y, cv=4).shape == y.shape
    scores = cross_validate(
        model, data.X, y, cv=2, scoring=["r2", "neg_mean_absolute_error"]
    )
    assert np.isfinite(scores["test_r2"]).all()


@pytest.fixture
def metadata_routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.usefixtures("metadata_routing")
def test_sample_weight_is_routed(small, data):
    model = small().set_fit_request(sample_weight=True)
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    pipe = make_pipeline(scaler, model)
    direct = clone(model).fit(scaler.fit_transform(data.X), data.Y, data.weight)
    piped = clone(pipe).fit(data.X, data.Y, sample_weight=data.weight)
    assert_same_bits(piped.predict(data.X), direct.predict(scaler.transform(data.X)))
    unweighted = clone(pipe).fit(data.X, data.Y)
    assert np.abs(unweighted.predict(data.X) - piped.predict(data.X)).max() > 1e-3

    scorer = get_scorer("r2").set_score_request(sample_weight=True)
    search = GridSearchCV(pipe, {f"{STEP}alpha": [1.0]}, scoring=scorer, cv=2)
    search.fit(data.X, data.Y, sample_weight=data.weight)
    assert_same_bits(search.predict(data.X), piped.predict(data.X))


def test_bagging(small, data):
    model = BaggingRegressor(small(), n_estimators=3, random_state=0)
    model.fit(data.X, data.y)
    assert np.ptp([member.predict(data.X) for member in model.estimators_], 0).max() > 0
    for member, rows in zip(model.estimators_, model.estimators_samples_, strict=True):
        assert_obeys(member, data.X[rows])


def test_transformed_target(small, data):
    model = TransformedTargetRegressor(small(), func=np.log1p, inverse_func=np.expm1)
    assert_obeys(model.fit(data.X, data.y), data.X)
    scaled = TransformedTargetRegressor(
        small(lower_bound=-np.inf), transformer=StandardScaler()
    ).fit(data.X, data.Y)
    assert scaled.predict(data.X).shape == data.Y.shape


def test_one_estimator_per_output(small, data):
    model = MultiOutputRegressor(small()).fit(data.X, data.Y)
    assert_obeys(model, data.X)


PARAMS = {
    "alpha": 3.0,
    "module": MLP,
    "module__hidden_layer_sizes": (7,),
    "module__activation": "tanh",
    "optimizer__weight_decay": 0.01,
    "callbacks__print_log": None,
    "iterator_train__shuffle": False,
    "criterion__beta": 0.5,
    "compile": False,
}


def test_clone_and_parameters_round_trip():
    model = PositiveOutputRegressor(criterion=nn.SmoothL1Loss, **PARAMS)
    assert PARAMS.items() <= model.get_params().items()
    copied = clone(model)
    assert copied.get_params() == model.get_params()
    assert PositiveOutputRegressor().set_params(**model.get_params()).get_params() == (
        model.get_params()
    )
    copied.set_params(module__hidden_layer_sizes=(3,), optimizer__eps=1e-6, alpha=1.0)
    assert PARAMS.items() <= model.get_params().items()
    assert "optimizer__eps" not in model.get_params()
    assert copied.get_params()["optimizer__eps"] == 1e-6
    copy.copy(model).set_params(optimizer__weight_decay=9.0)
    assert PARAMS.items() <= model.get_params().items()
    assert "module__hidden_layer_sizes=(7,)" in repr(model)
    assert "optimizer__weight_decay" in model._repr_html_()


def test_a_fitted_copy_shares_no_parameters(small, data):
    model = small(weight_decay="auto", optimizer__weight_decay=0.1).fit(data.X, data.y)
    fresh = clone(model)
    assert not hasattr(fresh, "net_")
    assert_same_training_state(model, fresh.fit(data.X, data.y))


def test_parameters_of_a_strategy_instance(small, data):
    strategy = AugmentedLagrangian()
    model = small(strategy=strategy)
    assert model.get_params()["strategy__dual_lr"] == 0.05
    copied = clone(model).set_params(strategy__dual_lr=0.4)
    assert strategy.dual_lr == 0.05
    assert copied.fit(data.X, data.y).strategy_.dual_lr == 0.4


def test_a_pickle_keeps_a_module_instance_and_callbacks(small, data):
    model = small(module=nn.Linear(3, 2), warm_start=True, max_epochs=2)
    model.fit(data.X, data.Y)
    loaded = pickle.loads(pickle.dumps(model)).fit(data.X, data.Y)
    assert_same_training_state(loaded, model.fit(data.X, data.Y))


@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_pickle_holds_no_training_data(small, early_stopping):
    X = np.random.default_rng(0).normal(size=(2000, 50))
    model = small(
        module=nn.Linear(50, 1),
        strategy="penalty",
        early_stopping=early_stopping,
        validation_fraction=0.5,
        max_epochs=2,
    ).fit(X, np.abs(X[:, 0]))
    assert len(pickle.dumps(model)) < X.nbytes / 4


def test_read_only_arrays_are_taken_quietly(small, data, tmp_path):
    joblib.dump(np.array(data.X), tmp_path / "X")
    X = joblib.load(tmp_path / "X", mmap_mode="r")
    assert not X.flags.writeable
    model = small().fit(X, data.y).enforce(X)
    assert_same_bits(
        model.predict(X), small().fit(data.X, data.y).enforce(data.X).predict(data.X)
    )
