"""`enforce` with upper bounds: on a domain with a proof, by the bias, for a risk."""

import copy
import functools

import numpy as np
import pytest
import torch
from marks import mostly_slow
from networks import descend
from problems import make_data
from torch import nn

from sklpos import MLP, PositiveOutputRegressor
from sklpos.certificates import Box
from sklpos.nets.bounded import BoundedModel
from sklpos.nets.bounds import Bounds
from sklpos.nets.rows import predict_rows
from sklpos.repair.provable import UnprovableError, repair_on_domain
from sklpos.repair.shift import shift_bias

X, Y = make_data(100, [[5.0, -3.0], [-2.5, 4.0]], shift=-1.5)
LOW, HIGH = X.min(axis=0), X.max(axis=0)
BOUNDS = {
    "both": ((0.0, 0.0), (4.0, 3.0)),
    "upper": (None, (4.0, 3.0)),
    "mixed": ((None, 0.0), (4.0, None)),
    "one of each": ((0.0, -np.inf), (4.0, np.inf)),
}


@functools.cache
def trained(lower, upper, **params):
    model = PositiveOutputRegressor(
        module=MLP,
        module__hidden_layer_sizes=(10, 10),
        max_epochs=25,
        lr=0.02,
        lr_schedule=None,
        random_state=0,
        on_violated_y="ignore",
        lower_bound=lower,
        upper_bound=upper,
        **params,
    )
    return model.fit(X, Y)


def make_model(bounds="both", **params):
    """A copy of a model that is fitted once."""
    return copy.deepcopy(trained(*BOUNDS[bounds], **params))


def read(bounds):
    return Bounds.read(*BOUNDS[bounds], n_outputs=2)


def column(module, j, sign):
    """A network of one output, or of its negative."""
    head = nn.utils.skip_init(nn.Linear, 2, 1, bias=False)
    with torch.no_grad():
        head.weight.copy_(sign * torch.eye(2)[[j]])
    return nn.Sequential(module, head.to(next(module.parameters())))


def attacked(model, domain):
    """Corners, random points, and what descent and ascent reach from these."""
    rng = np.random.default_rng(1)
    if domain == "all":
        return rng.normal(size=(3000, 2)) * 10.0 ** rng.uniform(-1, 6, (3000, 1))
    corners = np.stack(np.meshgrid(*zip(LOW, HIGH, strict=True)), -1).reshape(-1, 2)
    inside = rng.uniform(LOW, HIGH, size=(3000, 2))
    reached = [
        descend(column(model.module_, j, sign), inside[:200], LOW, HIGH)
        for j in (0, 1)
        for sign in (1.0, -1.0)
    ]
    return np.vstack([corners, inside, *reached])


def assert_within(model, points, bounds):
    predictions = model.predict(points)
    assert bounds.contain(predictions).all()
    for row in points[::500]:
        assert bounds.contain(model.predict(row[None])).all()
    certificate = model.certificate_
    assert certificate
    assert (certificate.proved_min_ <= predictions.min(axis=0)).all()
    assert (certificate.proved_max_ >= predictions.max(axis=0)).all()


@pytest.mark.parametrize("dtype", mostly_slow(["float32", "float64"], "float32"))
@pytest.mark.filterwarnings("ignore:the repair raised the training error")
@pytest.mark.parametrize("domain", ["box", "all"])
@pytest.mark.parametrize("bounds", BOUNDS)
def test_both_bounds_hold_on_the_domain(bounds, domain, dtype):
    assert_enforced(bounds, domain, dtype)


@pytest.mark.filterwarnings("ignore:the repair raised the training error")
@pytest.mark.parametrize("domain", ["box", "all"])
def test_both_bounds_hold_on_the_domain_without_balance(domain):
    assert_enforced("both", domain, "float64", balance=False)


