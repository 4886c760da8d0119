"""`repair_head` with upper bounds, with both, and with other ones for each output."""

import numpy as np
import pytest
import torch
from heads import general_solver
from hypothesis import given
from hypothesis import strategies as st
from modules import assert_holds, make_module, make_rows, make_targets, predictions
from torch import nn

from sklpos.nets.bounds import Bounds
from sklpos.repair import HeadObjective, repair_head

MIXED = {
    "lower_bound": [0.0, None, 0.1, -np.inf],
    "upper_bound": [np.inf, 0.2, 0.5, None],
}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def mirrored(module):
    with torch.no_grad():
        module[2].weight.neg_()
        module[2].bias.neg_()
    return module


@DTYPES
def test_an_upper_bound_is_the_mirror_image_of_a_lower_one(dtype):
    X = make_rows(dtype=dtype)
    y = make_targets(X)
    below = repair_head(make_module(dtype=dtype), X, y=y)
    above = repair_head(
        mirrored(make_module(dtype=dtype)), X, y=-y, lower_bound=None, upper_bound=0.0
    )
    values = predictions(below.module, X, 500), -predictions(above.module, X, 500)
    np.testing.assert_allclose(*values, atol=1e-12)
    multipliers = below.repair.multipliers_, -above.repair.multipliers_
    np.testing.assert_allclose(*multipliers, rtol=1e-6, atol=1e-12)
    assert (below.repair.multipliers_ >= 0).all()


@DTYPES
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("balance", [False, True])
def test_each_output_is_repaired_as_a_general_solver_does(balance, weighted, dtype):
    X = make_rows(40, dtype)
    module = make_module(4, dtype)
    target = make_targets(X, 4).clamp(max=0.15)
    weight = torch.linspace(0.5, 2, 40) if weighted else None
    found = repair_head(module, X, y=target, weight=weight, balance=balance, **MIXED)
    assert_holds(found.module, X, *sides(4, **MIXED))

    hidden = module[:2](X).detach().double().numpy()
    features = np.column_stack([hidden, np.ones(40)])
    share = np.ones(40) if weight is None else weight.double().numpy()
    objective = HeadObjective.from_rows([features], weights=share)
    start = np.column_stack([module[2].weight.detach(), module[2].bias.detach()])
    values = predictions(found.module, X, 40)
    means = np.average(target.double(), axis=0, weights=share)
    for j, (low, high) in enumerate(np.transpose(sides(4, **MIXED))):
        nearest, balanced = general_solver(
            features,
            start[j].astype(float),
            share,
            metric=objective.metric - objective.gram,
            bounds=(low, high),
            target=means[j] if balance and low <= means[j] <= high else None,
        )
        assert found.repair.balanced_[j] == balanced
        # A head in float32 keeps a margin, which others of its weights make up for.
        tolerance = 1e-6 + (100 * found.margin[j] if dtype == torch.float32 else 0)
        np.testing.assert_allclose(values[:, j], nearest, atol=tolerance)


def sides(n_outputs, lower_bound, upper_bound):
    bounds = Bounds.read(lower_bound, upper_bound, n_outputs)
    return bounds.lower, bounds.upper


@DTYPES
@pytest.mark.parametrize("bound", [0.1, 0.3, -7.0, 0.0])
def test_equal_bounds_make_a_constant(bound, dtype):
    X = make_rows(dtype=dtype)
    found = repair_head(
        make_module(dtype=dtype),
        X,
        y=torch.full((500, 1), bound, dtype=dtype),
        lower_bound=bound,
        upper_bound=bound,
    )
    assert found.repair.balanced_.all()
    assert not found.module[2].weight.any()
    # 0.1 is no number of float32, so the nearest one it is.
    constant = torch.tensor(bound, dtype=dtype)
    assert (found.module(X) == constant).all()


@DTYPES
@pytest.mark.parametrize("width", [1e-15, 1e-9, 1e-6, 1e-3, 0.1])
def test_bounds_close_to_each_other(width, dtype):
    X = make_rows(dtype=dtype)
    bounds = Bounds.read(0.3, 0.3 + width, 1).in_dtype(dtype)
    found = repair_head(
        make_module(dtype=dtype), X, lower_bound=bounds.lower, upper_bound=bounds.upper
    )
    assert_holds(found.module, X, bounds.lower, bounds.upper)


