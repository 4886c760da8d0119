"""A grid search whose fits train together has the results of one that trains each."""

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import Ridge
from sklearn.metrics import get_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    ShuffleSplit,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import EpochScoring
from torch import nn

from sklpos import MLP, STRATEGIES, PositiveOutputRegressor, Stack
from sklpos.criteria import PinballLoss
from sklpos.metrics import SCORERS, best_feasible
from sklpos.search import BatchedGridSearchCV
from sklpos.strategies import AugmentedLagrangian
from sklpos.training.joint import constraint as joint_constraint
from sklpos.training.joint import loop

STEP = "positiveoutputregressor__"
TOGETHER = sorted(set(STRATEGIES) - {"certified"})


@pytest.fixture
def model():
    """A small net in float64 whose batches do not divide the rows of a fold."""
    params = {"hidden_layer_sizes": [8]}
    module = {f"module__{name}": value for name, value in params.items()}
    return PositiveOutputRegressor(
        MLP, **module, batch_size=16, max_epochs=4, random_state=0
    )


@pytest.fixture
def trained(monkeypatch):
    """Numbers of nets that trained together."""
    numbers = []
    whole = loop._train

    def counted(trainees, epochs):
        numbers.append(len(trainees))
        whole(trainees, epochs)

    monkeypatch.setattr(loop, "_train", counted)
    return numbers


def assert_same_search(model, grid, X, y, fit=None, **params):
    """Both searches agree to rounding, and choose the same model."""
    ours = BatchedGridSearchCV(model, grid, **params).fit(X, y, **(fit or {}))
    alone = GridSearchCV(model, grid, **params).fit(X, y, **(fit or {}))
    assert ours.cv_results_.keys() == alone.cv_results_.keys()
    for name, expected in alone.cv_results_.items():
        found = ours.cv_results_[name]
        if name == "params":
            assert found == expected
        elif name.startswith("rank"):
            np.testing.assert_array_equal(found, expected)
        elif "test" in name or "train" in name:
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert ours.best_params_ == alone.best_params_
    np.testing.assert_array_equal(ours.predict(X), alone.predict(X))
    return ours


@pytest.mark.parametrize("strategy", TOGETHER)
def test_every_strategy(strategy, model, data, trained):
    model.set_params(strategy=strategy)
    weighs = STRATEGIES[strategy].uses_alpha
    grid = {"lr": [0.003, 0.02], **({"alpha": [0.3, 30.0]} if weighs else {})}
    assert_same_search(model, grid, data.X, data.Y, cv=3)
    assert trained == [12 if weighs else 6]


def test_bounds_decays_and_seeds_differ(model, data, trained):
    grid = [
        {"lower_bound": [0.0, 0.5], "upper_bound": [2.0, 3.0], "weight_decay": [0.1]},
        {"lower_bound": [0.1], "upper_bound": [2.0], "random_state": [3, 4]},
    ]
    model.set_params(optimizer="Adam", weight_decay=0.01)
    model.set_params(balance=False, on_violated_y="ignore")
    assert_same_search(model, grid, data.X, data.Y, cv=2)
    assert trained == [12]


@pytest.mark.parametrize("strategy", ["slack", "exact_penalty", "activation"])
def test_one_output_of_two_has_a_bound(strategy, model, data):
    model.set_params(strategy=strategy, lower_bound=[None, 0.2], upper_bound=[None, 9])
    model.set_params(on_violated_y="ignore")
    assert_same_search(model, {"lr": [0.003, 0.02]}, data.X, data.Y, cv=2)


def test_folds_of_other_sizes_and_numbers_of_batches(model, data, trained):
    n = len(data.X)
    sizes = [n // 3, n // 2, n - 9]
    rows = np.random.default_rng(0).permutation(n)
    folds = [(rows[:size], rows[size:]) for size in sizes]
    # Its multipliers move in every step of their rows.
    model.set_params(strategy="slack")
    assert_same_search(model, {"alpha": [0.3, 30.0]}, data.X, data.Y, cv=folds)
    assert trained == [6]


def test_weights_and_several_scores(model, data):
    weight = np.random.default_rng(0).integers(0, 3, len(data.X)).astype(float)
    grid = {"lr": [0.003, 0.02]}
    how = {"scoring": ["r2", "neg_mean_absolute_error"], "refit": "r2", "cv": 2}
    fit = {"sample_weight": weight}
    assert_same_search(model, grid, data.X, data.Y, fit, **how, return_train_score=True)


def test_the_best_feasible_model(model, data):
    how = {"scoring": SCORERS, "refit": best_feasible(tolerance=1.0), "cv": 2}
    assert_same_search(model, {"lr": [0.003, 0.02]}, data.X, data.Y, **how)


def test_other_criteria(model, data):
    model.set_params(criterion=PinballLoss(0.7))
    assert_same_search(model, {"lr": [0.003, 0.02]}, data.X, data.y, cv=2)


def test_pipelines_and_transformed_targets(model, data, trained):
    pipeline = make_pipeline(StandardScaler(), model)
    grid = {f"{STEP}lr": [0.003, 0.02], "standardscaler__with_mean": [True, False]}
    assert_same_search(pipeline, grid, data.X, data.Y, cv=2)
    squared = TransformedTargetRegressor(model, func=np.sqrt, inverse_func=np.square)
    assert_same_search(squared, {"regressor__lr": [0.003, 0.02]}, data.X, data.y, cv=2)
    assert trained == [8, 4]


class Odd(nn.Module):
    """A module that needs autograd."""

    def __init__(self, n_features_in, n_outputs):
        super().__init__()
        self.hidden = nn.Linear(n_features_in, 6)
        self.gate = nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, n_outputs)

    def forward(self, X):
        return self.head(torch.nn.functional.silu(self.hidden(X)) * self.gate)


