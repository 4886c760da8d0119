"""Exact confidence bounds: tabulated values, and coverage by simulation."""

import numpy as np
import pytest
from scipy.stats import binom

from sklpos.certificates import bound_risk, smallest_shift
from sklpos.certificates.risk import clopper_pearson_upper


@pytest.mark.parametrize(("n", "level"), [(59, 0.05), (299, 0.01), (2995, 0.001)])
def test_clean_rows_needed(n, level):
    assert clopper_pearson_upper(0, n) <= level < clopper_pearson_upper(0, n - 1)


@pytest.mark.parametrize(
    ("count", "n", "confidence", "tabulated"),
    # one-sided limits: 1 - delta**(1/n) for k = 0; two-sided 95 % tables at 97.5 %
    [
        (0, 10, 0.95, 0.2589),
        (1, 10, 0.95, 0.3942),
        (1, 10, 0.975, 0.4450),
        (5, 10, 0.975, 0.8129),
        (3, 20, 0.975, 0.3789),
        (10, 10, 0.95, 1.0),
    ],
)
def test_tabulated_limits(count, n, confidence, tabulated):
    assert clopper_pearson_upper(count, n, confidence) == pytest.approx(
        tabulated, abs=1e-4
    )


def test_the_limit_inverts_the_binomial_test():
    for k in range(20):
        limit = clopper_pearson_upper(k, 20)
        assert binom.cdf(k, 20, limit) == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_coverage(rate):
    counts = np.random.default_rng(0).binomial(100, rate, size=4000)
    covered = clopper_pearson_upper(counts, 100) >= rate
    assert covered.mean() >= 0.95 - 0.01


def test_rates_by_output_and_joint():
    predictions = np.ones((100, 2))
    predictions[:3, 0] = -1
    predictions[2:4, 1] = 1.5
    risk = bound_risk(predictions, [0.0, 1.0], risk_level=0.1)
    np.testing.assert_allclose(risk.violation_rate_, [0.03, 0.0])
    assert risk.joint_violation_rate_ == pytest.approx(0.03)
    assert risk.joint_upper_confidence_bound_ == clopper_pearson_upper(3, 100)
    assert risk.controlled_
    assert bool(risk)
    assert not bound_risk(predictions, [0.0, 1.1], risk_level=0.1)
    assert "3 of 100 rows out of bounds" in repr(risk)


def test_the_joint_bound_is_shown_first_and_each_output_after_it():
    predictions = np.ones((100, 3))
    predictions[0, 0] = predictions[1, 2] = -1
    first, second, third = str(bound_risk(predictions)).splitlines()
    assert "P(any output out of bounds) <= 0.0616 at 95 %" in first
    assert "2 of 100 rows" in second
    assert third == "  each output on its own: 0.0466, 0.0295, 0.0466"
    assert len(str(bound_risk(predictions[:, :1])).splitlines()) == 2


def test_both_sides_count_together_and_alone():
    predictions = np.full((100, 3), 0.5)
    predictions[:3] = [-1, -1, -1]
    predictions[2:7] = [2, 2, 2]
    lower, upper = [0.0, -np.inf, -np.inf], [1.0, 1.0, np.inf]
    risk = bound_risk(predictions, lower, upper, risk_level=0.2)
    np.testing.assert_allclose(risk.below_rate_, [0.02, 0, 0])
    np.testing.assert_allclose(risk.above_rate_, [0.05, 0.05, 0])
    np.testing.assert_allclose(risk.violation_rate_, [0.07, 0.05, 0])
    limits = [clopper_pearson_upper(count, 100) for count in (2, 5, 7)]
    np.testing.assert_allclose(risk.below_confidence_bound_, [limits[0], 0, 0])
    np.testing.assert_allclose(risk.above_confidence_bound_, [limits[1]] * 2 + [0])
    np.testing.assert_allclose(risk.upper_confidence_bound_, [limits[2], limits[1], 0])
    assert risk.joint_violation_rate_ == pytest.approx(0.07)
    assert risk.joint_upper_confidence_bound_ == limits[2]
    mirrored = bound_risk(-predictions, np.negative(upper), np.negative(lower))
    np.testing.assert_array_equal(risk.below_rate_, mirrored.above_rate_)
    np.testing.assert_array_equal(risk.violation_rate_, mirrored.violation_rate_)


def test_outputs_with_an_upper_bound_are_lowered():
    predictions = np.random.default_rng(0).normal(size=(500, 3)) * [1, 100, 1]
    lower, upper = [0.0, -np.inf, -np.inf], [np.inf, 0.0, np.inf]
    shift = smallest_shift(predictions, lower, upper, scale=[1, 100, 1])
    assert shift[0] > 0
    assert shift[1] == pytest.approx(-100 * shift[0])
    assert shift[2] == 0
    assert bound_risk(predictions + shift * (1 + 1e-9), lower, upper)
    assert not bound_risk(predictions + shift * (1 - 1e-9), lower, upper)
    mirrored = smallest_shift(-predictions, np.negative(upper), np.negative(lower))
    np.testing.assert_array_equal(smallest_shift(predictions, lower, upper), -mirrored)


def test_the_smallest_shift_controls_and_is_smallest():
    predictions = np.random.default_rng(0).normal(size=(500, 2)) * [1, 100]
    shift = smallest_shift(predictions, scale=[1, 100])
    assert shift[1] == pytest.approx(100 * shift[0])
    assert bound_risk(predictions + shift * (1 + 1e-9))
    assert not bound_risk(predictions + shift * (1 - 1e-9))


def test_no_shift_where_none_is_needed():
    np.testing.assert_array_equal(smallest_shift(np.ones((59, 2))), [0, 0])


def test_the_shifted_risk_is_controlled_in_the_population():
    rng = np.random.default_rng(0)
    shifts = [smallest_shift(rng.uniform(-1, 1, size=100))[0] for _ in range(2000)]
    risk = np.clip((1 - np.array(shifts)) / 2, 0, 1)  # P(uniform + shift < 0)
    assert (risk <= 0.05).mean() >= 0.95 - 0.015


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bound_risk([]), "holdout is empty"),
        (lambda: bound_risk(np.empty((0, 2))), "holdout is empty"),
        (lambda: bound_risk([np.nan]), "contain NaN"),
        (lambda: bound_risk([1.0], risk_level=0), "risk_level=0 must be between"),
        (lambda: bound_risk([1.0], confidence=1.5), "confidence=1.5"),
        (
            lambda: bound_risk([[1.0, 2.0]], [0, 0, 0]),
            "lower_bound=\\[0, 0, 0\\] has shape",
        ),
        (lambda: bound_risk([1.0], 0.0, -1.0), "upper_bound=-1 is below"),
        (lambda: smallest_shift(np.ones(58)), "at least 59 are needed"),
        (lambda: smallest_shift(np.ones(99), 0.0, 1.0), "upper_bound=1 of output 0"),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
