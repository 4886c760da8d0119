"""Rows that are not like those of the training draw a warning, and others do not."""

import warnings

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklpos import MLP, PositiveOutputRegressor
from sklpos.estimator.other_rows import quantiles_of

rng = np.random.default_rng(0)
X = np.column_stack([10 + 3 * rng.normal(size=(200, 2)), rng.integers(0, 2, 200)])
y = np.maximum(X[:, 0] - 9, 0)


@pytest.fixture(scope="module")
def step():
    """The regressor of a pipeline with a scaler."""
    net = PositiveOutputRegressor(MLP, max_epochs=5, random_state=0)
    return make_pipeline(StandardScaler(), net).fit(X, y)[-1]


CALLS = {
    "enforce": lambda step, rows: step.enforce(rows),
    "certify_risk": lambda step, rows: step.certify_risk(rows),
    "output_bounds": lambda step, rows: step.output_bounds(rows, rows),
    "certified_radius": lambda step, rows: step.certified_radius(rows),
}


@pytest.mark.parametrize("name", CALLS)
def test_rows_of_another_unit_are_told_of_the_pipeline(step, name):
    with pytest.warns(UserWarning, match=rf"feature 0 goes .* sklpos\.{name} with"):
        CALLS[name](step, X)


@pytest.mark.parametrize("name", CALLS)
def test_rows_like_those_of_training_draw_no_warning(step, name):
    own = StandardScaler().fit_transform(X)
    # Fewer than half of the rows may be anywhere.
    own[:90, 0] *= 100
    if name == "certify_risk":
        own = own[90:]
    CALLS[name](step, own)


def test_one_feature_that_is_distributed_differently_is_named():
    frame = pytest.importorskip("pandas").DataFrame(X, columns=["a", "b", "c"])
    model = PositiveOutputRegressor(max_epochs=2, random_state=0).fit(frame, y)
    model.certify_risk(frame)
    other = frame.assign(c=1)
    with pytest.warns(UserWarning, match="'c' of the holdout is distributed diff"):
        model.certify_risk(other)


@pytest.mark.slow
def test_rows_of_the_same_distribution_seldom_warn():
    """At a level of .001 for all features together."""
    n_warned = 0
    model = PositiveOutputRegressor(MLP, max_epochs=1, random_state=0)
    for seed in range(100):
        draw = np.random.default_rng(seed)
        model.fit(draw.normal(size=(150, 5)), np.ones(150))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            model.certify_risk(draw.normal(size=(300, 5)))
        n_warned += len(seen)
    assert n_warned <= 1


def test_a_stream_has_no_sample_to_compare_with():
    model = PositiveOutputRegressor(MLP, random_state=0).partial_fit(X, y)
    model.certify_risk(X[X[:, 0] > 10])


@pytest.mark.parametrize("n_samples", [1, 7, 100, 12345])
def test_quantiles_stand_for_all_rows(n_samples):
    values = np.random.default_rng(1).exponential(size=(n_samples, 3))
    kept = quantiles_of(values)
    assert kept.shape == (min(n_samples, 100), 3)
    for j in range(3):
        share = (values[:, j, None] <= kept[:, j]).mean(axis=0)
        expected = (np.arange(len(kept)) + 0.5) / len(kept)
        np.testing.assert_allclose(share, expected, atol=0.51 / len(kept) + 0.005)


def test_a_stream_far_from_its_first_chunk_warns_once():
    model = PositiveOutputRegressor(random_state=0).partial_fit(X, y)
    model.partial_fit(X + 0.1, y)
    with pytest.warns(UserWarning, match="first call, which fixed the enc") as seen:
        model.partial_fit(X + np.array([0, 100, 0]), y)
    assert "feature 1 goes from" in str(seen[0].message)
    assert len(str(seen[0].message)) <= 300
    model.partial_fit(X - 300, y)


@pytest.mark.filterwarnings("ignore:training diverged")
def test_names_of_columns_appear_in_a_stream():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    model = PositiveOutputRegressor(random_state=0, max_epochs=1, warm_start=True)
    model.fit(frame, y)
    with pytest.warns(UserWarning, match="feature 'c' goes from"):
        model.fit(frame.assign(c=frame.c + 100), y)


def test_a_net_without_an_encoding_has_nothing_to_be_far_from():
    model = PositiveOutputRegressor(MLP, random_state=0).partial_fit(X, y)
    model.partial_fit(X + 20, y)


def test_few_quantiles_are_kept_of_many_features(monkeypatch):
    monkeypatch.setattr("sklpos.estimator.other_rows._MAX_VALUES_KEPT", 15)
    np.testing.assert_array_equal(quantiles_of(X), np.sort(X, axis=0)[20::40])
