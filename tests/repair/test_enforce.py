"""`enforce`: on a domain with a proof, for a share of a population, by the bias."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from marks import mostly_slow
from problems import make_data
from torch import nn

from sklpos import MLP, PositiveOutputRegressor
from sklpos.certificates import Box, Hull
from sklpos.nets.head import write_head
from sklpos.nets.rows import predict_rows
from sklpos.repair.domain_task import DomainTask

WIDE = [-3, -3], [3, 3]
SLOPE = [[5.0, -3.0], [-2.5, 4.0]]


X, Y = make_data(100, SLOPE, shift=-1.5)
y = Y[:, 0]


@functools.cache
def trained(outputs, **params):
    defaults = {
        "module": MLP,
        "module__hidden_layer_sizes": (10, 10),
        "max_epochs": 25,
        "lr": 0.02,
    }
    model = PositiveOutputRegressor(
        **(defaults | {"random_state": 0, "lr_schedule": None} | params)
    )
    return model.fit(X, Y if outputs > 1 else y)


def make_model(outputs=1, **params):
    """A copy of a model that is fitted once."""
    return copy.deepcopy(trained(outputs, **params))


def inside(domain, X, low, high, n=4000, seed=1):
    """Points of a domain: its corners, its border, and random ones."""
    rng = np.random.default_rng(seed)
    if domain == "hull":
        mixed = rng.dirichlet(np.full(len(X), 0.03), size=n) @ X
        return np.vstack([X, mixed])
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True)), -1).reshape(-1, 2)
    points = rng.uniform(low, high, size=(n, 2))
    border = points.copy()
    border[: n // 2, 0] = low[0]
    border[n // 2 :, 1] = high[1]
    return np.vstack([corners, points, border])


@pytest.mark.parametrize(
    ("dtype", "balance"),
    [
        ("float32", True),
        pytest.param("float64", True, marks=pytest.mark.slow),
        pytest.param("float64", False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("domain", ["box", "hull", "own"])
def test_the_bound_holds_on_the_domain(domain, dtype, balance):
    model = make_model(dtype=dtype, balance=balance)
    low, high = X.min(axis=0), X.max(axis=0)
    if domain == "own":
        low, high = low - 0.5, high + 0.5
    rows = 2 * X if domain == "hull" else None
    points = inside(domain, rows, low, high)
    assert model.predict(points).min() < 0  # there is something to repair
    asked = (low, high) if domain == "own" else domain
    assert model.enforce(rows, domain=asked, time_limit=5) is model
    assert model.certificate_
    lowest = model.predict(points).min()
    assert lowest >= model.certificate_.proved_min_[0] >= 0
    assert model.predict(X).min() >= 0
    assert type(model.module_.head) is nn.Linear
    assert model.repair_.balanced_.tolist() == [balance]
    if balance:
        tolerance = 1e-9 if dtype == "float64" else 1e-5
        assert abs(model.predict(X).mean() - y.mean()) <= tolerance * y.std()


def test_the_proof_is_one_of_the_module_it_comes_with():
    model = make_model().enforce(domain="box")
    again = model.certify("box", time_limit=20)
    assert again.status_ == "verified"
    np.testing.assert_array_equal(again.domain_.low, model.certificate_.domain_.low)
    assert "box" not in repr(model.certificate_).lower().split("verified")[0]
    assert pickle.loads(pickle.dumps(model)).certificate_


def test_balls_and_integers():
    model = make_model()
    model.enforce(X, domain="ball", radius=0.3)
    assert (model.certificate_.rows_ == "verified").all()
    moved = X[:, None] + 0.3 * np.random.default_rng(0).uniform(-1, 1, (100, 50, 2))
    assert model.predict(moved.reshape(-1, 2)).min() >= 0
    model.enforce(domain=([-3, -3], [3, 3]), categorical=[0])
    assert model.certificate_
    grid = np.stack(np.meshgrid(np.arange(-3, 4), np.linspace(-3, 3, 301)), -1)
    assert model.predict(grid.reshape(-1, 2)).min() >= 0


def test_every_real_input():
    model = make_model(random_state=1)
    far = 1e6 * np.random.default_rng(0).normal(size=(1000, 2))
    assert model.predict(far).min() < 0
    model.enforce(domain="all")
    assert model.certificate_
    assert model.predict(far).min() >= 0
    assert (model.module_.head.weight >= 0).all()  # over ReLU nothing else holds


def test_exchange_is_nearer_than_intervals():
    on_rows, intervals, exchange = (
        model.repair_.cost_[0]
        for model in (
            make_model(),
            make_model().enforce(domain=WIDE, time_limit=0),
            make_model().enforce(domain=WIDE),
        )
    )
    assert on_rows * (1 - 1e-6) < exchange < on_rows + 0.7 * (intervals - on_rows)


def test_outputs_are_independent_and_free_ones_stay():
    model = make_model(outputs=2, lower_bound=(0.0, -np.inf))
    before = model.predict(X)
    model.enforce(domain="box")
    np.testing.assert_allclose(model.predict(X)[:, 1], before[:, 1], atol=1e-6)
    points = inside("box", X, X.min(axis=0), X.max(axis=0))
    assert model.predict(points)[:, 0].min() >= 0
    assert model.predict(points)[:, 1].min() < 0
    both = make_model(outputs=2, lower_bound=(0.0, -0.1)).enforce(domain="box")
    assert (both.predict(points).min(axis=0) >= [0.0, -0.1]).all()


@pytest.mark.parametrize("seed", mostly_slow(range(2), 0))
def test_without_time_the_rest_is_closed(seed):
    """10 features: branch and bound has no chance; nothing is promised that is not."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200, 10))
    y = np.maximum(X[:, 0] * X[:, 1] - X[:, 2], 0)
    model = PositiveOutputRegressor(
        strategy="penalty", max_epochs=15, random_state=seed
    ).fit(X, y)
    low, high = X.min(axis=0), X.max(axis=0)
    trained = predict_rows(model.fitted_.as_trained.module, X)[:, 0]
    for limit in (0.0, 0.3):
        model.enforce(domain="box", time_limit=limit)
        assert model.certificate_
        change = np.mean((model.predict(X) - trained) ** 2)  # the head that was chosen
        np.testing.assert_allclose(change, model.repair_.cost_[0], rtol=1e-6)
        points = rng.uniform(low, high, size=(5000, 10))
        corners = np.where(rng.random((5000, 10)) < 0.5, low, high)
        assert model.predict(np.vstack([points, corners])).min() >= 0
        assert abs(model.predict(X).mean() - y.mean()) < 1e-9 * y.std()


