"""Validation rows of the user's own: looked at, never learnt from."""

import numpy as np
import pytest
import sklearn
import torch
from properties import assert_same_bits
from scipy import sparse
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

from sklpos import MLP, PositiveOutputRegressor
from sklpos.criteria import GammaDeviance
from sklpos.strategies import Certified

RNG = np.random.default_rng(0)
X, X_VAL = RNG.normal(size=(60, 3)), 3 * RNG.normal(size=(20, 3))
Y, Y_VAL = np.maximum(X[:, 0], 0), np.maximum(X_VAL[:, 0], 0)
VALID = {"X_val": X_VAL, "y_val": Y_VAL}
MODULE = {"module": MLP, "module__hidden_layer_sizes": (8,)}


def make(**params) -> PositiveOutputRegressor:
    return PositiveOutputRegressor(
        **{**MODULE, "max_epochs": 4, "random_state": 0, **params}
    )


@pytest.mark.parametrize(
    "params",
    [
        {"module": "Stack"},
        {"strategy": Certified(warm_up=0)},
        {"strategy": "slack", "weight_decay": 0.0},
        {"dtype": "float32"},
    ],
    ids=str,
)
def test_validation_rows_change_nothing_but_the_history(params):
    """Neither the unit of y, nor knots, folds, domains or the guarantee."""
    if params.get("module") == "Stack":
        plain, watched = (PositiveOutputRegressor(max_epochs=2, random_state=0),) * 2
    else:
        plain = watched = make(**params)
    plain = plain.fit(X, Y)
    expected, multipliers = plain.predict(X_VAL), plain.multipliers_
    watched = watched.fit(X, Y, **VALID)
    assert_same_bits(watched.predict(X_VAL), expected)
    assert_same_bits(watched.multipliers_, multipliers)
    assert len(watched.history_[:, "valid_loss"]) == watched.n_iter_


def test_early_stopping_uses_them_and_trains_on_all_rows():
    params = {"early_stopping": True, "n_iter_no_change": 3, "tol": 0.01}
    model = make(**params, max_epochs=400).fit(X, Y, **VALID)
    best = dict(model.callbacks_)["early_stopping"].best_epoch_
    losses = model.history_[:, "valid_loss"]
    assert model.n_iter_ == best + 3 < 400
    assert min(losses[best:]) > losses[best - 1] - 0.01
    # All rows have multipliers, where a split would leave some out.
    rows = model.net_.constraint_.multipliers
    assert len(rows) == len(X)
    split = make(early_stopping=True).fit(X, Y)
    assert len(split.net_.constraint_.multipliers) < len(X)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_they_may_come_and_go_in_a_warm_start(early_stopping):
    model = make(warm_start=True, early_stopping=early_stopping, weight_decay=0.0)
    for valid in ({}, VALID, VALID, {}):
        model.fit(X, Y, **valid)
        n_rows = len(X) if valid or not early_stopping else 54
        assert len(model.net_.constraint_.multipliers) == n_rows
    if not early_stopping:
        twin = make(warm_start=True, weight_decay=0.0)
        for _ in range(4):
            twin.fit(X, Y)
        assert_same_bits(twin.predict(X), model.predict(X))
        assert_same_bits(twin.multipliers_, model.multipliers_)


INVALID = {
    "X_val alone": ({"X_val": X_VAL}, "X_val is given alone; pass both"),
    "y_val alone": ({"y_val": Y_VAL}, "y_val is given alone; pass both"),
    "weights alone": ({"sample_weight_val": Y_VAL}, "sample_weight_val is given alone"),
    "columns": ({"X_val": X_VAL[:, :2]}, "X_val has 2 features"),
    "NaN in X": ({"X_val": X_VAL * np.nan}, "X_val contains NaN in column 0"),
    "NaN in y": ({"y_val": Y_VAL * np.nan}, "y_val contains NaN in row 0"),
    "rows": ({"y_val": Y_VAL[:4]}, r"y_val: Found.*\[20, 4\]"),
    "outputs": ({"y_val": np.c_[Y_VAL, Y_VAL]}, "y_val has 2 outputs, but y has 1"),
    "no rows": ({"X_val": X_VAL[:0], "y_val": Y_VAL[:0]}, "X_val: .*0 sample"),
    "no numbers": ({"X_val": np.full((20, 3), "a")}, "X_val: column 0 holds text"),
    "range": ({"X_val": 1e39 * X_VAL}, "X_val has a size of .*float32"),
    "range of y": ({"y_val": 1e39 * Y_VAL}, "y_val has a size of .*float32"),
    "negative": ({"sample_weight_val": -np.ones(20)}, "sample_weight_val"),
    "weights": ({"sample_weight_val": np.ones(19)}, "sample_weight_val"),
}


@pytest.mark.filterwarnings("ignore:100% of the rows of X_val are far")
@pytest.mark.parametrize(("given", "message"), INVALID.values(), ids=INVALID)
def test_invalid_validation_rows_are_named(given, message):
    model = make(dtype="float32").fit(X, Y)
    predictions = model.predict(X)
    valid = given if "alone" in message else {**VALID, **given}
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, **valid)
    assert_same_bits(model.predict(X), predictions)


def test_columns_have_the_names_of_x():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abc"))
    valid = pd.DataFrame(X_VAL, columns=list("abc"))
    make().fit(frame, Y, X_val=valid, y_val=Y_VAL)
    with pytest.raises(ValueError, match="X_val: The feature names should match"):
        make().fit(frame, Y, X_val=valid[["b", "a", "c"]], y_val=Y_VAL)