def test_modules_of_the_user(model, data, trained):
    model.set_params(module=Odd, module__hidden_layer_sizes=None)
    model = clone(model)
    model._net_params.pop("module__hidden_layer_sizes")
    assert_same_search(model, {"alpha": [0.3, 30.0]}, data.X, data.Y, cv=2)
    assert trained == [4]


class OneLayerTwice(nn.Sequential):
    """A module with a layer in two places."""

    def __init__(self, n_features_in, n_outputs):
        first, shared = nn.Linear(n_features_in, 6), nn.Linear(6, 6)
        head = nn.Linear(6, n_outputs)
        super().__init__(first, shared, nn.ReLU(), shared, nn.ReLU(), head)


def test_a_layer_in_two_places_and_some_nets_with_a_schedule(data, trained):
    model = PositiveOutputRegressor(OneLayerTwice, max_epochs=3, random_state=0)
    grid = {"lr_schedule": [None, "cosine"]}
    assert_same_search(model, grid, data.X, data.Y, cv=2)
    assert trained == [4]


def test_the_default_device_of_torch_does_not_matter(model, data):
    with torch.device("meta"):
        assert_same_search(model, {"lr": [0.003, 0.02]}, data.X, data.Y, cv=2)


def test_what_differs_otherwise_trains_in_groups(model, data, trained):
    grid = [
        {"strategy": ["penalty", "lagrangian"]},
        {"strategy": [AugmentedLagrangian(dual_lr=0.1)], "batch_size": [10, 16]},
    ]
    assert_same_search(model, grid, data.X, data.Y, cv=2)
    assert sorted(trained) == [2, 2, 2, 2]


def test_at_most_so_many_train_at_a_time(model, data, trained):
    grid = {"lr": [0.003, 0.01, 0.02]}
    search = BatchedGridSearchCV(model, grid, cv=2, max_together=4).fit(data.X, data.Y)
    assert trained == [4, 2]
    alone = GridSearchCV(model, grid, cv=2).fit(data.X, data.Y)
    found, expected = (s.cv_results_["mean_test_score"] for s in (search, alone))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_groups_of_rows(model, data, trained):
    fit = {"groups": np.arange(len(data.X)) % 5}
    how = {"cv": GroupKFold(2)}
    assert_same_search(model, {"lr": [0.003, 0.02]}, data.X, data.Y, fit, **how)
    assert trained == [4]


def test_metadata_routing(model, data, trained):
    with config_context(enable_metadata_routing=True):
        model.set_fit_request(sample_weight=True)
        scorer = get_scorer("r2").set_score_request(sample_weight=True)
        weight = np.random.default_rng(0).uniform(size=len(data.X))
        how = {"cv": GroupKFold(2), "scoring": scorer}
        fit = {"sample_weight": weight, "groups": np.arange(len(weight)) % 5}
        assert_same_search(model, {"lr": [0.003, 0.02]}, data.X, data.Y, fit, **how)
    assert trained == [4]


def test_no_epochs(model, data):
    model.set_params(max_epochs=0)
    assert_same_search(model, {"random_state": [1, 2]}, data.X, data.Y, cv=2)


def test_random_splits_are_made_once(model, data, trained):
    cv = ShuffleSplit(2, random_state=np.random.RandomState(0))
    grid = {"lr": [0.003, 0.01]}
    search = BatchedGridSearchCV(model, grid, cv=cv).fit(data.X, data.Y)
    cv = ShuffleSplit(2, random_state=np.random.RandomState(0))
    alone = GridSearchCV(model, grid, cv=cv).fit(data.X, data.Y)
    found, expected = (s.cv_results_["mean_test_score"] for s in (search, alone))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert trained == [4]


def test_a_candidate_that_diverges_spoils_no_other(model, data):
    model.set_params(optimizer="Adam", strategy="unconstrained", max_epochs=8)
    grid = {"lr": [0.003, 1e200], "lower_bound": [0.0]}
    with pytest.warns(FitFailedWarning, match="diverged"):
        ours = BatchedGridSearchCV(model, grid, cv=2, error_score=-9).fit(
            data.X, data.Y
        )
    alone = clone(model).set_params(lr=0.003, lower_bound=0.0)
    expected = cross_val_score(alone, data.X, data.Y, cv=2).mean()
    found = ours.cv_results_["mean_test_score"]
    np.testing.assert_allclose(found, [expected, -9], rtol=1e-9)
    with pytest.raises(ValueError, match="diverged"):
        BatchedGridSearchCV(model, grid, cv=2, error_score="raise").fit(data.X, data.Y)