def test_the_distance_of_heads_bounds_that_of_predictions():
    model = make_model(outputs=2)
    domain = Box([-2, -2], [2, 2])
    task = DomainTask(model.fitted_.as_trained, domain)
    other = task.start * (1 + 1e-3 * np.random.default_rng(0).normal(size=(2, 11)))
    points = np.random.default_rng(1).uniform(-2, 2, size=(2000, 2))
    one = predict_rows(task.module, points)
    write_head(task.head, other)
    gap = np.abs(predict_rows(task.module, points) - one).max(axis=0)
    distance = task.distance(other, task.start)
    assert (gap <= distance).all()
    assert (distance < 100 * gap).all()


@pytest.mark.filterwarnings("ignore:.* far outside the range")
def test_rows_are_held_beside_the_domain():
    model = make_model()
    far = 6 * np.random.default_rng(3).normal(size=(200, 2))
    model.enforce(far, domain=([0.0, 0.0], [0.2, 0.2]))
    assert model.certificate_
    assert model.predict(far).min() >= 0
    kept = model.enforce(np.vstack([X, far])).predict(X).min()
    assert kept >= 0
    assert model.certificate_ is None
    held = model.predict(far).argmin()
    model.enforce(domain=([0.0, 0.0], [0.2, 0.2]))  # rows that held it up are kept
    assert model.predict(far[[held]])[0] >= 0


def test_after_partial_fit_there_is_no_balance():
    model = make_model().partial_fit(X, y)
    assert model.certificate_ is None
    model.enforce(domain="box", time_limit=5)
    assert model.certificate_
    assert not model.repair_.balanced_.any()
    assert make_model().partial_fit(X, y).enforce(domain="all").certificate_


@pytest.mark.parametrize("domain", ["box", "all"])
def test_a_head_without_bias(domain):
    model = make_model(module__bias=False)
    model.enforce(domain=domain, time_limit=5)
    assert model.certificate_
    points = inside("box", X, X.min(axis=0), X.max(axis=0))
    assert model.predict(points).min() >= 0


