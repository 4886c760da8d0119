"""No prediction below the bound, and the mean kept: repair, enforce, construction."""

import copy
import functools

import numpy as np
import pytest
import torch
from properties import (
    assert_balanced,
    assert_obeys,
    assert_same_bits,
    assert_same_training_state,
    training_state,
)
from scipy.optimize import minimize
from sklearn.base import clone

from sklpos import PositiveOutputRegressor
from sklpos.nets.rows import obeys
from sklpos.repair import head
from sklpos.strategies import STRATEGIES, Activation

ON_ROWS = [
    name
    for name, strategy in STRATEGIES.items()
    if strategy.guarantee in ("none", "training")
]
BALANCE = {"float32": 1e-5, "float64": 1e-9}


# Repair


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 5.0), ("float64", 0.0)])
def test_repair_obeys_without_tolerance(small, data, repaired_strategy, dtype, bound):
    model = small(strategy=repaired_strategy, lower_bound=bound, batch_size=16)
    X, Y = data.X.astype(dtype), data.Y + bound
    model.fit(X, Y)
    assert model.predict(X).dtype == dtype
    assert_obeys(model, X, bound)
    assert_balanced(model, X, Y, tolerance=BALANCE[dtype])


def test_repair_with_weights_and_a_bound_per_output(small, data, repaired_strategy):
    bounds = [0.2, -np.inf, 5.0]
    Y = np.column_stack([data.y + 0.2, data.Y[:, 1] - 3, data.Y[:, 1] + 5])
    model = small(strategy=repaired_strategy, lower_bound=bounds)
    model.fit(data.X, Y, data.weight)
    assert model.predict(data.X)[:, 1].min() < -3
    assert_obeys(model, data.X, bounds)
    assert_balanced(model, data.X, Y, data.weight)
    assert model.repair_.feasible_.all()
    assert model.repair_.balanced_.all()
    assert model.repair_.multipliers_.shape == Y.shape
    assert not model.repair_.multipliers_[:, 1].any()


def test_a_margin_that_is_too_small_is_raised(small, data, monkeypatch):
    """Bounding the rounding is an estimate; predictions are looked at all the same."""
    answers = iter([False])  # whether rounding bites is up to the processor
    monkeypatch.setattr(
        head, "obeys", lambda *args: next(answers, None) is None and obeys(*args)
    )
    model = small(strategy="unconstrained", dtype="float32", lower_bound=0.3)
    expected = small(strategy="unconstrained", dtype="float32", lower_bound=0.3)
    model.fit(data.X, data.Y + 0.3)
    monkeypatch.undo()
    expected.fit(data.X, data.Y + 0.3)
    assert_obeys(model, data.X, 0.3)
    np.testing.assert_allclose(model.repair_.margin_, 4 * expected.repair_.margin_)


@pytest.mark.parametrize("bound", [0.03, -1e5])
def test_a_bound_far_from_y_is_held_in_float32(small, data, bound):
    """The rounding of the bound itself is larger than all that y varies by."""
    y = bound + 1e-9 * (data.y - 1)
    model = small(dtype="float32", lower_bound=bound, on_violated_y="ignore")
    with pytest.warns(UserWarning, match="balance was dropped|was lost to rounding"):
        model.fit(data.X, y)
    assert_obeys(model, data.X, bound)


def test_a_repair_that_never_holds_is_an_error(small, data, monkeypatch):
    monkeypatch.setattr(head, "obeys", lambda *args: False)
    with pytest.raises(ValueError, match=r"lower=\[0.0\].*rounding"):
        small().fit(data.X, data.y)


def test_repair_leaves_the_training_state_alone(fitted, strategy):
    repaired, trained = fitted(strategy), fitted(strategy, repair=None)
    assert_same_training_state(repaired, trained)
    assert trained.repair_ is None


def test_everywhere_strategies_are_never_repaired(fitted, data, everywhere_strategy):
    fits = [fitted(everywhere_strategy, repair=repair) for repair in ("head", None)]
    assert all(model.repair_ is None for model in fits)
    assert_same_bits(*(model.predict(data.X) for model in fits))


