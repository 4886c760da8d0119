"""Problems that no head without bias can solve are noticed, and no others."""

import numpy as np
import pytest
import torch
from marks import mostly_slow
from sklearn.exceptions import ConvergenceWarning
from watching import States, assert_same_state, fitted, regressor, state_of

#: Strategies whose multipliers grow without end.
GROWING = mostly_slow(
    ["augmented_lagrangian", "lagrangian", "slack"], "augmented_lagrangian"
)


def linear_without_bias(*callbacks, **params):
    return regressor(
        *callbacks,
        **{
            "module__hidden_layer_sizes": (),
            "module__bias": False,
            "on_violated_y": "ignore",
            "batch_size": -1,
            **params,
        },
    )


@pytest.mark.parametrize("strategy", GROWING)
@pytest.mark.parametrize(
    ("optimizer", "lr"),
    [
        (torch.optim.Adam, 0.01),
        pytest.param(torch.optim.SGD, 1e-3, marks=pytest.mark.slow),
    ],
)
def test_infeasible_problem_is_noticed(strategy, optimizer, lr):
    X = np.array([[1.0], [-1.0], [1e-3]])
    model = linear_without_bias(
        States(),
        strategy=strategy,
        lower_bound=1.0,
        optimizer=optimizer,
        lr=lr,
        max_epochs=180,
    )
    with pytest.warns(ConvergenceWarning) as caught:
        model.fit(X, [2.0, 1.0, 1.0])
    (message,) = [str(warning.message) for warning in caught]
    assert "no head without bias obeys the bounds" in message
    assert "Give the head a bias or widen the bounds." in message
    ascent = fitted(model, "multiplier_ascent")
    assert set(ascent.infeasible_rows_) >= {0, 1}
    assert str(ascent.infeasible_rows_) in message
    states = [s["strategy"]["multiplier"] for s in fitted(model, "States").states_]
    assert not torch.equal(states[100], states[149])
    assert torch.equal(states[149], states[-1])  # the third look, and the end
    assert np.isfinite(model.predict(X)).all()


def test_rows_are_named_by_output():
    X = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    y = np.array([[2.0, 0.5], [1.0, 0.5], [1.0, 0.5]])
    model = linear_without_bias(lower_bound=[1.0, -np.inf], max_epochs=160)
    with pytest.warns(ConvergenceWarning, match=r"of 2 rows .* rows \[0, 1\]"):
        model.fit(X, y)


@pytest.mark.parametrize("strategy", GROWING)
@pytest.mark.parametrize(
    ("x", "bounds"),
    [
        ([1.0, -1.0], {"lower_bound": None, "upper_bound": -1.0}),
        # Either bound alone has a head.
        ([1.0, 3.0], {"lower_bound": 1.0, "upper_bound": 2.0}),
    ],
    ids=["upper", "both"],
)
def test_upper_bounds_may_be_infeasible_too(x, bounds, strategy):
    model = linear_without_bias(strategy=strategy, max_epochs=300, lr=0.01, **bounds)
    with pytest.warns(ConvergenceWarning, match="no head without bias obeys the"):
        model.fit(np.array(x)[:, None], [-1.0, 1.5])
    assert fitted(model, "multiplier_ascent").infeasible_rows_ == [0, 1]


def feasible_problem(seed):
    """Random rows that some head without bias lifts above 1, if only just."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(30, 4))
    head = rng.normal(size=4)
    f = X @ head
    X = X * np.sign(f)[:, None] * np.maximum(1, 1 / np.abs(f))[:, None]
    assert (X @ head).min() >= 1 - 1e-12
    return X, np.maximum(X @ rng.normal(size=4), 1.0)


@pytest.mark.parametrize("strategy", GROWING)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lr", [1e-9, 1e-4])
@pytest.mark.filterwarnings("ignore:training diverged")  # it has not begun
def test_slow_feasible_problems_raise_no_alarm(strategy, seed, lr):
    """Weights that hardly move: all multipliers grow linearly, as if infeasible."""
    X, y = feasible_problem(seed)
    model = linear_without_bias(
        strategy=strategy,
        lower_bound=1.0,
        optimizer=torch.optim.SGD,
        lr=lr,
        max_epochs=45,
        callbacks__multiplier_ascent__window=5,
    )
    model.fit(X, y)
    assert model.multipliers_.any()
    assert model.history_[-1, "max_violation"] > 0.1
    assert fitted(model, "multiplier_ascent").infeasible_rows_ == []


@pytest.mark.parametrize(
    "params",
    [
        {"module__bias": True},  # a constant obeys
        {"lower_bound": 0.0},  # so does nothing at all
        {"strategy": "penalty"},  # nothing grows
    ],
)
def test_problems_that_cannot_be_infeasible_are_not_searched(params):
    X, y = np.array([[1.0], [-1.0]]), [1.0, 0.0]
    params = {"lower_bound": 1.0, "max_epochs": 40, **params}
    model = linear_without_bias(callbacks__multiplier_ascent__window=5, **params)
    model.fit(X, y)
    assert fitted(model, "multiplier_ascent").looks_ == []


@pytest.mark.filterwarnings("ignore:training diverged")
def test_looking_for_infeasible_rows_changes_nothing():
    """Dropout is off meanwhile: no feature is missing, and no number is drawn."""
    X, y = feasible_problem(0)
    before, fits = torch.get_rng_state(), []
    for window in (5, 1000):
        model = linear_without_bias(
            lower_bound=1.0,
            lr=1e-9,
            max_epochs=20,
            module__hidden_layer_sizes=(8,),
            module__dropout=0.5,
            callbacks__multiplier_ascent__window=window,
        )
        fits.append(model.fit(X, y))
        assert torch.equal(torch.get_rng_state(), before)
    assert len(fitted(fits[0], "multiplier_ascent").looks_) == 3
    assert_same_state(*[state_of(model.net_) for model in fits])


def test_new_rows_start_a_new_watch():
    """What was seen of other rows says nothing, and may be of another length."""
    X, y = np.array([[1.0], [-1.0]]), np.array([2.0, 1.0])
    model = linear_without_bias(
        lower_bound=1.0,
        max_epochs=30,
        warm_start=True,
        callbacks__multiplier_ascent__window=10,
    )
    with pytest.warns(ConvergenceWarning, match="no head without bias"):
        model.fit(X, y)
    assert fitted(model, "multiplier_ascent").infeasible_rows_ == [0, 1]
    model.fit(np.array([[1.0], [2.0], [0.5]]), [2.0, 3.0, 1.5])
    assert fitted(model, "multiplier_ascent").infeasible_rows_ == []
    assert len(fitted(model, "multiplier_ascent").looks_) == 3
    assert model.multipliers_.any()