@pytest.mark.filterwarnings("ignore:.* far outside the range")
def test_rows_are_held_where_nothing_can_be_lifted():
    """Without a bias the head of the domain alone would leave rows below."""
    model = make_model(module__bias=False)
    far = 6 * np.random.default_rng(3).normal(size=(200, 2))
    assert model.predict(far).min() < 0
    model.enforce(far, domain=([1.0, -1.0], [1.1, -0.9]), time_limit=2)
    assert model.certificate_
    assert model.predict(far).min() >= 0


@pytest.mark.filterwarnings("ignore:the repair raised the training error")
def test_what_cannot_be_is_refused_and_nothing_is_lost():
    linear = {"module__bias": False, "module__hidden_layer_sizes": ()}
    bound = {"lower_bound": 1.0, "on_violated_y": "ignore", "repair": None}
    model = make_model(**bound, **linear)
    model.enforce(domain=([1, 1], [2, 2]), time_limit=2)
    before, certificate = model.predict(X), model.certificate_
    with pytest.raises(ValueError, match="no head was proved"):
        model.enforce(domain=WIDE, time_limit=0.5)  # at 0 it predicts 0
    np.testing.assert_array_equal(model.predict(X), before)
    assert model.certificate_ is certificate


@pytest.mark.parametrize("adjust", ["head", "bias"])
def test_a_head_too_large_for_its_dtype_is_refused(adjust):
    model = PositiveOutputRegressor(MLP, dtype="float32", max_epochs=2, random_state=0)
    model.fit(X, 1e12 * y)
    before, low = model.predict(X), np.full(2, -1e36)
    with pytest.raises(ValueError, match="X and y are too large"):
        model.enforce(domain=(low, -low), adjust=adjust, time_limit=1)
    np.testing.assert_array_equal(model.predict(X), before)


def test_balance_that_cannot_be_kept_is_dropped():
    with pytest.warns(UserWarning, match="balance was dropped"):
        model = make_model(lower_bound=3.0, on_violated_y="ignore")
    with pytest.warns(UserWarning, match="balance was dropped"):
        model.enforce(domain="box", time_limit=5)
    assert model.certificate_
    assert model.predict(X).min() >= 3.0


def test_a_domain_that_holds_already_changes_little():
    model = make_model()
    before, cost = model.predict(X), model.repair_.cost_
    best = X[np.argmax(before)]
    model.enforce(domain=(best - 0.01, best + 0.01))
    assert model.certificate_
    np.testing.assert_allclose(model.repair_.cost_, cost, rtol=0.1)
    np.testing.assert_allclose(model.predict(X), before, atol=0.05 * before.std())