def test_an_invalid_candidate_fails_as_in_other_searches(model, data):
    grid = {"alpha": [-1.0, 1.0]}
    with pytest.warns(FitFailedWarning, match="'alpha'"):
        search = BatchedGridSearchCV(model, grid, cv=2, error_score=-9).fit(
            data.X, data.Y
        )
    assert search.best_params_ == {"alpha": 1.0}


REFUSED = [
    ({"module": Stack}, "module=Stack"),
    ({"early_stopping": True}, "early_stopping=True"),
    ({"warm_start": True}, "warm_start=True"),
    ({"callbacks": [EpochScoring("r2")]}, "callbacks="),
    ({"callbacks__multiplier_ascent__window": 9}, "callbacks__multiplier_ascent"),
    ({"iterator_train__drop_last": True}, "iterator_train__drop_last=True"),
    ({"cuda_graph": True}, "cuda_graph=True"),
    ({"callbacks__print_log": None}, "callbacks__print_log=None"),
    ({"optimizer": "SGD"}, "optimizer="),
    ({"optimizer__amsgrad": True}, "optimizer__amsgrad=True"),
    ({"strategy": "certified"}, "strategy='certified'"),
    ({"dtype": "bfloat16-mixed"}, "dtype='bfloat16-mixed'"),
    ({"module": nn.Sequential(nn.Dropout(), nn.Linear(3, 2))}, "random numbers"),
    ({"module": nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))}, "BatchNorm1d"),
]


@pytest.mark.parametrize(("params", "named"), REFUSED)
def test_refusals_come_before_training(params, named, data, trained):
    model = PositiveOutputRegressor(**{"module": MLP, "max_epochs": 2, **params})
    for grid, base in (({"lr": [0.003, 0.02]}, model),):
        search = BatchedGridSearchCV(base, grid, cv=2)
        with pytest.raises(ValueError, match="use GridSearchCV") as caught:
            search.fit(data.X, data.Y)
        assert named in str(caught.value)
        assert len(str(caught.value)) <= 300
        assert not hasattr(search, "cv_results_")
    assert trained == []


class Branching(nn.Linear):
    def __init__(self, n_features_in, n_outputs):
        super().__init__(n_features_in, n_outputs)

    def forward(self, X):
        return super().forward(X if X.sum() > 0 else -X)


def test_a_module_that_cannot_be_mapped_is_refused(data):
    model = PositiveOutputRegressor(Branching, max_epochs=2, strategy="activation")
    with pytest.raises(ValueError, match=r"module=.* use GridSearchCV"):
        BatchedGridSearchCV(model, {"lr": [0.003]}, cv=2).fit(data.X, data.Y)


def test_other_estimators_are_refused(data):
    search = BatchedGridSearchCV(Ridge(), {"alpha": [1.0]}, cv=2)
    with pytest.raises(ValueError, match="must be a PositiveOutputRegressor"):
        search.fit(data.X, data.Y)


def test_ctrl_c_ends_the_search(model, data, monkeypatch):
    def pressed(self, number):
        raise KeyboardInterrupt

    monkeypatch.setattr("sklpos.training.joint.nets.JointNets.run_epoch", pressed)
    search = BatchedGridSearchCV(model, {"lr": [0.003, 0.02]}, cv=2)
    with pytest.raises(KeyboardInterrupt):
        search.fit(data.X, data.Y)
    assert not hasattr(search, "cv_results_")
    # The estimator fits itself again.
    assert clone(model).fit(data.X, data.Y).n_iter_ == 4


def test_it_is_an_estimator(model, data):
    search = BatchedGridSearchCV(model, {"lr": [0.003, 0.02]}, cv=2, max_together=9)
    twin = clone(search)
    assert twin.get_params(deep=False).keys() == search.get_params(deep=False).keys()
    assert twin.max_together == 9
    assert cross_val_score(search, data.X, data.Y, cv=2).shape == (2,)
    search.fit(data.X, data.Y)
    assert search.n_features_in_ == data.X.shape[1]
    assert search.cv == 2
    results = search.cv_results_
    assert (results["std_fit_time"] == 0).all()
    assert results["mean_fit_time"][0] == results["mean_fit_time"][1] > 0
    with pytest.raises(ValueError, match="max_together"):
        clone(search).set_params(max_together=0).fit(data.X, data.Y)


def test_strategies_that_cannot_be_broadcast_are_mapped(model, data, monkeypatch):
    found = []
    whole = joint_constraint.JointConstraint._can_broadcast

    def noted(self):
        found.append((type(self.strategy).__name__, whole(self)))
        return found[-1][1]

    monkeypatch.setattr(joint_constraint.JointConstraint, "_can_broadcast", noted)
    for strategy in ("exact_penalty", "augmented_lagrangian"):
        model.set_params(strategy=strategy)
        BatchedGridSearchCV(model, {"lr": [0.01]}, cv=2).fit(data.X, data.Y)
    assert found == [("ExactPenalty", False), ("AugmentedLagrangian", True)]
