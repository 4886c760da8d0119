"""Certificates of upper bounds: mirrored ones, both sides at once, and none."""

import copy
import pickle

import numpy as np
import pytest
import torch
from networks import grid, outputs, random_network
from torch import nn

from sklpos import PositiveOutputRegressor
from sklpos.certificates import All, Ball, Box, Hull, certify, certify_module
from sklpos.certificates.certificate import Certificate
from sklpos.certificates.rows import certified_radius
from sklpos.nets.bounds import Bounds
from sklpos.nets.outputs import BoundedOutput
from sklpos.nets.within import keep_within

METHODS = (
    "interval",
    "crown",
    "alpha_crown",
    "branch_and_bound",
    "relu_splits",
    "milp",
    "auto",
)
ROWS = np.random.default_rng(0).uniform(-1, 1, size=(12, 2))
DOMAINS = {
    "box": Box([-1, -1], [1, 1]),
    "hull": Hull(ROWS),
    "ball": Ball(ROWS, 0.2),
    "l2": Ball(ROWS, 0.2, "l2"),
    "all": All(2),
}


def negated(module):
    """A network of -f."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        module[-1].weight.neg_()
        module[-1].bias.neg_()
    return module


def points(name, n=4000):
    """Points of a domain, by the rows of a ball."""
    rng = np.random.default_rng(1)
    if name == "box":
        return grid([-1, -1], [1, 1], 101)[None]
    if name == "hull":
        return (rng.dirichlet(0.3 * np.ones(len(ROWS)), size=n) @ ROWS)[None]
    if name == "all":
        return (rng.normal(size=(n, 2)) * 10.0 ** rng.uniform(-2, 4, (n, 1)))[None]
    moves = rng.uniform(-1, 1, size=(400, 2))
    if name == "l2":
        moves /= np.maximum(np.linalg.norm(moves, axis=1, keepdims=True), 1)
    return ROWS[:, None] + 0.2 * moves


def assert_mirrored(one, other):
    assert one.status_ == other.status_
    assert (one.method_, one.n_boxes_) == (other.method_, other.n_boxes_)
    for smallest, largest in (
        ("proved_min_", "proved_max_"),
        ("attained_min_", "attained_max_"),
        ("required_min_", "required_max_"),
    ):
        for a, b in ((smallest, largest), (largest, smallest)):
            np.testing.assert_array_equal(getattr(one, a), -getattr(other, b))
    np.testing.assert_array_equal(one.numerical_slack_, other.numerical_slack_)
    sides = {None: None, "lower": "upper", "upper": "lower"}
    assert one.broken_side_ == sides[other.broken_side_]
    if one.counterexample_ is not None:
        np.testing.assert_array_equal(one.counterexample_, other.counterexample_)
    if one.rows_ is not None:
        np.testing.assert_array_equal(one.rows_, other.rows_)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bound", [-3.0, -1.0, 0.5])
def test_an_upper_bound_is_the_lower_bound_of_the_negative(method, bound):
    module = random_network((2, 8, 1), seed=1)
    box = DOMAINS["box"]
    one = certify_module(module, box, lower_bound=bound, method=method)
    other = certify_module(
        negated(module), box, lower_bound=None, upper_bound=-bound, method=method
    )
    assert_mirrored(one, other)


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_domain_is_mirrored(domain, dtype):
    module = random_network((2, 8, 2), seed=2, dtype=dtype)
    lower, upper = [-2.0, -np.inf], [np.inf, 1.0]
    one = certify_module(module, domain, lower_bound=lower, upper_bound=upper)
    other = certify_module(
        negated(module),
        domain,
        lower_bound=np.negative(upper),
        upper_bound=np.negative(lower),
    )
    # The columns have another order, so a deadline or a tie may end elsewhere.
    assert one.status_ == other.status_
    np.testing.assert_allclose(one.attained_min_, -other.attained_max_)
    np.testing.assert_array_equal(one.numerical_slack_, other.numerical_slack_)


# Integer programmes are of one box or hull.
PAIRS = [
    (name, method)
    for name in DOMAINS
    for method in METHODS
    if method != "milp" or name not in ("ball", "l2")
]


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_predictions_lie_within_what_is_proved(name, method):
    domain = DOMAINS[name]
    for seed, dtype in enumerate([torch.float32, torch.float64]):
        module = random_network((2, 8, 6, 2), seed=seed, dtype=dtype)
        parts = points(name)
        values = outputs(module, parts.reshape(-1, 2)).reshape(*parts.shape[:2], 2)
        flat = values.reshape(-1, 2)
        # One output clearly holds both bounds on the points, the other neither.
        lower = [flat[:, 0].min() - 0.5, np.quantile(flat[:, 1], 0.2)]
        upper = [flat[:, 0].max() + 0.5, np.quantile(flat[:, 1], 0.8)]
        found = certify_module(
            module,
            domain,
            lower_bound=lower,
            upper_bound=upper,
            method=method,
            time_limit=3,
        )
        assert (found.proved_min_ <= flat.min(axis=0)).all()
        assert (found.proved_max_ >= flat.max(axis=0)).all()
        assert (found.proved_min_ <= found.attained_min_).all()
        assert (found.proved_max_ >= found.attained_max_).all()
        assert (found.attained_min_ <= found.attained_max_).all()
        assert found.status_ != "verified"
        if found.status_ == "falsified":
            value = outputs(module, found.counterexample_[None])[0]
            broken = value < lower if found.broken_side_ == "lower" else value > upper
            assert broken.any()
        # Of a ball, each row has its own verdict.
        if found.rows_ is not None:
            outside = ((values < lower) | (values > upper)).any(axis=(1, 2))
            assert (found.rows_[outside] != "verified").all()


def extremes(module):
    values = outputs(module, grid([-1, -1], [1, 1], 301))
    return values.min(axis=0), values.max(axis=0)


@pytest.mark.parametrize("method", ["auto", "branch_and_bound", "relu_splits", "milp"])
def test_the_verdict_of_both_sides_is_that_of_a_dense_grid(method):
    box = DOMAINS["box"]
    for seed in range(2):
        module = random_network((2, 8, 2), seed=seed)
        least, most = extremes(module)
        for below, above in ((0.1, 0.1), (-0.1, 0.1), (0.1, -0.1), (0.1, None)):
            upper = None if above is None else most + above
            found = certify_module(
                module, box, lower_bound=least - below, upper_bound=upper, method=method
            )
            expected = "falsified" if -0.1 in (below, above) else "verified"
            assert found.status_ == expected
            side = {(-0.1, 0.1): "lower", (0.1, -0.1): "upper"}.get((below, above))
            assert found.broken_side_ == side
            assert bool(found) == (expected == "verified")


def test_the_range_of_both_sides_is_closed_up_to_a_tolerance():
    module = random_network((2, 8, 2), seed=0)
    least, most = extremes(module)
    found = certify_module(
        module, DOMAINS["box"], lower_bound=0, upper_bound=0, tolerance=1e-3
    )
    np.testing.assert_allclose(found.proved_min_, least, atol=2e-3)
    np.testing.assert_allclose(found.proved_max_, most, atol=2e-3)
    assert (found.attained_min_ - found.proved_min_ <= 1e-3 + 1e-9).all()
    assert (found.proved_max_ - found.attained_max_ <= 1e-3 + 1e-9).all()
    # The largest violation of the four.
    assert found.broken_side_ == ("lower" if -least.min() > most.max() else "upper")


def test_a_side_without_a_bound_is_not_searched():
    module = random_network((2, 16, 16, 1), seed=0)
    found = certify_module(module, DOMAINS["box"], lower_bound=-1e3, upper_bound=None)
    assert found.method_ == "interval"
    assert np.isfinite(found.attained_max_).all()
    free = certify_module(module, DOMAINS["box"], lower_bound=None)
    assert free
    assert np.isfinite(free.proved_min_).all()
    assert np.isfinite(free.attained_max_).all()
    assert certify_module(module, All(2), lower_bound=None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("domain", ["box", "hull", "ball", "all"])
def test_a_constant_is_certified_as_one(domain, dtype):
    module = random_network((2, 8, 1), seed=0, dtype=dtype)
    with torch.no_grad():
        module[-1].weight.zero_()
        module[-1].bias.fill_(0.1)
    for lower, upper in ((0.1, 0.1), (0.0, 0.1), (0.1, 1.0)):
        found = certify_module(
            module,
            DOMAINS[domain],
            lower_bound=lower,
            upper_bound=upper,
            method="crown",
        )
        assert found.required_max_[0] == upper
        # The nearest number of float32 is above 0.1.
        above = module[-1].bias.item() > upper
        assert found.status_ == ("falsified" if above else "verified")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_bounded_features_bound_both_sides_everywhere(activation, dtype):
    module = random_network((2, 8, 2), activation, seed=0, dtype=dtype)
    size = module[-1].weight.detach().double().abs().sum(1)
    bias = module[-1].bias.detach().double()
    found = certify_module(
        module, All(2), lower_bound=bias - size - 1e-3, upper_bound=bias + size + 1e-3
    )
    assert found.status_ == "verified"
    far = points("all")[0]
    assert (outputs(module, far) <= found.proved_max_).all()
    assert (outputs(module, far) >= found.proved_min_).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_bias_of_any_size_is_an_exact_bound(sign):
    """A sum that starts at its bias is not rounded to below it, in the proof either."""
    module = random_network((2, 8, 1), "hardtanh", seed=0)
    with torch.no_grad():
        module[-1].weight.copy_(sign * 10 * module[-1].weight.abs())
        module[-1].bias.fill_(9.9e-8)
    found = certify_module(module, All(2), lower_bound=None)
    reached = found.proved_min_ if sign > 0 else found.proved_max_
    assert reached[0] == 9.9e-8


def test_a_falling_head_stays_below_its_bias_everywhere():
    module = random_network((2, 8, 1), seed=0, dtype=torch.float32)
    with torch.no_grad():
        module[-1].weight.copy_(-module[-1].weight.abs())
    bias = module[-1].bias.item()
    found = certify_module(module, All(2), lower_bound=None, upper_bound=bias)
    assert found
    assert found.proved_max_[0] == bias
    assert found.proved_min_[0] == -np.inf


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)
def test_output_activations_hold_both_bounds_by_construction(domain):
    bounds = Bounds.read([0.0, None, 1.0, None], [5.0, 2.0, None, None], 4)
    module = BoundedOutput(nn.Linear(2, 4), "softplus", bounds).eval()
    found = certify(module, domain, lower_bound=bounds.lower, upper_bound=bounds.upper)
    assert found.status_ == "verified"
    np.testing.assert_array_equal(found.proved_min_, bounds.lower)
    np.testing.assert_array_equal(found.proved_max_, bounds.upper)
    for j in (0, 1):
        lower, upper = bounds.lower.copy(), bounds.upper.copy()
        upper[j] -= 0.1
        found = certify(module, domain, lower_bound=lower, upper_bound=upper)
        assert found.status_ == "unknown"
    with torch.no_grad():
        module.scale.neg_()
    assert not certify(
        module, domain, lower_bound=bounds.lower, upper_bound=bounds.upper
    )


def test_radii_keep_both_sides():
    module = random_network((2, 16, 1), seed=0)
    X = np.random.default_rng(0).normal(size=(200, 2))
    lower, upper = (
        certified_radius(module, X, -1.0),
        certified_radius(module, X, -np.inf, 2.0),
    )
    both = certified_radius(module, X, -1.0, 2.0)
    assert (both <= np.minimum(lower, upper)).all()
    np.testing.assert_allclose(both, np.minimum(lower, upper), atol=1e-4)
    assert (certified_radius(module, X, -np.inf) == 10).all()
    mirrored = certified_radius(negated(module), X, -2.0, 1.0)
    np.testing.assert_array_equal(both, mirrored)
    rng = np.random.default_rng(1)
    inside = both > 0
    for _ in range(20):
        values = outputs(module, X + both[:, None] * rng.uniform(-1, 1, X.shape))
        assert ((values >= -1) & (values <= 2))[inside].all()


def falling():
    """2 - x over [0, 3]: from -1 to 2."""
    module = nn.Linear(1, 1).double().eval()
    with torch.no_grad():
        module.weight.fill_(-1.0)
        module.bias.fill_(2.0)
    return module


@pytest.mark.parametrize(
    ("bounds", "lines"),
    [
        (
            (-2, None),
            ["proved: every prediction >= -1 (required: -2); smallest attained: -1"],
        ),
        (
            (None, 3),
            ["proved: every prediction <= 2 (required: 3); largest attained: 0.5"],
        ),
        (
            (-2, 3),
            [
                "proved: every prediction >= -1 (required: -2); smallest attained: -1",
                "proved: every prediction <= 2 (required: 3); largest attained: 0.5",
            ],
        ),
        ((0, None), ["counterexample: 3"]),
        ((0, 3), ["counterexample to the lower bound: 3"]),
        ((-2, 1), ["counterexample to the upper bound: 0"]),
    ],
)
def test_the_certificate_shows_the_sides_that_were_asked_for(bounds, lines):
    lower, upper = bounds
    found = certify_module(
        falling(), Box([0.0], [3.0]), lower_bound=lower, upper_bound=upper
    )
    shown = [line.strip() for line in repr(found).splitlines()]
    assert set(lines) <= set(shown)
    n_sides = sum(bound is not None for bound in bounds)
    assert sum("every prediction" in line for line in shown) == n_sides
    html = found.to_html()
    assert html.count("prediction attained") == n_sides
    assert ("at most" in html) == (upper is not None)


def test_earlier_names_warn_and_earlier_files_load():
    found = certify_module(falling(), Box([0.0], [3.0]))
    for old, new in (
        ("lower_bound_", "proved_min_"),
        ("upper_bound_", "attained_min_"),
        ("required_", "required_min_"),
    ):
        with pytest.warns(FutureWarning, match=f"{old} is now called {new}"):
            assert getattr(found, old) is getattr(found, new)
    state = dict(vars(pickle.loads(pickle.dumps(found))))
    np.testing.assert_array_equal(state["proved_min_"], found.proved_min_)
    for name in ("proved_max_", "attained_max_", "required_max_", "broken_side_"):
        state.pop(name)
    state["lower_bound_"] = state.pop("proved_min_")
    state["upper_bound_"] = state.pop("attained_min_")
    state["required_"] = state.pop("required_min_")
    loaded = Certificate.__new__(Certificate)
    loaded.__setstate__(state)
    assert repr(loaded) == repr(found)
    assert loaded.broken_side_ == "lower"
    assert loaded.proved_max_[0] == np.inf


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"upper_bound": -1.0}, "upper_bound=-1 is below lower_bound=0"),
        ({"upper_bound": np.nan}, "upper_bound=nan must be"),
        ({"upper_bound": [1.0, 1.0]}, "each of the 1 outputs"),
        ({"lower_bound": np.inf}, "lower_bound=inf must be"),
        ({"upper_bound": "high"}, "upper_bound='high' must be"),
    ],
)
def test_bad_bounds_are_refused(bounds, message):
    for ask in (
        lambda: certify(falling(), ([0.0], [3.0]), **bounds),
        lambda: certify_module(falling(), Box([0.0], [3.0]), **bounds),
        lambda: certified_radius(falling(), [[1.0]], **bounds),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ["sigmoid", "hardtanh", "hardsigmoid"])
def test_features_from_0_to_1_are_not_widened_by_rounding(activation, dtype):
    """A head with a reserve for its own sum stays between its bounds everywhere."""
    module = random_network((2, 5, 1), activation, seed=0, dtype=dtype)
    head = module[-1]
    with torch.no_grad():
        head.weight.abs_()
        head.bias.abs_()
        size = (head.weight.sum() + head.bias.sum()).item()
    reserve = (5 + 2) * torch.finfo(dtype).eps * size
    lower, upper = head.bias.item(), size + reserve
    found = certify_module(module, All(2), lower_bound=lower, upper_bound=upper)
    assert found.status_ == "verified"
    values = outputs(module, points("all")[0])
    assert lower <= values.min()
    assert values.max() <= upper


@pytest.mark.parametrize("domain", [Box([0.0, 0.0], [1.0, 1.0]), All(2)])
def test_what_holds_for_every_input_holds_in_a_box(domain):
    """Heads that touch their bounds but for a rounding that boxes are too wide for."""
    module = nn.Sequential(nn.Linear(2, 8), nn.Hardtanh(0.0, 1.0), nn.Linear(8, 1))
    bounds = Bounds.read(1e4, 1e4 + 1, 1)
    with torch.no_grad():
        module[2].weight.fill_(1.0)
        module[2].bias.fill_(1e4)
    keep_within(module[2], bounds)
    found = certify_module(module.eval(), domain, lower_bound=1e4, upper_bound=1e4 + 1)
    assert found.status_ == "verified"
    assert found.method_ == "interval"
    assert found.proved_min_ >= 1e4
    assert found.proved_max_ <= 1e4 + 1


@pytest.mark.parametrize("strategy", ["activation", "augmented_lagrangian"])
def test_a_constant_that_is_no_number_of_the_dtype_is_not_verified(strategy):
    """The nearest float32 to 0.1 is above it."""
    X = ROWS.astype(np.float32)
    model = PositiveOutputRegressor(
        strategy=strategy,
        lower_bound=0.1,
        upper_bound=0.1,
        max_epochs=1,
        random_state=0,
    ).fit(X, np.full(len(X), 0.1))
    assert (model.predict(X) == np.float32(0.1)).all()
    assert not model.certify()
    assert not certify(model, "all")