def test_a_head_that_cannot_be_feasible(small, repaired_strategy):
    X, y = np.array([[1.0], [-1.0]]), np.array([2.0, 2.0])
    head = {"module__hidden_layer_sizes": (), "module__bias": False}
    model = small(strategy=repaired_strategy, lower_bound=1.0, **head)
    messages = ["smallest achievable violation is 1;"]
    if STRATEGIES[repaired_strategy].guarantee == "domain":
        messages.insert(0, "no head was proved")
    with pytest.warns(UserWarning, match="|".join(messages)) as seen:
        model.fit(X, y)
    for warning, message in zip(seen, messages, strict=True):
        assert message in str(warning.message)
    unrepaired = clone(model).set_params(repair=None).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), unrepaired.predict(X))
    assert not model.repair_.feasible_.any()
    np.testing.assert_allclose(model.repair_.smallest_violation_, 1.0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("balance", [True, False])
def test_repair_is_the_projection(small, data, bias, weighted, balance):
    """Against a general solver, in the coefficients of a linear model."""
    weight = data.weight if weighted else np.ones(len(data.X))
    X, y, bound = data.X, data.Y[:, 1] + 0.1, 0.1
    if not bias:
        X, bound = np.abs(X), 0.0
        y = data.Y[:, 1] + X @ [-0.8, 1.0, 0.0]
    head = {"module__hidden_layer_sizes": (), "module__bias": bias}
    model = small(
        strategy="unconstrained",
        max_epochs=40,
        lower_bound=bound,
        balance=balance,
        on_violated_y="ignore",
        **head,
    )
    before = clone(model).set_params(repair=None).fit(X, y, weight).predict(X)
    model.fit(X, y, weight)
    assert before.min() < bound - 0.1

    design = np.column_stack([X, np.ones(len(X))]) if bias else X
    share = weight / weight.sum()
    jitter = 0.03 * share @ (design - share @ design) ** 2
    gram = design.T @ (share[:, None] * design) + np.diag(jitter)
    root = np.linalg.cholesky(gram).T
    goal = root @ np.linalg.lstsq(design, before, rcond=None)[0]
    constraints = [
        {"type": "ineq", "fun": lambda v: design @ v - bound, "jac": lambda v: design}
    ]
    if balance:
        mean = share @ design
        constraints.append(
            {"type": "eq", "fun": lambda v: mean @ v - share @ y, "jac": lambda v: mean}
        )
    solution = minimize(
        lambda v: ((root @ v - goal) ** 2).sum(),
        np.linalg.lstsq(design, np.maximum(before, 1), rcond=None)[0],
        jac=lambda v: 2 * root.T @ (root @ v - goal),
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    assert solution.success
    np.testing.assert_allclose(model.predict(X), design @ solution.x, atol=1e-6)
    assert model.repair_.balanced_.all() == balance


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_targets_that_all_sit_on_the_bound_are_balanced(small, data, dtype):
    y = np.zeros(len(data.X))
    predictions = small(dtype=dtype).fit(data.X, y).predict(data.X)
    assert predictions.min() >= 0
    assert predictions.max() <= {"float32": 1e-5, "float64": 1e-8}[dtype]


def test_balance_is_dropped_with_a_warning(small, data, repaired_strategy):
    bound = data.y.mean() + 0.5
    model = small(strategy=repaired_strategy, lower_bound=bound, on_violated_y="ignore")
    with pytest.warns(UserWarning, match="balance was dropped for outputs"):
        model.fit(data.X, data.y)
    assert_obeys(model, data.X, bound)
    assert not model.repair_.balanced_.any()
    model.set_params(balance=False).fit(data.X, data.y)  # nothing to warn of


# Enforce


def test_enforce_holds_on_new_points(fitted, data, repaired_strategy):
    model = copy.deepcopy(fitted(repaired_strategy))
    if STRATEGIES[repaired_strategy].guarantee != "domain":
        assert model.predict(data.X_new).min() < 0  # there is something to repair
    state = copy.deepcopy(training_state(model))
    assert model.enforce(data.X_new) is model
    assert_obeys(model, data.X_new)
    assert_same_bits(training_state(model), state)


def enforce_in_turn(model, data):
    """The rows that held the head up before still obey."""
    held = []
    for X in (data.X, *np.split(data.X_new, 4)):
        assert_obeys(model.enforce(X), X)
        held.append(X[model.repair_.multipliers_.any(axis=1)])
    assert sum(map(len, held)) > 1
    assert_obeys(model, np.vstack(held))


def test_enforce_in_turn(fitted, data, repaired_strategy):
    model = copy.deepcopy(fitted(repaired_strategy))
    enforce_in_turn(model, data)
    assert_balanced(model, data.X, data.Y)


def test_enforce_in_turn_without_balance(small, data):
    enforce_in_turn(small(balance=False).fit(data.X, data.Y), data)


def test_enforce_on_training_and_new_rows(fitted, data, repaired_strategy):
    model = copy.deepcopy(fitted(repaired_strategy))
    together = np.vstack([data.X, data.X_new])
    assert_obeys(model.enforce(together), together)
    assert_balanced(model, data.X, data.Y)


def test_enforce_after_partial_fit_alone(small, data, repaired_strategy):
    model = small(strategy=repaired_strategy).partial_fit(data.X, data.Y)
    model.partial_fit(data.X, data.Y)
    assert model.repair_ is None
    assert model.predict(data.X_new).min() < 0
    assert_obeys(model.enforce(data.X_new), data.X_new)
    assert not model.repair_.balanced_.any()


def test_enforce_without_anything_to_do(fitted, data, everywhere_strategy):
    model = copy.deepcopy(fitted(everywhere_strategy))
    before = model.predict(data.X_new)
    assert model.enforce(data.X_new) is model
    assert_same_bits(model.predict(data.X_new), before)
    assert model.repair_ is None


# Strategies that are positive everywhere


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [
        ("float32", 0.0),
        ("float32", 0.7),
        ("float64", -0.7),
        ("float64", [0.7, -np.inf]),
    ],
)
@pytest.mark.parametrize(
    "instance",
    ["nonnegative_weights", *map(Activation, ["softplus", "exp", "relu", "square"])],
    ids=str,
)
def test_positive_everywhere(small, data, instance, bound, dtype):
    params = {"lower_bound": bound, "dtype": dtype, "on_violated_y": "ignore"}
    # Means below a bound cannot be kept.
    model = small(strategy=instance, balance=False, **params)
    model.fit(data.X, data.Y - 3 * np.isinf(bound))
    far = 100 * np.vstack([data.X_new, -data.X_new, np.eye(3), -np.eye(3)])
    assert_obeys(model, np.vstack([data.X, far]), bound)
    if isinstance(bound, list):
        assert model.predict(data.X)[:, 1].max() < 0


# The default


@functools.cache
def default(dtype="float64", upper_bound=None, n_samples=200):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, 3)) * [1.0, 1e-3, 1e4]
    signal = np.column_stack([X[:, 0], X[:, 1] * 2e3 - X[:, 0] ** 2])
    Y = np.clip(signal + 0.3 * rng.normal(size=signal.shape), 0, upper_bound)
    weight = rng.integers(1, 4, size=n_samples).astype(float)
    model = PositiveOutputRegressor(
        max_epochs=10, upper_bound=upper_bound, dtype=dtype, random_state=0
    )
    return model.fit(X, Y, weight), X, Y, weight