@pytest.mark.parametrize("side", ["lower_bound", "upper_bound"])
@pytest.mark.parametrize("bound", [0.1, 0.7, 1000.3])
def test_a_mean_on_a_bound_between_two_numbers_of_the_dtype_is_kept(bound, side):
    dtype = torch.float32
    X = make_rows(dtype=dtype)
    bounds = {"lower_bound": None, side: bound}
    # No warning: as near to it as float32 can come.
    y = np.full((500, 1), bound)
    found = repair_head(make_module(dtype=dtype), X, y=y, **bounds)
    assert found.repair.balanced_.all()
    error = found.module(X).mean() - bound
    assert abs(error) <= 2 * found.margin[0]


def test_a_mean_out_of_bounds_is_given_up():
    X = make_rows()
    y = make_targets(X)
    with pytest.warns(UserWarning, match="balance was dropped for outputs .0."):
        found = repair_head(make_module(), X, y=y + 5, upper_bound=1.0)
    assert_holds(found.module, X, 0.0, 1.0)


@DTYPES
@pytest.mark.parametrize("offset", [1e6, 1e7])
def test_bounds_far_from_zero_have_a_nearest_head(offset, dtype):
    X = make_rows(dtype=dtype)
    y = make_targets(X).double().numpy()
    bound = np.quantile(y, 0.5)
    module = make_module(dtype=dtype)
    with torch.no_grad():
        module[2].bias += offset
    # No warning that it was lost to rounding.
    found = repair_head(
        module, X, y=np.maximum(y, bound) + offset, lower_bound=bound + offset
    )
    assert found.repair.balanced_.all()
    assert_holds(found.module, X, bound + offset)


@DTYPES
def test_a_margin_grows_with_the_head(dtype):
    X = make_rows(dtype=dtype)
    # The module predicts about 1, and the repaired one about 1000.
    y = 1000 - make_targets(X).abs()
    found = repair_head(make_module(dtype=dtype), X, y=y, upper_bound=1000.0)
    assert found.repair.balanced_.all()
    assert found.margin >= 8 * torch.finfo(dtype).eps * 1000


def test_a_far_bound_takes_no_room_from_the_other():
    X = make_rows()
    near, far = (repair_head(make_module(), X, upper_bound=b) for b in (None, 1e30))
    np.testing.assert_array_equal(near.margin, far.margin)


def test_without_bias_the_bounds_may_leave_no_head():
    module = make_module(bias=False)
    X = torch.cat([make_rows(50), -make_rows(50)])
    assert_holds(
        repair_head(module, X, lower_bound=-0.1, upper_bound=0.1).module, X, -0.1, 0.1
    )
    # Each row comes with its negative, and tanh is odd.
    linear = nn.Sequential(nn.Linear(4, 16, bias=False), nn.Tanh(), module[2])
    with pytest.warns(UserWarning, match="no head without bias obeys the bounds"):
        found = repair_head(linear, X, lower_bound=0.5, upper_bound=1.0)
    assert found.repair.smallest_violation_[0] == pytest.approx(0.5, rel=1e-3)


levels = st.floats(-2, 2) | st.none()


@given(
    st.lists(st.tuples(levels, levels), min_size=1, max_size=3),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
)
def test_no_prediction_is_out_of_any_bounds(pairs, dtype, balance):
    ordered = [
        pair if None in pair or pair[0] <= pair[1] else pair[::-1] for pair in pairs
    ]
    lower, upper = (list(side) for side in zip(*ordered, strict=True))
    bounds = Bounds.read(lower, upper, len(pairs)).in_dtype(dtype)
    X = make_rows(60, dtype)
    y = torch.as_tensor(bounds.clip(make_targets(X, len(pairs)).double().numpy()))
    found = repair_head(
        make_module(len(pairs), dtype),
        X,
        y=y,
        balance=balance,
        lower_bound=lower,
        upper_bound=upper,
    )
    assert_holds(found.module, X, bounds.lower, bounds.upper)
    assert found.repair.balanced_.all() == balance


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"upper_bound": -1.0}, "upper_bound=-1 is below lower_bound=0"),
        (
            {"lower_bound": [0.0, 2.0], "upper_bound": 1.0},
            "upper_bound=1 is below lower_bound=2 for output 1",
        ),
        ({"upper_bound": np.nan}, "upper_bound=nan must be a finite number, or inf"),
        ({"upper_bound": -np.inf}, "upper_bound=-inf must be a finite number, or inf"),
        ({"lower_bound": np.inf}, "lower_bound=inf must be a finite number, or -inf"),
        (
            {"upper_bound": [1, 1, 1]},
            r"upper_bound=.* has shape \(3,\); pass one number",
        ),
        ({"upper_bound": "one"}, "upper_bound='one' must be a finite number"),
    ],
)
def test_bounds_that_make_no_sense(given, message):
    with pytest.raises(ValueError, match=message):
        repair_head(make_module(2), make_rows(10), **given)
