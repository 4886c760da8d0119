"""Certificates are attacked, compared with exact minima, and fed nonsense."""

import numpy as np
import pytest
import torch
from marks import mostly_slow
from networks import descend, grid, outputs, random_network
from torch import nn

from sklpos.certificates import All, Ball, Box, Hull, certify_module
from sklpos.certificates.bounds.crown import crown_bounds
from sklpos.certificates.bounds.network import read_network
from sklpos.certificates.rows import certified_radius, output_bounds
from sklpos.certificates.search.attack import attack
from sklpos.certificates.search.branch_and_bound import Stops, branch_and_bound
from sklpos.certificates.search.milp import milp_minimum
from sklpos.nets.bounds import Bounds
from sklpos.nets.outputs import BoundedOutput

SMOOTH = ["relu", "leaky_relu", "tanh", "softplus", "gelu", "silu", "elu"]


TIGHT = 1e-3


def unit_box(n_features):
    return Box(-np.ones(n_features), np.ones(n_features))


def assert_nothing_is_below(certificate, module, X):
    lowest = outputs(module, X).min(axis=0)
    assert (lowest >= certificate.proved_min_).all()
    assert (certificate.attained_min_ >= certificate.proved_min_).all()


@pytest.mark.parametrize("activation", mostly_slow(SMOOTH, "relu", "tanh", "gelu"))
def test_nothing_is_found_below_a_certificate(activation):
    for seed, dtype in enumerate([torch.float32, torch.float64]):
        module = random_network((3, 12, 12, 2), activation, seed=seed, dtype=dtype)
        box = unit_box(3)
        rng = np.random.default_rng(seed)
        inside = rng.uniform(-1, 1, size=(3000, 3))
        corners = np.sign(inside)
        reached = descend(module, inside[:300], box.low, box.high)
        for method in ("interval", "crown", "branch_and_bound"):
            certificate = certify_module(
                module, box, method=method, tolerance=1e-2, time_limit=2.0
            )
            for X in (inside, corners, reached):
                assert_nothing_is_below(certificate, module, X)


@pytest.mark.parametrize("activation", mostly_slow(SMOOTH, "relu", "tanh", "gelu"))
def test_the_minimum_is_that_of_a_dense_grid(activation):
    for n_features, count in ((1, 20001), (2, 301)):
        module = random_network((n_features, 16, 16, 2), activation, seed=3)
        certificate = certify_module(module, unit_box(n_features), tolerance=TIGHT)
        X = grid(-np.ones(n_features), np.ones(n_features), count)
        smallest = outputs(module, X).min(axis=0)
        assert_nothing_is_below(certificate, module, X)
        assert (certificate.attained_min_ <= smallest + 1e-9).all()
        gap = certificate.attained_min_ - certificate.proved_min_
        assert (gap <= TIGHT + 1e-9).all()


def minima(module, domain):
    """The smallest first output, by branch and bound and by integer programming."""
    network = read_network(module).outputs([0])
    region = domain.region()
    start = attack(network, region)[:, 0]
    search = branch_and_bound(network, region, Stops(1e-4), start=start)
    hidden = crown_bounds(network, region).hidden
    return search, milp_minimum(network, region, hidden)


@pytest.mark.parametrize("widths", [(3, 8, 1), (4, 8, 8, 1), (2, 6, 6, 6, 2)])
@pytest.mark.parametrize(
    "activation", mostly_slow(["relu", "leaky_relu"], "leaky_relu")
)
def test_branch_and_bound_equals_integer_programming(widths, activation):
    module = random_network(widths, activation, seed=0)
    search, integer = minima(module, unit_box(widths[0]))
    smallest = outputs(module, integer.minimiser[None])[0, 0]
    assert search.upper.item() == pytest.approx(smallest, abs=2e-4)
    assert search.lower.item() == pytest.approx(smallest, abs=2e-4)
    assert smallest - 0.02 <= integer.lower <= smallest


