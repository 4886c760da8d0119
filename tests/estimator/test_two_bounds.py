"""Lower and upper bounds in the hands of scikit-learn, and random ones for each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import assert_balanced, assert_obeys
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklpos import MLP, STRATEGIES, PositiveOutputRegressor
from sklpos.metrics import SCORERS, best_feasible, violation_rate

#: Rows that leave the interval on both sides if nothing holds them.
UPPER = 0.6
FREE = (None, None)


@pytest.fixture(scope="module")
def shares(data):
    """Targets between 0 and `UPPER`, many of them at either end."""
    return np.minimum(data.Y, UPPER)


@pytest.fixture
def make(small):
    """Make a regressor for `shares`, to which strategies may add their needs."""

    def make(strategy="augmented_lagrangian", **params):
        needs = {}
        if strategy == "nonnegative_weights":  # features between 0 and 1
            needs["module__activation"] = "sigmoid"
        bounds = {"lower_bound": 0.0, "upper_bound": UPPER, "max_epochs": 20}
        return small(strategy=strategy, **(bounds | needs | params))

    return make


# Predictions


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_rows_are_within_both_bounds(make, data, shares, strategy, dtype):
    X = data.X.astype(dtype)
    model = make(strategy).fit(X, shares)
    assert model.predict(X).dtype == dtype
    assert_obeys(model, X, 0.0, UPPER)
    if model.repair_ is not None:
        tolerance = {"float32": 1e-5, "float64": 1e-9}[dtype]
        assert_balanced(model, X, shares, tolerance=tolerance)


def test_without_the_bounds_both_sides_are_missed(make, data, shares):
    """Or the tests of this file test less than they say."""
    free = make("unconstrained", repair=None).fit(data.X, shares).predict(data.X)
    assert free.min() < 0
    assert free.max() > UPPER


@pytest.mark.parametrize("side", [(None, UPPER), ([0.0, None], [None, UPPER]), FREE])
def test_a_side_may_be_free(make, data, shares, mostly_slow_strategy, side):
    lower, upper = side
    model = make(mostly_slow_strategy, lower_bound=lower, upper_bound=upper)
    assert_obeys(model.fit(data.X, shares), data.X, lower, upper)


@pytest.mark.parametrize(("dtype", "value"), [("float32", 0.3), ("float64", 1e6)])
def test_equal_bounds_give_a_constant(make, data, mostly_slow_strategy, dtype, value):
    """The first output is held at a number, the second one is not."""
    strategy = mostly_slow_strategy
    X = data.X.astype(dtype)
    # Only what is a number of the dtype can be predicted.
    value = float(np.dtype(dtype).type(value))
    Y = np.column_stack([np.full(len(X), value), data.y])
    bounds = {"lower_bound": [value, 0.0], "upper_bound": [value, np.inf]}
    if strategy == "nonnegative_weights":
        bounds["upper_bound"] = [value, 3.0]
    model = make(strategy, **bounds).fit(X, Y)
    assert (model.predict(X)[:, 0] == value).all()
    assert (model.predict(X[:1])[:, 0] == value).all()
    assert np.ptp(model.predict(X)[:, 1]) > 0
    assert_obeys(model, X, **bounds)


@st.composite
def bounds_of_outputs(draw, n_outputs):
    """A pair of bounds for each output; either may be missing, or both be equal."""
    ends = st.one_of(st.none(), st.floats(-2, 2, width=16))
    pairs = [(draw(ends), draw(ends)) for _ in range(n_outputs)]
    ordered = [sorted(pair) if None not in pair else list(pair) for pair in pairs]
    return [list(side) for side in zip(*ordered, strict=True)]


@settings(max_examples=30, deadline=None)
@given(
    bounds=st.integers(1, 3).flatmap(bounds_of_outputs),
    strategy=st.sampled_from(sorted(STRATEGIES)),
    dtype=st.sampled_from(["float32", "float64"]),
    balance=st.booleans(),
    seed=st.integers(0, 2**16),
)
@pytest.mark.filterwarnings(
    "ignore:balance was dropped|the repair raised|no head was proved"
)
def test_any_bounds_hold_on_training_rows(bounds, strategy, dtype, balance, seed):
    lower, upper = bounds
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(30, 2)).astype(dtype)
    Y = X @ rng.normal(size=(2, len(lower))) + rng.normal(size=(30, len(lower)))
    model = PositiveOutputRegressor(
        strategy=strategy,
        lower_bound=lower,
        upper_bound=upper,
        balance=balance,
        on_violated_y="ignore",
        module=MLP,
        module__hidden_layer_sizes=(6,),
        module__activation="sigmoid",
        max_epochs=5,
        lr=0.05,
        random_state=seed,
    )
    model.fit(X, Y)
    assert_obeys(model, X, lower, upper)
    assert violation_rate(model.predict(X), lower, upper) == 0


# Parameters


def test_the_former_name_warns_and_takes_effect(small, data):
    model = small(on_negative_y="ignore")
    with pytest.warns(FutureWarning, match="use on_violated_y") as seen:
        model.fit(data.X, data.y - 0.1)
    assert len(seen) == 1  # nothing about the targets
    model.set_params(on_negative_y="raise")
    with (
        pytest.warns(FutureWarning, match="on_negative_y='raise' is deprecated"),
        pytest.raises(ValueError, match="y is below lower_bound"),
    ):
        model.fit(data.X, data.y - 0.1)
    assert clone(model).get_params()["on_negative_y"] == "raise"
    model.set_params(on_negative_y="deprecated", on_violated_y="ignore")
    model.fit(data.X, data.y - 0.1)


@pytest.mark.parametrize(
    ("lower_bound", "positive"),
    [
        (0.0, True),
        (3, True),
        ([-np.inf, 0.0], True),
        ([None, 0.0], True),
        (None, False),
        (-1.0, False),
        (-np.inf, False),
        ([None, -1e-9], False),
        ("zero", False),
    ],
)
def test_only_some_bounds_ask_for_positive_targets(lower_bound, positive):
    model = PositiveOutputRegressor(lower_bound=lower_bound, upper_bound=5.0)
    assert model.__sklearn_tags__().target_tags.positive_only is positive


# Pipelines and searches


def test_a_search_over_bounds(make, data, shares):
    grid = {
        "positiveoutputregressor__upper_bound": [None, UPPER, [UPPER, 2.0]],
        "positiveoutputregressor__strategy": ["unconstrained", "activation"],
    }
    search = GridSearchCV(
        make_pipeline(StandardScaler(), make()),
        grid,
        scoring=SCORERS,
        refit=best_feasible(),
        cv=2,
    ).fit(data.X, shares)
    rates = -search.cv_results_["mean_test_violation_rate"]
    found = dict(zip(map(str, search.cv_results_["params"]), rates, strict=True))
    assert all((rate == 0) == ("activation" in key) for key, rate in found.items())
    assert search.best_params_["positiveoutputregressor__strategy"] == "activation"
    upper = search.best_params_["positiveoutputregressor__upper_bound"]
    assert_obeys(search, data.X_new, 0.0, upper)


def test_scorers_read_both_bounds(make, data, shares):
    model = make("unconstrained", repair=None, upper_bound=[UPPER, None])
    scores = cross_validate(model, data.X, shares, cv=2, scoring=SCORERS)
    assert (scores["test_violation_rate"] < 0).all()
    model.fit(data.X, shares)
    predictions = model.predict(data.X)
    excess = np.maximum(-predictions, predictions - [UPPER, np.inf])
    for name, expected in [
        ("violation_rate", (excess > 0).any(axis=1).mean()),
        ("max_violation", excess.max()),
        ("mean_violation", np.maximum(excess, 0).mean()),
    ]:
        assert SCORERS[name](model, data.X) == pytest.approx(-expected)
    below = (predictions < 0).any(axis=1).mean()
    assert SCORERS["violation_rate"](model, data.X) < -below
