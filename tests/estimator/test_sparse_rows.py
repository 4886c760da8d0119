"""Sparse X gives the model of the dense X, and is never dense as a whole."""

import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from properties import assert_same_bits, training_state
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

import sklpos
from sklpos import MLP, PositiveOutputRegressor, Stack
from sklpos.nets import any_rows
from sklpos.repair import repair_head

RNG = np.random.default_rng(0)
X = np.where(RNG.random((60, 8)) < 0.4, RNG.normal(size=(60, 8)), 0.0) + 0.0
X[:, 4] = X[:, 4] != 0
y = np.maximum(X[:, 0] + X[:, 4] + 0.3 * RNG.normal(size=60), 0)
X_new = np.where(RNG.random((20, 8)) < 0.4, RNG.normal(size=(20, 8)), 0.0)
ROWS = sparse.csr_array(X)

FORMATS = {
    "csr": sparse.csr_array,
    "csc matrix": sparse.csc_matrix,
    "coo": sparse.coo_array,
    "wide indices": lambda dense: with_wide_indices(sparse.csr_array(dense)),
}
DATA = {
    "whole numbers": (4 * X).astype(int),
    "booleans": X > 0,
    "single": X.astype("f4"),
}


def with_wide_indices(matrix):
    matrix.indices = matrix.indices.astype(np.int64)
    matrix.indptr = matrix.indptr.astype(np.int64)
    return matrix


def assert_same_model(first, second):
    assert_same_bits(first.predict(X_new), second.predict(X_new))
    assert_same_bits(first.multipliers_, second.multipliers_)


@pytest.fixture(scope="module")
def shops():
    """A pipeline whose first step makes sparse rows, its data frame and its targets."""
    frame = pytest.importorskip("pandas").DataFrame(
        {"shop": RNG.integers(0, 30, 400).astype(str), "size": RNG.normal(size=400)}
    )
    sales = np.maximum(frame["size"] + (frame["shop"] < "2"), 0)
    encode = OneHotEncoder(handle_unknown="ignore")
    columns = ColumnTransformer(
        [("shop", encode, ["shop"])], remainder=StandardScaler()
    )
    net = PositiveOutputRegressor(MLP, max_epochs=15, random_state=0)
    model = make_pipeline(columns, net).fit(frame, sales)
    assert sparse.issparse(model[:-1].transform(frame))
    return model, frame, sales


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_dense_model(small, name):
    read = FORMATS[name]
    model = small().fit(read(X), y)
    assert_same_model(model, small().fit(X, y))
    assert_same_bits(model.predict(read(X_new)), model.predict(X_new))
    assert model.score(read(X), y) == model.score(X, y)


@pytest.mark.parametrize("module", [MLP, Stack])
@pytest.mark.parametrize("name", DATA)
def test_every_dtype_gives_the_dense_model(small, module, name):
    model = small(module=module).fit(sparse.csr_array(DATA[name]), y)
    assert_same_model(model, small(module=module).fit(DATA[name], y))


@pytest.mark.parametrize("module", [MLP, Stack])
def test_every_strategy_gives_the_dense_model(small, mostly_slow_strategy, module):
    params = {"strategy": mostly_slow_strategy, "module": module, "max_epochs": 2}
    # Batches, and rows that are held out.
    params |= {"batch_size": 16, "early_stopping": True}
    with warnings.catch_warnings():
        # Two epochs prove nothing, and some multipliers are refused for a Stack.
        warnings.simplefilter("ignore")
        dense = small(**params).fit(X, y)
        assert_same_model(small(**params).fit(ROWS, y), dense)


@pytest.mark.filterwarnings("ignore:strategy='certified'", "ignore:no head")
def test_a_hull_of_sparse_rows(small):
    strategy = sklpos.STRATEGIES["certified"](domain="hull")
    models = [small(strategy=strategy).fit(rows, y) for rows in (X, ROWS)]
    assert_same_model(*models)


@pytest.mark.filterwarnings("ignore:strategy='certified'")
def test_the_box_of_training_has_rows_held_out(small):
    # Whichever rows are held out, one of them is the only one with its feature.
    rows, params = sparse.eye_array(60, format="csr"), {"early_stopping": True}
    model = small(strategy="certified", **params).fit(rows, y)
    box = model.net_.domain_constraint_.bounds.points
    assert_same_bits(box.numpy(), np.stack([np.zeros(60), np.ones(60)]))