def test_everywhere_needs_no_repair(everywhere_strategy):
    model = make_model(strategy=everywhere_strategy)
    before = pickle.dumps(model.module_.state_dict())
    for request in ({"domain": "box"}, {"domain": "all"}):
        assert model.enforce(**request).certificate_
    model.enforce(X, adjust="bias", risk_level=0.1)
    assert pickle.dumps(model.module_.state_dict()) == before
    assert model.repair_ is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bias_shift_by_the_largest_violation(dtype):
    model = make_model(dtype=dtype, outputs=2, lower_bound=(0.0, -np.inf))
    rows = 3 * np.random.default_rng(5).normal(size=(300, 2))
    before = model.predict(rows).astype(float)
    assert before.min() < 0
    model.enforce(rows, adjust="bias")
    change = model.predict(rows) - before
    assert model.predict(rows)[:, 0].min() >= 0
    np.testing.assert_allclose(change[:, 0], -before[:, 0].min(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(change[:, 1], 0)
    assert not model.repair_.balanced_[0]
    assert model.repair_.balanced_[1]
    again = model.predict(rows)
    np.testing.assert_array_equal(
        model.enforce(rows, adjust="bias").predict(rows), again
    )


def test_bias_shift_on_a_domain():
    model, head = make_model(), make_model().enforce(domain=WIDE, time_limit=5)
    before = model.predict(X)
    model.enforce(domain=WIDE, adjust="bias", time_limit=5)
    assert model.certificate_
    change = model.predict(X) - before
    np.testing.assert_allclose(change, change[0])
    points = inside("box", X, *WIDE)
    assert 0 <= model.predict(points).min() < 0.05 * y.std()
    assert model.score(X, y) < head.score(X, y)


@pytest.mark.parametrize(
    ("risk_level", "dtype"), [(0.05, "float32"), (0.06, "float64")]
)
def test_statistical_shift_is_the_smallest(risk_level, dtype):
    model = make_model(dtype=dtype)
    holdout = 2 * np.random.default_rng(7).normal(size=(200, 2))
    assert not model.certify_risk(holdout, risk_level=risk_level)
    before = model.predict(holdout).astype(float)
    model.enforce(holdout, adjust="bias", risk_level=risk_level)
    certificate = model.certify_risk(holdout, risk_level=risk_level)
    assert certificate
    assert certificate.violation_rate_[0] > 0  # not more than is needed
    shift = (model.predict(holdout) - before).mean()
    one_less = np.sort(before + shift)[np.count_nonzero(before + shift < -1e-5)]
    assert one_less == pytest.approx(0, abs=1e-4)


def test_the_shifted_risk_is_controlled_in_the_population():
    model = make_model()
    rng = np.random.default_rng(0)
    population = model.predict(2 * rng.normal(size=(100_000, 2)))
    bias = model.module_.head.bias.item()
    failures = 0
    for _ in range(200):
        holdout = 2 * rng.normal(size=(100, 2))
        with torch.no_grad():
            model.module_.head.bias.fill_(bias)
        model.enforce(holdout, adjust="bias", risk_level=0.1, confidence=0.9)
        shift = model.module_.head.bias.item() - bias
        failures += np.mean(population + shift < 0) > 0.1
    assert failures / 200 <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 200)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "needs X, rows to protect, or domain"),
        ({"X": "box"}, "X='box' is a domain, not rows; write domain='box'"),
        ({"domain": "cube"}, "domain='cube' is unknown"),
        ({"domain": "hull"}, "needs X"),
        ({"domain": "ball", "X": X}, "needs radius"),
        ({"domain": "box", "adjust": "luck"}, "adjust='luck' must be one of 'head'"),
        ({"domain": "box", "risk_level": 0.1}, "risk_level=0.1 needs adjust='bias'"),
        (
            {"X": X, "risk_level": 0.1},
            "risk_level=0.1 needs adjust='bias'",
        ),
        (
            {"X": X[:20], "risk_level": 0.01, "adjust": "bias"},
            "20 rows prove no risk",
        ),
        ({"domain": ([1, 1], [0, 0])}, "low > high"),
        ({"domain": ([0.0], [1.0])}, "1 features"),
        ({"X": np.empty((0, 2)), "adjust": "bias"}, "minimum of 1 is required"),
    ],
)
def test_bad_requests_are_refused_and_nothing_is_lost(request_, message):
    model = trained(1)
    before, repair = model.predict(X), model.repair_
    with pytest.raises(ValueError, match=message):
        model.enforce(**request_)
    np.testing.assert_array_equal(model.predict(X), before)
    assert model.repair_ is repair


def test_the_bias_cannot_be_shifted_where_there_is_none():
    model = make_model(module__bias=False)
    with pytest.raises(ValueError, match="needs a head with a bias"):
        model.enforce(X, adjust="bias")


def test_layers_that_are_not_understood_are_refused():
    class Odd(nn.Module):
        def forward(self, x):
            return x.sin()

    def build(n_features_in):
        return nn.Sequential(nn.Linear(n_features_in, 8), Odd(), nn.Linear(8, 1))

    model = PositiveOutputRegressor(build, max_epochs=5, random_state=0)
    model.fit(X, y)
    before = model.predict(X)
    with pytest.raises(ValueError, match="Odd"):
        model.enforce(domain="box")
    np.testing.assert_array_equal(model.predict(X), before)


def test_a_domain_object_can_be_given():
    assert make_model().enforce(domain=Hull(X[:10])).certificate_


def test_the_earlier_name_of_adjust_still_works_and_warns():
    model = make_model()
    with pytest.warns(FutureWarning, match="is now called adjust"):
        model.enforce(X, method="bias")
    assert "rows that enforce was given" in model.repair_.promise_
