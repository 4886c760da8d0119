"""Bounds of outputs: what is read, what is refused, and how they are rounded."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sklpos.nets.bounds import Bounds

INF = np.inf


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        (0.0, None, ([0, 0], [INF, INF])),
        (None, 1, ([-INF, -INF], [1, 1])),
        (-INF, INF, ([-INF, -INF], [INF, INF])),
        ([None, 2], [3.0, INF], ([-INF, 2], [3, INF])),
        (np.array([1.0]), torch.tensor([2, 3]), ([1, 1], [2, 3])),
        (
            np.array([None, 2]),
            pd.Series([None, 3], dtype=object),
            ([-INF, 2], [INF, 3]),
        ),
        (0, torch.ones(2, dtype=torch.bfloat16, requires_grad=True), ([0, 0], [1, 1])),
        (1, 1, ([1, 1], [1, 1])),
    ],
)
def test_a_bound_is_a_number_or_one_per_output_and_none_is_free(lower, upper, expected):
    bounds = Bounds.read(lower, upper, n_outputs=2)
    np.testing.assert_array_equal(bounds.lower, expected[0])
    np.testing.assert_array_equal(bounds.upper, expected[1])
    assert bounds.lower.dtype == bounds.upper.dtype == np.float64


def test_what_is_read_is_a_copy():
    given = np.zeros(2)
    bounds = Bounds.read(given, None, 2)
    given[:] = 5
    assert not bounds.lower.any()


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (1.0, 0.0, "upper_bound=0 is below lower_bound=1 for output 0; it must be"),
        ([0, 3], [1, 2], "upper_bound=2 is below lower_bound=3 for output 1"),
        (np.nan, None, "lower_bound=nan must be a finite number, or -inf for no bound"),
        (0.0, np.nan, "upper_bound=nan must be a finite number, or inf for no bound"),
        (INF, None, "lower_bound=inf must be"),
        (None, -INF, "upper_bound=-inf must be"),
        ([0, 0, 0], None, r"lower_bound=\[0, 0, 0\] has shape \(3,\); pass one number"),
        (0, [[1, 2]], r"upper_bound=\[\[1, 2\]\] has shape \(1, 2\)"),
        ("zero", None, "lower_bound='zero' must be a finite number"),
        (0, object, "upper_bound=.* must be a finite number"),
        pytest.param(0, 10**400, "upper_bound=10.*0 must be a finite", id="too large"),
        (0, np.array([1j]), r"upper_bound=\[1j\] must be a finite number"),
        (0, [1, pd.NA], r"upper_bound=\[1, <NA>\] must be a finite number"),
        (pd.Series([1.0, np.nan]), 2, r"lower_bound=\[1.0, nan\] must be"),
        (pd.Series([1, 2, 3]), 9, r"lower_bound=\[1, 2, 3\] has shape \(3,\)"),
        (0, np.ones((30, 30)), r"upper_bound=\[\[1.0, .* has shape \(30, 30\)"),
        (0, pd.DataFrame({"a": [1], "b": [2]}), r"upper_bound=.* has shape \(1, 2\)"),
    ],
)
def test_what_makes_no_sense_is_refused(lower, upper, message):
    with pytest.raises(ValueError, match=message) as caught:
        Bounds.read(lower, upper, n_outputs=2)
    assert "\n" not in str(caught.value)


def test_one_output_is_not_numbered():
    with pytest.raises(ValueError, match="lower_bound=2; it must be at least that"):
        Bounds.read(2, 1, n_outputs=1)


def test_new_bounds_keep_the_side_that_is_not_given():
    bounds = Bounds.read(0, 1, 2).for_outputs(2, upper_bound=[2, None])
    np.testing.assert_array_equal(bounds.lower, [0, 0])
    np.testing.assert_array_equal(bounds.upper, [2, INF])
    with pytest.raises(ValueError, match="upper_bound=-1 is below lower_bound=0"):
        bounds.for_outputs(2, upper_bound=-1)


def test_infinite_predictions_break_finite_bounds_alone():
    bounds = Bounds.read([0.0, None, None], [None, 1.0, None], 3)
    found = bounds.violation(np.array([[INF] * 3, [-INF] * 3]))
    assert found.tolist() == [[-INF, INF, -INF], [INF, -INF, -INF]]
    assert np.isnan(bounds.violation(np.full(3, np.nan))).all()


def test_predictions_that_are_not_numbers_are_not_within():
    bounds = Bounds.read([0, None], [1, None], 2)
    values = np.array([[0.0, -1e300], [1.0, INF], [-1e-300, 0.0], [np.nan, np.nan]])
    assert bounds.contain(values).tolist() == [
        [True, True],
        [True, True],
        [False, True],
        [False, False],
    ]


finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


@given(finite, finite, st.sampled_from([torch.float16, torch.float32, torch.float64]))
def test_rounded_bounds_are_the_nearest_numbers_within(one, other, dtype):
    lower, upper = sorted((one, other))
    limit = torch.finfo(dtype).max
    if max(abs(lower), abs(upper)) > limit:
        return
    found = Bounds.read(lower, upper, 1).in_dtype(dtype)
    sides = found.lower.item(), found.upper.item()
    for side in sides:
        assert torch.tensor(side, dtype=dtype).double().item() == side
    if sides[0] == sides[1] and not lower <= sides[0] <= upper:
        assert sides[0] == torch.tensor(lower, dtype=dtype).double().item()
        return
    assert lower <= sides[0] <= sides[1] <= upper
    # The next number outwards is beyond the bound.
    for side, end, bound in zip(sides, (-INF, INF), (lower, upper), strict=True):
        exact = torch.tensor(side, dtype=dtype)
        further = torch.nextafter(exact, torch.tensor(end, dtype=dtype)).item()
        assert abs(further) == INF or (further < bound if end < 0 else further > bound)


def test_scaled_bounds_are_those_of_scaled_outputs():
    bounds = Bounds.read([0, None], [4, 6], 2).scaled(2, np.array([2, 4]))
    np.testing.assert_array_equal(bounds.lower, [-1, -INF])
    np.testing.assert_array_equal(bounds.upper, [1, 1])