def test_targets_out_of_bounds_are_reported_by_name():
    with pytest.warns(UserWarning, match="y_val is below lower_bound=") as seen:
        make().fit(X, Y, X_val=X_VAL, y_val=Y_VAL - 1)
    assert len(seen) == 1
    make(on_violated_y="ignore").fit(X, Y, X_val=X_VAL, y_val=Y_VAL - 1)
    with pytest.raises(ValueError, match=r"y_val is below.*on_violated_y='warn'"):
        make(on_violated_y="raise").fit(X, Y, X_val=X_VAL, y_val=Y_VAL - 1)


def test_rows_of_weight_0_do_not_count():
    weight = np.r_[np.ones(10), np.zeros(10)]
    whole = make().fit(X, Y, **VALID, sample_weight_val=weight)
    half = make().fit(X, Y, X_val=X_VAL[:10], y_val=Y_VAL[:10])
    assert whole.history_[:, "valid_loss"] == half.history_[:, "valid_loss"]


def test_tensors_are_taken():
    valid = {"X_val": torch.tensor(X_VAL), "y_val": torch.tensor(Y_VAL)}
    model = make().fit(torch.tensor(X), torch.tensor(Y), **valid)
    arrays = make().fit(X, Y, **VALID)
    assert model.history_[:, "valid_loss"] == arrays.history_[:, "valid_loss"]


def test_a_data_set_or_loader_is_taken():
    rows = TensorDataset(torch.tensor(X_VAL), torch.tensor(Y_VAL))
    arrays = make().fit(X, Y, **VALID).history_[:, "valid_loss"]
    for valid in (rows, DataLoader(rows)):
        assert make().fit(X, Y, X_val=valid).history_[:, "valid_loss"] == arrays
    with pytest.raises(ValueError, match=r"y_val must be None if X_val.*\(x, y\) or"):
        make().fit(X, Y, X_val=rows, y_val=Y_VAL)


def test_sparse_rows_are_taken():
    valid = {"X_val": sparse.csr_matrix(X_VAL), "y_val": Y_VAL}
    arrays = make().fit(X, Y, **VALID).history_[:, "valid_loss"]
    assert make().fit(X, Y, **valid).history_[:, "valid_loss"] == arrays


# Through pipelines and searches


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def pipeline(**params) -> Pipeline:
    model = make(**params).set_fit_request(X_val=True, y_val=True)
    steps = [("scale", StandardScaler()), ("net", model)]
    return Pipeline(steps, transform_input=["X_val"])


@pytest.mark.usefixtures("routing")
def test_a_pipeline_transforms_them_like_x():
    raw, raw_val = 10 + 3 * X, 10 + 3 * X_VAL
    whole = pipeline().fit(raw, Y, X_val=raw_val, y_val=Y_VAL)
    scaler = StandardScaler().fit(raw)
    alone = make().fit(
        scaler.transform(raw), Y, X_val=scaler.transform(raw_val), y_val=Y_VAL
    )
    assert whole[-1].history_[:, "valid_loss"] == alone.history_[:, "valid_loss"]


@pytest.mark.usefixtures("routing")
def test_a_search_hands_the_same_rows_to_every_fit():
    model = pipeline(early_stopping=True)
    search = GridSearchCV(model, {"net__lr": [0.01, 0.02]}, cv=TimeSeriesSplit(2))
    search.fit(X, Y, **VALID)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    direct = pipeline(early_stopping=True, lr=search.best_params_["net__lr"])
    assert_same_bits(search.predict(X), direct.fit(X, Y, **VALID).predict(X))
    cv = TimeSeriesSplit(2)
    scores = cross_validate(
        model, X, Y, cv=cv, params=VALID, return_estimator=True, error_score="raise"
    )
    for fold, (train, _) in zip(scores["estimator"], cv.split(X), strict=True):
        assert len(fold[-1].multipliers_) == len(train)
        assert len(fold[-1].history_[:, "valid_loss"]) == fold[-1].n_iter_


def test_steps_are_named_where_nothing_is_routed():
    valid = {f"positiveoutputregressor__{name}": rows for name, rows in VALID.items()}
    model = make_pipeline("passthrough", make()).fit(X, Y, **valid)
    alone = make().fit(X, Y, **VALID)
    assert model[-1].history_[:, "valid_loss"] == alone.history_[:, "valid_loss"]


def test_a_transformed_target_takes_them_in_its_own_unit():
    outer = TransformedTargetRegressor(make(), func=np.sqrt, inverse_func=np.square)
    outer.fit(X, Y, X_val=X_VAL, y_val=np.sqrt(Y_VAL))
    alone = make().fit(X, np.sqrt(Y), X_val=X_VAL, y_val=np.sqrt(Y_VAL))
    inner = outer.regressor_.history_[:, "valid_loss"]
    assert inner == alone.history_[:, "valid_loss"]


def test_rows_that_the_pipeline_did_not_transform_draw_a_warning():
    raw, raw_val = 100 + 5 * X, 100 + 5 * X_VAL
    pipeline = make_pipeline(StandardScaler(), make(early_stopping=True))
    given = {f"positiveoutputregressor__{name}": rows for name, rows in VALID.items()}
    pipeline.fit(raw, Y, **given)
    given["positiveoutputregressor__X_val"] = raw_val
    with pytest.warns(UserWarning, match=r"of X_val are far .* feature \d goes from"):
        pipeline.fit(raw, Y, **given)


def test_targets_that_the_criterion_does_not_take_are_refused():
    model = make(criterion=GammaDeviance)
    with pytest.raises(ValueError, match=r"GammaDeviance is not finite .* y_val"):
        model.fit(X, Y + 1, X_val=X_VAL, y_val=Y_VAL)