def assert_enforced(bounds, domain, dtype, balance=True):
    model = make_model(bounds, dtype=dtype, balance=balance)
    wanted = read(bounds)
    assert not wanted.contain(model.predict(attacked(model, domain))).all()
    model.enforce(domain=domain, time_limit=1)
    assert_within(model, attacked(model, domain), wanted)
    assert wanted.contain(model.predict(X)).all()
    assert model.certify(domain, time_limit=5).status_ == "verified"
    assert model.repair_.balanced_.tolist() == [balance] * 2
    if balance:
        tolerance = 1e-9 if dtype == "float64" else 1e-5
        gap = np.abs(model.predict(X).mean(axis=0) - Y.mean(axis=0))
        assert (gap <= tolerance * Y.std(axis=0)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_certified_training_ends_with_a_proof_of_both_sides(dtype):
    model = make_model(strategy="certified", dtype=dtype)
    assert_within(model, attacked(model, "box"), read("both"))
    assert model.repair_.balanced_.all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the repair raised the training error")
def test_hulls_balls_and_integers():
    model = make_model()
    rng = np.random.default_rng(2)
    model.enforce(2 * X[:30], domain="hull", time_limit=1)
    mixed = rng.dirichlet(0.1 * np.ones(30), size=3000) @ (2 * X[:30])
    assert_within(model, mixed, read("both"))
    model.enforce(X, domain="ball", radius=0.3, time_limit=1)
    assert (model.certificate_.rows_ == "verified").all()
    moved = X[:, None] + 0.3 * rng.uniform(-1, 1, (100, 30, 2))
    assert_within(model, moved.reshape(-1, 2), read("both"))
    model.enforce(domain=([-3, -3], [3, 3]), categorical=[0], time_limit=1)
    grid = np.stack(np.meshgrid(np.arange(-3, 4), np.linspace(-3, 3, 301)), -1)
    assert_within(model, grid.reshape(-1, 2), read("both"))


def test_without_time_the_intervals_and_the_mix_do():
    model = make_model().enforce(domain="box", time_limit=0)
    assert_within(model, attacked(model, "box"), read("both"))
    slow = make_model().enforce(domain="box", time_limit=60)
    assert (slow.repair_.cost_ < model.repair_.cost_).all()


def test_the_mirrored_model_is_repaired_to_the_mirrored_head():
    module = make_model().fitted_.as_trained.module
    heads = []
    for sign in (1.0, -1.0):
        flipped = copy.deepcopy(module)
        with torch.no_grad():
            for parameter in flipped.head.parameters():
                parameter.mul_(sign)
        sides = np.sort([sign * np.zeros(2), sign * np.array([4.0, np.inf])], axis=0)
        model = BoundedModel(flipped, head="head", bounds=Bounds(*sides))
        _, found = repair_on_domain(model, Box(LOW, HIGH), exchange=False)
        np.testing.assert_array_equal(found.certificate.required_min_, sides[0])
        heads.append(sign * found.coef)
    np.testing.assert_allclose(*heads, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("domain", ["box", "all"])
def test_equal_bounds_are_a_constant(domain, dtype):
    model = PositiveOutputRegressor(
        max_epochs=2,
        random_state=0,
        dtype=dtype,
        lower_bound=(0.125, 0.0),
        upper_bound=(0.125, 4.0),
        on_violated_y="ignore",
        balance=False,
    ).fit(X, Y)
    model.enforce(domain=domain, time_limit=1)
    assert model.certificate_
    predictions = model.predict(attacked(model, domain))
    np.testing.assert_array_equal(predictions[:, 0], 0.125)
    assert ((predictions[:, 1] >= 0) & (predictions[:, 1] <= 4)).all()
    assert model.certify(domain, time_limit=5)


def test_a_head_without_bias_shrinks_into_bounds_around_zero():
    model = PositiveOutputRegressor(
        module__bias=False,
        module=MLP,
        module__hidden_layer_sizes=(10,),
        max_epochs=10,
        random_state=0,
        lower_bound=-1.0,
        upper_bound=2.0,
        on_violated_y="ignore",
        balance=False,
    ).fit(X, Y)
    for domain in ("box", "all"):
        model.enforce(domain=domain, time_limit=1)
        assert_within(model, attacked(model, domain), Bounds.read(-1.0, 2.0, 2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bias_is_shifted_in_either_direction(dtype):
    model = make_model("one of each", dtype=dtype, repair=None)
    rows = X[:40]
    before = model.predict(rows).astype(float)
    ends = before.min(axis=0), before.max(axis=0)
    module = model.module_
    cases = {
        (0.5, 9.0): 0.5,
        (-0.5, 9.0): 0.0,
        (-9.0, -0.5): -0.5,
        (0.5, 0.51): 0.5,
        (-np.inf, -1.0): -1.0,
        (-np.inf, np.inf): 0.0,
    }
    for (low, high), shift in cases.items():
        bounds = Bounds(ends[0] + low, ends[1] + high)
        bounded = BoundedModel(module, head="head", bounds=bounds, scale=np.ones(2))
        shifted, found = shift_bias(bounded, rows)
        np.testing.assert_allclose(found, shift, atol=1e-5)
        assert bounds.contain(predict_rows(shifted, rows)).all()


def test_a_shift_that_does_not_exist_is_refused():
    model = make_model()
    far = 3 * X
    before = model.predict(far)
    with pytest.raises(ValueError, match=r"no shift of the bias .* adjust='head'"):
        model.enforce(far, adjust="bias")
    with pytest.raises(UnprovableError, match=r"no shift .* too wide.* adjust='head'"):
        model.enforce(domain=(3 * LOW, 3 * HIGH), adjust="bias", time_limit=2)
    with pytest.raises(ValueError, match=r"no direction .* leave risk_level out"):
        model.enforce(far, adjust="bias", risk_level=0.1)
    np.testing.assert_array_equal(model.predict(far), before)


def test_a_shift_on_a_domain_lowers_what_has_an_upper_bound():
    model = make_model("mixed")
    before = model.predict(X)
    model.enforce(domain="box", adjust="bias", time_limit=3)
    change = model.predict(X) - before
    np.testing.assert_allclose(change, change[[0]].repeat(len(X), axis=0))
    assert change[0, 0] <= 0 <= change[0, 1]
    assert_within(model, attacked(model, "box"), read("mixed"))


@pytest.mark.filterwarnings("ignore:.* is distributed differently")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_risk_of_both_directions(dtype):
    model = make_model("mixed", dtype=dtype)
    holdout = 2 * np.random.default_rng(7).normal(size=(300, 2))
    assert not model.certify_risk(holdout)
    before = model.predict(holdout).astype(float)
    model.enforce(holdout, adjust="bias", risk_level=0.05)
    risk = model.certify_risk(holdout)
    assert risk
    assert risk.violation_rate_.sum() > 0
    np.testing.assert_array_equal(risk.above_rate_, [risk.violation_rate_[0], 0])
    np.testing.assert_array_equal(risk.below_rate_, [0, risk.violation_rate_[1]])
    shift = (model.predict(holdout) - before).mean(axis=0)
    assert shift[0] < 0 < shift[1]
    np.testing.assert_allclose(-shift[0] / shift[1], np.divide(*Y.std(axis=0)), 1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_a_shift_holds_for_rows_alone_and_in_batches(seed):
    # The bias is raised until the lowest row is on the bound, where rounding decides.
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(200, 5)).astype(np.float32)
    params = {"strategy": "unconstrained", "repair": None, "max_epochs": 3}
    model = PositiveOutputRegressor(MLP, **params, random_state=seed)
    model.fit(rows, np.maximum(3 * rows[:, 0], 0)).enforce(rows, adjust="bias")
    parts = [model.predict(rows[k : k + 1]) for k in range(200)]
    parts += [model.predict(rows[:n]) for n in (3, 7, 200)]
    assert min(part.min() for part in parts) >= 0