def test_branch_and_bound_equals_integer_programming_on_a_hull():
    rows = np.random.default_rng(0).normal(size=(20, 3))
    module = random_network((3, 8, 8, 1), seed=1)
    search, integer = minima(module, Hull(rows))
    assert search.lower.item() <= integer.lower + 0.02
    assert search.lower.item() == pytest.approx(integer.lower, abs=0.02)
    inside = np.random.default_rng(1).dirichlet(0.3 * np.ones(20), size=5000) @ rows
    assert outputs(module, inside).min() >= search.lower.item()
    whole = certify_module(module, Box(rows.min(0), rows.max(0)), tolerance=TIGHT)
    assert search.lower.item() >= whole.proved_min_[0]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_balls_give_a_verdict_for_each_row(norm):
    module = random_network((2, 16, 1), seed=0)
    X = np.random.default_rng(0).normal(size=(40, 2))
    bound = np.quantile(outputs(module, X), 0.3)
    certificate = certify_module(module, Ball(X, 0.1, norm), lower_bound=bound)
    assert certificate.rows_.shape == (40,)
    assert set(certificate.rows_) == {"verified", "falsified"}
    offsets = np.random.default_rng(1).normal(size=(2000, 2))
    length = (
        np.abs(offsets).max(1) if norm == "linf" else np.linalg.norm(offsets, axis=1)
    )
    offsets *= 0.1 / length[:, None]
    for x, status in zip(X, certificate.rows_, strict=True):
        lowest = outputs(module, x + offsets).min()
        assert (lowest >= bound) or status == "falsified"
    assert not certificate
    assert "of 40 rows verified" in repr(certificate)


def test_branch_and_bound_is_anytime():
    module = random_network((6, 32, 32, 1), seed=0, gain=3.0)
    early, late = (
        certify_module(module, unit_box(6), tolerance=1e-6, time_limit=limit)
        for limit in (0.05, 1.0)
    )
    assert early.time_ < 1.0
    assert early.proved_min_[0] <= late.proved_min_[0] <= late.attained_min_[0]


def test_many_features_are_searched_by_integer_programming():
    module = random_network((10, 8, 1), seed=0, dtype=torch.float32)
    certificate = certify_module(module, unit_box(10), tolerance=1e-2)
    assert certificate.method_ == "milp"
    gap = certificate.attained_min_ - certificate.proved_min_
    assert 0 <= gap[0] < 0.05
    assert "integer programme" in certificate.assumptions_[-1]
    X = np.random.default_rng(0).choice([-1.0, 1.0], size=(2000, 10))
    assert_nothing_is_below(certificate, module, X)


@pytest.fixture
def tent():
    """max(0, 1 - |x|) - 0.5, smallest value -0.5."""
    module = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1)).double().eval()
    with torch.no_grad():
        module[0].weight.fill_(1.0)
        module[0].bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
        module[2].weight.copy_(torch.tensor([[1.0, -2.0, 1.0]]))
        module[2].bias.fill_(-0.5)
    return module


def test_verdicts(tent):
    box = Box([-2.0], [2.0])
    verified = certify_module(tent, box, lower_bound=-0.51)
    assert verified.status_ == "verified"
    assert bool(verified)
    assert verified.counterexample_ is None
    falsified = certify_module(tent, box, lower_bound=-0.4)
    assert falsified.status_ == "falsified"
    assert not falsified
    assert outputs(tent, falsified.counterexample_[None])[0, 0] < -0.4
    unknown = certify_module(tent, box, lower_bound=-0.51, method="interval")
    assert unknown.status_ == "unknown"
    assert certify_module(tent, Box([-0.4], [0.4])).proved_min_[0] <= 0.1


def test_a_bound_of_minus_infinity_leaves_an_output_free():
    module = random_network((2, 8, 2), seed=0)
    lowest = certify_module(module, unit_box(2), lower_bound=-np.inf)
    assert lowest.status_ == "verified"
    bound = [-np.inf, lowest.proved_min_[1] - 1]
    assert certify_module(module, unit_box(2), lower_bound=bound)


def test_an_exact_touch_is_not_claimed(tent):
    certificate = certify_module(tent, Box([-2.0], [2.0]), lower_bound=-0.5)
    assert certificate.status_ == "unknown"
    assert certificate.proved_min_[0] == pytest.approx(-0.5, abs=1e-5)
    assert certificate.time_ < 5.0


def nonnegative_head(activation):
    module = nn.Sequential(nn.Linear(3, 8), activation, nn.Linear(8, 2)).eval()
    with torch.no_grad():
        module[2].weight.abs_()
        module[2].bias.copy_(torch.tensor([0.5, 2.0]))
    return module


