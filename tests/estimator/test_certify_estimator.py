"""What a fitted estimator certifies about itself."""

import numpy as np
import pytest
from problems import make_data
from torch import nn

from sklpos import MLP, PositiveOutputRegressor

SLOPE = [7.0, -3.5]
X, y = make_data(120, SLOPE, shift=-2.0)


def make_model(strategy="augmented_lagrangian", **params):
    return PositiveOutputRegressor(
        strategy=strategy,
        module=MLP,
        module__hidden_layer_sizes=(12,),
        max_epochs=30,
        random_state=0,
        **params,
    ).fit(X, y)


@pytest.fixture(scope="module")
def model():
    return make_model()


def grid_minimum(model, low, high, n=201):
    axes = [np.linspace(*side, n) for side in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    return model.predict(points).min()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_box_verdict_agrees_with_a_dense_grid(dtype):
    model = make_model(dtype=dtype)
    certificate = model.certify("box")
    lowest = grid_minimum(model, X.min(axis=0), X.max(axis=0))
    assert certificate.proved_min_[0] <= lowest
    assert certificate.status_ == ("falsified" if lowest < 0 else "verified")
    assert bool(certificate) == (certificate.status_ == "verified")


def test_counterexample_is_one_in_the_unit_of_the_data(model):
    certificate = model.certify("box", margin=0.5)
    assert certificate.status_ == "falsified"
    assert model.predict(certificate.counterexample_.reshape(1, -1))[0] < 0
    low, high = X.min(axis=0), X.max(axis=0)
    reach = 0.5 * (high - low)
    assert (certificate.counterexample_ >= low - reach - 1e-12).all()
    assert (certificate.counterexample_ <= high + reach + 1e-12).all()


def test_a_box_of_ones_own_and_its_bounds(model):
    low, high = np.array([0.5, -1.0]), np.array([1.5, -0.2])
    lowest = grid_minimum(model, low, high)
    assert lowest > 0
    certificate = model.certify((low, high))
    assert certificate
    assert 0 <= certificate.proved_min_[0] <= lowest
    proved, above = model.output_bounds(low[None], high[None])
    assert proved[0, 0] <= lowest <= above[0, 0]


def test_every_training_row_has_a_certified_ball_or_none(model):
    radius = model.certified_radius(X)
    assert radius.shape == (len(X),)
    assert (radius >= 0).all()
    assert (radius > 0.01).mean() > 0.3
    rng = np.random.default_rng(1)
    for _ in range(50):
        moved = X + radius[:, None] * rng.uniform(-1, 1, size=X.shape)
        assert model.predict(moved[radius > 0]).min() >= 0


def test_balls_and_hull_need_rows(model):
    certificate = model.certify("ball", X=X[:5], radius=1e-6)
    assert len(certificate.rows_) == 5
    assert model.certify("hull", X=X[:20], time_limit=2).status_ in (
        "verified",
        "falsified",
        "unknown",
    )
    with pytest.raises(ValueError, match="domain='hull' needs X"):
        model.certify("hull")
    with pytest.raises(ValueError, match="domain='ball' needs radius"):
        model.certify("ball", X=X)


@pytest.mark.parametrize(("lower_bound", "dtype"), [(0.0, "float64"), (0.7, "float32")])
@pytest.mark.filterwarnings("ignore:.*y is below lower_bound")
def test_everywhere_strategies_are_verified_everywhere(
    everywhere_strategy, lower_bound, dtype
):
    model = make_model(everywhere_strategy, lower_bound=lower_bound, dtype=dtype)
    assert model.certify("all").status_ == "verified"
    assert model.certify("box").status_ == "verified"


@pytest.mark.parametrize(
    ("lower", "upper", "dtype"),
    [(0.0, 8.0, "float32"), (None, 8.0, "float64"), (0.125, 0.125, "float32")],
)
@pytest.mark.parametrize("activation", [nn.Hardtanh, nn.Sigmoid, nn.Hardsigmoid])
@pytest.mark.filterwarnings("ignore:balance was dropped")  # where bounds are equal
def test_everywhere_strategies_keep_both_bounds_everywhere(
    everywhere_strategy, activation, lower, upper, dtype
):
    def build(n_features_in):
        limits = (0.0, 1.0) if activation is nn.Hardtanh else ()
        first = nn.Linear(n_features_in, 8)
        return nn.Sequential(first, activation(*limits), nn.Linear(8, 1))

    model = PositiveOutputRegressor(
        build,
        strategy=everywhere_strategy,
        max_epochs=5,
        random_state=0,
        dtype=dtype,
        lower_bound=lower,
        upper_bound=upper,
        on_violated_y="ignore",
    ).fit(X, y)
    for domain in ("all", "box"):
        certificate = model.certify(domain)
        assert certificate.status_ == "verified"
        assert certificate.required_max_[0] == upper


def test_soft_strategies_are_not_verified_everywhere(model):
    assert model.certify("all").status_ != "verified"


def test_an_estimator_with_both_bounds_certifies_both():
    model = make_model(upper_bound=4.0, on_violated_y="ignore", lr=0.05)
    certificate = model.certify("box", margin=0.5)
    assert certificate.status_ == "falsified"
    assert certificate.required_max_.tolist() == [4.0]
    above = model.certify("box", margin=0.5, lower_bound=-np.inf)
    assert above.broken_side_ == "upper"
    assert model.predict(above.counterexample_[None])[0] > 4
    assert model.certify("box", lower_bound=-1e3, upper_bound=1e3)
    radius = model.certified_radius(X)
    rng = np.random.default_rng(1)
    for _ in range(20):
        moved = X + radius[:, None] * rng.uniform(-1, 1, size=X.shape)
        values = model.predict(moved[radius > 0])
        assert ((values >= 0) & (values <= 4)).all()
    holdout, _ = make_data(400, SLOPE, seed=3)
    risk = model.certify_risk(holdout)
    predicted = model.predict(holdout)
    assert risk.above_rate_[0] == np.mean(predicted > 4) > 0
    assert risk.below_rate_[0] == np.mean(predicted < 0)
    assert risk.violation_rate_[0] == np.mean((predicted < 0) | (predicted > 4))


def test_risk_counts_the_rows_below_the_bound(model):
    holdout, _ = make_data(400, SLOPE, seed=3)
    risk = model.certify_risk(holdout, risk_level=0.5)
    assert risk.violation_rate_[0] == np.mean(model.predict(holdout) < 0)
    assert risk.violation_rate_[0] < risk.upper_confidence_bound_[0] < 1
    assert risk.controlled_


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"domain": "sphere"}, "domain='sphere'.*box"),
        ({"domain": 3}, "domain=3"),
        ({"domain": ([0.0, 1.0], [1.0, 0.0])}, "low"),
        ({"domain": ([0.0], [1.0])}, "features"),
        ({"domain": ([0.0, np.nan], [1.0, 1.0])}, "NaN"),
        ({"method": "magic"}, "method='magic'"),
    ],
)
def test_bad_input_is_refused_by_name(model, arguments, words):
    with pytest.raises(ValueError, match=words):
        model.certify(**arguments)