DEFAULTS = pytest.mark.parametrize("upper_bound", [None, 1.5])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


@DEFAULTS
@DTYPES
def test_the_default_keeps_its_bounds_wherever_gradients_lead(dtype, upper_bound):
    """From the rows, far beyond them and from the last extremes, in both directions."""
    model, X, _, _ = default(dtype, upper_bound)
    rng = np.random.default_rng(1)
    far = X * 10 ** rng.uniform(0, 12, size=(len(X), 1))
    points = torch.as_tensor(np.vstack([X, far, -far]), dtype=getattr(torch, dtype))
    for sign in (1, -1):
        for size in (0.03, 1.0):
            moved = points.clone()
            for _ in range(15):
                moved.requires_grad_()
                (slope,) = torch.autograd.grad(model.module_(moved).sum(), moved)
                # Relative steps, because the features differ in size.
                step = size * moved.detach().abs() * slope.sign()
                moved = moved.detach() - sign * step
            assert_obeys(model, moved.numpy(), 0.0, upper_bound)


@DEFAULTS
@DTYPES
def test_the_default_keeps_its_bounds_at_every_kink(dtype, upper_bound):
    """Inputs where a unit is switched, and their neighbours among the numbers."""
    model, X, _, _ = default(dtype, upper_bound)
    layer = model.module_.code
    ends = torch.cat([-layer.bias, 1 - layer.bias])
    kinks = (ends / layer.weight.sum(dim=1).repeat(2)).detach().numpy()
    column = layer.weight.detach().abs().argmax(dim=1).repeat(2).numpy()
    rows = X[np.arange(len(kinks)) % len(X)].astype(dtype)
    for value in (kinks, np.nextafter(kinks, -1e30), np.nextafter(kinks, 1e30)):
        rows[np.arange(len(kinks)), column] = value
        assert_obeys(model, rows, 0.0, upper_bound)


@pytest.mark.filterwarnings("ignore:.* far outside the range")
@DEFAULTS
@DTYPES
def test_the_default_is_balanced_and_never_repaired(dtype, upper_bound):
    model, X, Y, weight = default(dtype, upper_bound)
    assert model.repair_ is None
    assert_balanced(model, X, Y, weight, tolerance=BALANCE[dtype])
    before = model.predict(X)
    assert model.enforce(1e6 * X).repair_ is None
    assert_same_bits(model.predict(X), before)


@DEFAULTS
@DTYPES
def test_the_default_is_proved_for_every_input(dtype, upper_bound):
    certificate = default(dtype, upper_bound)[0].certify("all")
    assert certificate.status_ == "verified"
    assert (certificate.proved_min_ >= 0).all()
    assert (certificate.proved_max_ <= (upper_bound or np.inf)).all()


@pytest.mark.parametrize("n_samples", [1, 2, 3, 5])
def test_the_default_keeps_its_bounds_after_a_few_rows(n_samples):
    model, X, Y, weight = default(n_samples=n_samples)
    far = np.vstack([X, 1e3 * X, -1e3 * X, np.eye(3), -np.eye(3)])
    assert_obeys(model, far)
    # One row has no deviation to measure by.
    means = (np.average(of, axis=0, weights=weight) for of in (model.predict(X), Y))
    np.testing.assert_allclose(*means, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("strategy", ON_ROWS)
def test_far_predictions_of_the_others_do_go_below(fitted, data, strategy):
    assert fitted(strategy).predict(100 * data.X_new).min() < 0