def test_nonnegative_heads_hold_everywhere():
    module = nonnegative_head(nn.ReLU())
    certificate = certify_module(module, All(3), lower_bound=[0.5, 2.0])
    assert certificate.status_ == "verified"
    np.testing.assert_array_equal(certificate.proved_min_, [0.5, 2.0])
    X = 10.0 ** np.random.default_rng(0).uniform(-3, 30, size=(999, 3))
    assert (outputs(module, np.vstack([X, -X])) >= [0.5, 2.0]).all()


def test_bounded_features_bound_the_output_everywhere():
    module = nonnegative_head(nn.Tanh())
    certificate = certify_module(module, All(3), lower_bound=-100.0)
    weight = module[2].weight.detach().double().numpy()
    expected = module[2].bias.detach().double().numpy() - weight.sum(1)
    assert certificate.status_ == "verified"
    np.testing.assert_allclose(certificate.proved_min_, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_norm_rounds_where_its_terms_have_one_sign(dtype):
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(
        nn.Linear(1, 50), nn.ReLU(), nn.BatchNorm1d(50, affine=False)
    ).to(dtype)
    norm = module[-1].eval()
    norm.running_mean.uniform_(-1, 1, generator=generator)
    norm.running_var.uniform_(0.1, 3, generator=generator)
    with torch.no_grad():
        module[0].weight.fill_(1)
    lower = certify_module(module, All(1)).proved_min_
    exact = -norm.running_mean.double() / (norm.running_var.double() + norm.eps).sqrt()
    np.testing.assert_allclose(lower, exact, rtol=20 * torch.finfo(dtype).eps)
    assert (outputs(module, np.array([[-9.0]]))[0] >= lower).all()
    assert (exact.numpy() > lower).all()


def test_plain_networks_do_not_hold_everywhere():
    certificate = certify_module(random_network((2, 8, 1), seed=0), All(2))
    assert certificate.status_ == "falsified"
    assert certificate.proved_min_[0] == -np.inf


@pytest.mark.parametrize("domain", [All(2), Hull(np.eye(2)), Box([0, 0], [1, 1])])
def test_output_activations_hold_by_construction(domain):
    bounds = Bounds.read([1.0, None], None, n_outputs=2)
    module = BoundedOutput(nn.Linear(2, 2), "softplus", bounds).eval()
    assert certify_module(module, domain, lower_bound=[1.0, -np.inf])
    assert not certify_module(module, domain, lower_bound=[1.1, -np.inf])
    assert not certify_module(module, domain, lower_bound=0.0)


def test_output_activations_give_a_verdict_for_each_ball():
    bounds = Bounds.read(1.0, None, n_outputs=1)
    module = BoundedOutput(nn.Linear(2, 1), "softplus", bounds).eval()
    balls = Ball(np.eye(2), radius=0.1)
    for bound, status in ((1.0, "verified"), (1.1, "unknown")):
        certificate = certify_module(module, balls, lower_bound=bound)
        assert certificate.rows_.tolist() == [status, status]


def test_categories_are_taken_as_what_they_are(tent):
    # 0.5 at 0 and -0.5 at -1 and 1; a one-hot pair is never (0.5, 0.5)
    assert certify_module(tent, Box([-0.9], [0.9], categorical=[0]))
    assert not certify_module(tent, Box([-0.9], [0.9]))
    module = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double().eval()
    with torch.no_grad():  # 1 - 2 relu(1 - x0 - x1)
        module[0].weight.fill_(-1.0)
        module[0].bias.fill_(1.0)
        module[2].weight.fill_(-2.0)
        module[2].bias.fill_(1.0)
    assert not certify_module(module, Box([0, 0], [1, 1]))
    assert certify_module(module, Box([0, 0], [1, 1], categorical=[(0, 1)]))


def test_the_certificate_prints_well(tent):
    certificate = certify_module(tent, Box([-2.0], [2.0]))
    first = "Certificate: falsified over Box(1 features: -2 to 2)"
    assert repr(certificate).startswith(first)
    assert "counterexample" in repr(certificate)
    assert "<table>" in certificate._repr_html_()
    with pytest.raises(AttributeError):
        certificate.status_ = "verified"


def test_the_global_generators_are_not_touched():
    module = random_network((2, 8, 1), seed=0)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    certificates = [certify_module(module, unit_box(2)) for _ in range(2)]
    assert torch.equal(torch_state, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])
    assert repr(certificates[0].attained_min_) == repr(certificates[1].attained_min_)