def test_range_grows_with_a_stream():
    model = PositiveOutputRegressor(random_state=0)
    model.partial_fit(X[:60], y[:60]).partial_fit(X[60:], y[60:])
    assert np.array_equal(model.certify("box", time_limit=1).domain_.low, X.min(axis=0))


UNUSED = [
    ({"domain": "box", "radius": 0.1}, "radius=0.1 .* 'ball'|radius=0.1 .*='ball'"),
    ({"domain": "hull", "X": X, "radius": 0.1}, "radius=0.1 has no meaning"),
    (
        {"domain": "all", "margin": 0.1},
        "margin=0.1 .*domain='all'; .*'box' or .*'hull'",
    ),
    ({"domain": "ball", "X": X, "radius": 1, "margin": 0.1}, "margin=0.1 has no"),
    (
        {"domain": "hull", "X": X, "categorical": [0]},
        r"categorical=\[0\] .*\(low, high",
    ),
    ({"domain": (X.min(0), X.max(0)), "margin": 0.1}, "for the domain that was passed"),
]
NONSENSE = [
    ({"domain": "boxx"}, "domain='boxx' is unknown; did you mean 'box'"),
    ({"domain": (0.0, 1.0)}, r"domain=\(0.0, 1.0\) must be one of"),
    ({"method": "crwn"}, "method='crwn' must be one of .*; did you mean 'crown'"),
    ({"time_limit": -1}, "time_limit=-1 must be a number, at least 0"),
    ({"time_limit": np.nan}, "time_limit=nan must be"),
    ({"time_limit": "fast"}, "time_limit='fast' must be"),
    ({"margin": -0.1}, "margin=-0.1 must be a finite number, at least 0"),
    ({"margin": X}, r"margin=\[\[.* must be a finite number"),
    ({"categorical": 0}, "categorical=0 must be a sequence of columns"),
    ({"categorical": [None]}, "categorical=None must be the name or the position"),
]


@pytest.mark.parametrize(("request_", "words"), [*UNUSED, *NONSENSE])
def test_what_a_domain_would_ignore_is_refused(model, request_, words):
    """In `enforce` as well, whose promise would not be the one that was asked for."""
    with pytest.raises(ValueError, match=words) as error:
        model.certify(**request_)
    assert len(str(error.value)) <= 300
    if "method" not in request_:
        with pytest.raises(ValueError, match=words):
            model.enforce(**{"domain": "box", **request_})