def test_partial_fit_and_warm_starts_go_on_with_either(small):
    model = small().partial_fit(ROWS, y).partial_fit(X, y)
    other = small().partial_fit(X, y).partial_fit(ROWS, y)
    assert_same_bits(model.predict(X), other.predict(X))
    once = small(warm_start=True).fit(ROWS, y)
    again = small(warm_start=True).fit(X, y)
    assert_same_bits(
        once.fit(sparse.csc_array(X), y).predict(X), again.fit(X, y).predict(X)
    )


def test_weights_of_zero_leave_sparse_rows_out(small):
    weight = np.arange(60) % 3.0
    model = small().fit(ROWS, y, sample_weight=weight)
    assert_same_model(model, small().fit(X, y, sample_weight=weight))


ENFORCED = {
    "rows": {},
    "shift": {"adjust": "bias"},
    "ball": {"domain": "ball", "radius": 0.01},
}


@pytest.mark.parametrize("name", ENFORCED)
@pytest.mark.filterwarnings("ignore:balance was dropped")
def test_repairs_on_sparse_rows(small, name):
    model = small().fit(ROWS, y).enforce(sparse.csr_array(X_new), **ENFORCED[name])
    assert model.predict(X_new).min() >= 0
    other = small().fit(X, y).enforce(X_new, **ENFORCED[name])
    assert_same_bits(model.predict(X), other.predict(X))
    for batch in (slice(None), slice(3, 9), slice(5, 6)):
        part = X_new[batch]
        assert_same_bits(model.predict(sparse.csr_array(part)), model.predict(part))


def test_certificates_of_sparse_rows(small):
    model = small(module=Stack).fit(ROWS, y)
    for rows in (ROWS, X):
        assert model.certify("hull", X=rows).status_ == "verified"
        assert model.certify_risk(rows).n_samples_ == 60
        assert model.certified_radius(rows[:3]).tolist() == [10.0] * 3
    low, high = model.output_bounds(ROWS, ROWS)
    assert (low <= model.predict(X)[:, None]).all()
    assert (high >= model.predict(X)[:, None]).all()


def test_a_process_of_a_search_maps_sparse_rows_into_memory(small):
    """They are read-only then, of which torch would warn."""
    rows = sparse.csr_array(X)
    for part in (rows.data, rows.indices, rows.indptr):
        part.setflags(write=False)
    assert_same_model(small().fit(rows, y), small().fit(X, y))


def test_what_needs_dense_rows_says_so(small, monkeypatch):
    model = small().fit(ROWS, y)
    monkeypatch.setattr(any_rows, "_MAX_VALUES", 100)
    with pytest.raises(ValueError, match=r"X is sparse of shape .*needs dense"):
        model.certify("hull", X=ROWS)


@pytest.mark.parametrize("known", [X, ROWS])
def test_other_rows_draw_the_same_warnings(small, known):
    model = small().fit(known, y)
    other = np.vstack([np.where(np.arange(8) == 4, 1.4, X)] * 5)
    for rows in (other, sparse.csr_array(other)):
        model.certify_risk(np.vstack([X] * 5))
        with pytest.warns(UserWarning, match="feature 4 of the holdout is distrib"):
            model.certify_risk(rows)
        with pytest.warns(UserWarning, match="are far outside the range"):
            model.enforce(1000 * rows)


def test_a_repair_of_a_module_takes_sparse_rows():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 1)).double()
    weight = np.arange(60) % 2
    found = [repair_head(module, rows, y=y, weight=weight) for rows in (X, ROWS)]
    first, second = (repaired.module.state_dict() for repaired in found)
    assert_same_bits(dict(first), dict(second))


def test_a_module_that_asks_for_the_rows_gets_a_sparse_matrix(small):
    seen = []

    def make(n_features_in, X):
        seen.append(X)
        return nn.Linear(n_features_in, 1)

    small(module=make).fit(ROWS, y)
    assert seen[0].format == "csr"
    np.testing.assert_array_equal(seen[0].toarray(), X)


def test_a_frame_of_sparse_columns_keeps_its_names(small):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame.sparse.from_spmatrix(ROWS, columns=list("abcdefgh"))
    model = small().fit(frame, y)
    assert model.feature_names_in_.tolist() == list("abcdefgh")
    assert_same_bits(model.predict(frame), small().fit(X, y).predict(X))