def test_output_bounds_hold():
    module = random_network((3, 16, 16, 2), seed=0, dtype=torch.float32)
    X = np.random.default_rng(0).normal(size=(600, 3))
    lower, upper = output_bounds(module, X - 0.1, X + 0.1)
    assert lower.shape == upper.shape == (600, 2)
    for seed in range(20):
        moved = X + np.random.default_rng(seed).uniform(-0.1, 0.1, size=X.shape)
        values = outputs(module, moved)
        assert (lower <= values).all()
        assert (values <= upper).all()


def test_certified_radii_hold():
    module = random_network((3, 16, 2), seed=0, dtype=torch.float32)
    X = np.random.default_rng(0).normal(size=(600, 3))
    scale = np.array([1.0, 0.1, 0.0])
    radius = certified_radius(module, X, lower_bound=-1.0, scale=scale)
    assert ((radius > 0) == (outputs(module, X) >= -1.0).all(axis=1)).mean() > 0.99
    inside = radius > 0
    for seed in range(20):
        move = np.random.default_rng(seed).uniform(-1, 1, size=X.shape) * scale
        values = outputs(module, X + radius[:, None] * move)
        assert (values[inside] >= -1.0).all()


def linear():
    return nn.Linear(2, 1).eval()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Box([1.0], [0.0]), "low > high for feature 0"),
        (lambda: Box([np.nan], [0.0]), "low contains NaN"),
        (lambda: Box([0.0], [1.0, 2.0]), "low has 1 features, but high has 2"),
        (lambda: Box([[0.0]], [[1.0]]), "low must have shape"),
        (lambda: Box([0.0], [1.0], categorical=[3]), "from 0 to 0"),
        (lambda: Box([0.2], [0.8], categorical=[0]), "leaves no value"),
        (lambda: Box([0, 0], [1e4, 1e4], categorical=[0, 1]), "combinations"),
        (lambda: Hull([[np.nan, 0.0]]), "points contains NaN"),
        (lambda: Hull(np.empty((0, 2))), "points must have shape"),
        (lambda: Ball([[0.0, 0.0]], -1.0), "must be non-negative"),
        (lambda: Ball([[0.0, 0.0]], [1.0, 1.0, 1.0]), "each of the 2 features"),
        (lambda: Ball([[0.0, 0.0]], 1.0, "l1"), "norm='l1'"),
        (lambda: certify_module(linear(), Box([0.0], [1.0])), "has 1 features"),
        (lambda: certify_module(linear(), All(3)), "has 3 features"),
        (
            lambda: certify_module(linear(), unit_box(2), method="guess"),
            "method='guess' must be one of 'auto'",
        ),
        (
            lambda: certify_module(linear(), unit_box(2), lower_bound=[0, 0]),
            "each of the 1 outputs",
        ),
        (lambda: certify_module(linear(), unit_box(2), lower_bound=np.nan), "number"),
        (
            lambda: certify_module(
                random_network((2, 4, 1), "tanh"),
                unit_box(2),
                method="milp",
                lower_bound=-1,
                tolerance=0.0,
            ),
            "method='milp' takes networks of ReLU",
        ),
        (
            lambda: output_bounds(linear(), [[1, 1]], [[0, 2]]),
            "X_low > X_high in row",
        ),
        (lambda: output_bounds(linear(), [[1, 1]], [[0]]), "high has 1 features"),
        (lambda: certified_radius(linear(), [[np.nan, 0.0]]), "X contains NaN"),
        (lambda: certified_radius(linear(), [[0.0, 0.0]], scale=-1), "non-negative"),
        (lambda: certified_radius(linear(), [[0.0, 0.0]], max_radius=0), "above 0"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_output_activation_with_a_hook_is_refused():
    module = BoundedOutput(
        nn.Linear(2, 1), "softplus", Bounds.read(0.0, None, 1)
    ).eval()
    module.register_forward_hook(lambda module, args, output: output - 1)
    with pytest.raises(ValueError, match="has a hook"):
        certify_module(module, Box([0, 0], [1, 1]))