def test_what_is_fitted_on_sparse_rows_is_stored(small, tmp_path):
    skops = pytest.importorskip("skops.io")
    model = small(module=Stack).fit(ROWS, y)
    skops.dump(model, tmp_path / "model")
    untrusted = skops.get_untrusted_types(file=tmp_path / "model")
    assert untrusted == ["sklpos.estimator.regressor.PositiveOutputRegressor"]
    loaded = skops.load(tmp_path / "model", trusted=untrusted)
    assert_same_bits(training_state(loaded), training_state(model))
    assert loaded.certify_risk(ROWS).n_samples_ == 60


def test_a_pipeline_that_encodes_categories(shops):
    model, frame, sales = shops
    assert model.score(frame, sales) > 0.7
    assert model.predict(frame).min() >= 0
    assert sklpos.certify_risk(model, frame).controlled_
    assert sklpos.report(model, frame, sales).rows_[0].n_samples == 400
    assert sklpos.certify(model, "box").status_ in ("verified", "falsified")
    model = sklpos.enforce(model, frame.assign(shop="unknown"))
    assert model.predict(frame.assign(shop="unknown")).min() >= 0


def test_a_search_over_a_pipeline_of_sparse_rows(shops):
    model, frame, sales = shops
    grid = {"positiveoutputregressor__alpha": [0.5, 1.0]}
    search = GridSearchCV(model, grid, cv=2).fit(frame, sales)
    assert sklpos.enforce(search, frame).predict(frame).min() >= 0


@pytest.mark.parametrize(
    "vectorizer", [TfidfVectorizer(), HashingVectorizer(n_features=500)], ids=str
)
def test_words_of_texts(vectorizer):
    number = RNG.integers(0, 30, (200, 4))
    texts = [" ".join(f"word{n}" for n in row) for row in number]
    targets = np.maximum((number < 10).sum(axis=1) - 1.0, 0)
    net = PositiveOutputRegressor(MLP, max_epochs=30, random_state=0)
    model = make_pipeline(vectorizer, net).fit(texts, targets)
    assert model.score(texts, targets) > 0.7


def wide(n_rows, n_features, per_row):
    """One-hot rows of several columns each, and targets that depend on some."""
    columns = RNG.integers(0, n_features, (n_rows, per_row))
    starts = np.arange(0, columns.size + 1, per_row)
    ones = np.ones(columns.size, np.float32)
    shape = n_rows, n_features
    rows = sparse.csr_array((ones, columns.ravel(), starts), shape)
    return rows, np.maximum(rows @ (RNG.random(n_features) < 0.05) - 1.0, 0)


class Words(nn.Module):
    """A narrow layer on wide rows."""

    def __init__(self, n_features_in):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(n_features_in, 8), nn.ReLU())
        self.head = nn.Linear(8, 1)

    def forward(self, X):
        return self.head(self.features(X))


@pytest.mark.parametrize("module", [Words, Stack])
def test_no_part_is_larger_than_a_batch_or_a_pass(module, monkeypatch):
    rows, targets = wide(300, 500, 5)
    sizes = []

    def recorded(self, *args, **kwargs):
        sizes.append(np.prod(self.shape))
        return dense(self, *args, **kwargs)

    dense = sparse.csr_array.toarray
    monkeypatch.setattr(sparse.csr_array, "toarray", recorded)
    monkeypatch.setattr(any_rows, "_MAX_VALUES", 20 * 500)
    # Otherwise, the rows of a Stack are encoded once, if that takes little memory.
    monkeypatch.setattr("sklpos.training.stacked._MOST_VALUES", 0)
    # Several batches, and the rows that tell the noise, are few values.
    monkeypatch.setattr("sklpos.training.loaders._VALUES_PER_GATHER", 0)
    monkeypatch.setattr("sklpos.training.decay._MAX_VALUES", 0)
    params = {"max_epochs": 2, "batch_size": 16, "early_stopping": True}
    model = PositiveOutputRegressor(module, random_state=0, **params)
    model.fit(rows, targets).enforce(rows).certify_risk(rows)
    assert max(sizes) <= 64 * 500


@pytest.mark.slow
def test_rows_that_no_memory_would_hold_as_a_dense_array():
    """2 GB as a dense array of float32; one pass takes 64 MB."""
    rows, targets = wide(2_000, 250_000, 30)
    tracemalloc.start()
    try:
        params = {"max_epochs": 1, "weight_decay": 0.0, "random_state": 0}
        model = PositiveOutputRegressor(Words, **params).fit(rows, targets)
        model.enforce(rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**29
    assert model.predict(rows).min() >= 0
