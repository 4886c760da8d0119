"""What is not valid is refused, in one sentence."""

import re

import numpy as np
import pytest
import torch
from constraints import ROWS, WAITING, make_problem
from torch import nn

from sklpos.strategies import DomainConstraint, IntervalBounds, OutputConstraint

NAN, INF = float("nan"), float("inf")
Y = torch.ones(8, 2)


def one_sentence(error):
    return re.search(r"[.!?] \w", str(error.value)) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either y, .* or n_samples=None"),
        ({"y": Y, "n_samples": 8}, "either y, .* or n_samples=8"),
        ({"n_samples": 0}, "n_samples=0 must be"),
        ({"n_samples": 2.5}, "n_samples=2.5 must be"),
        ({"n_samples": True}, "n_samples=True must be"),
        ({"n_samples": 2, "n_outputs": 0}, "n_outputs=0 must be"),
        ({"y": Y, "n_outputs": 3}, "n_outputs=3, but y has 2"),
        ({"y": Y * NAN}, "y contains NaN"),
        ({"y": Y * INF}, "y contains NaN or infinity"),
        ({"y": torch.ones(0, 1)}, r"y has shape \(0, 1\)"),
        ({"y": torch.ones(2, 1, 1)}, r"y has shape \(2, 1, 1\)"),
        ({"y": 3.0}, r"y has shape \(\)"),
        ({"y": "targets"}, "y='targets' must be numbers"),
        ({"y": [[1.0], [1.0, 2.0]]}, "y=.* must be numbers"),
        ({"y": Y > 0}, "y has dtype torch.bool"),
        ({"y": Y * 1j}, "y has dtype torch.complex64"),
        ({"y": Y, "lower_bound": NAN}, "lower_bound=nan must be a finite n.* or -inf"),
        ({"y": Y, "lower_bound": INF}, "lower_bound=inf must be a finite n.* or -inf"),
        ({"y": Y, "upper_bound": NAN}, "upper_bound=nan must be a finite n.* or inf"),
        ({"y": Y, "upper_bound": -INF}, "upper_bound=-inf must be a finite .* or inf"),
        ({"y": Y, "lower_bound": [0, 0, 0]}, r"lower_bound=.* has shape \(3,\)"),
        ({"y": Y, "upper_bound": [0, 0, 0]}, r"upper_bound=.* has shape \(3,\)"),
        ({"y": Y, "lower_bound": "low"}, "lower_bound='low' must be a finite number"),
        ({"y": Y, "upper_bound": -1}, "upper_bound=-1 is below lower_bound=0 for o"),
        ({"y": Y, "scale": 0.0}, "scale=0.0 must be finite and positive"),
        ({"y": Y, "scale": [1.0, -1.0]}, r"scale=\[1.0, -1.0\] must be"),
        ({"y": Y, "scale": INF}, "scale=inf must be"),
        ({"y": Y, "scale": NAN}, "scale=nan must be"),
        ({"y": Y, "scale": [1, 1, 1]}, r"scale has shape \(3,\)"),
        ({"y": Y, "weight": torch.ones(7)}, r"weight has shape \(7,\)"),
        ({"y": Y, "weight": torch.ones(8, 1)}, r"weight has shape \(8, 1\)"),
        ({"y": Y, "weight": 1.0}, r"weight has shape \(\)"),
        ({"y": Y, "weight": [-1] + 7 * [1]}, "weight must be finite and at least 0"),
        ({"y": Y, "weight": [NAN] + 7 * [1]}, "weight must be finite and at least 0"),
        ({"y": Y, "weight": 8 * [0]}, "weight must be .* above 0 in one"),
        ({"y": Y, "alpha": -1.0}, "alpha=-1.0 must be a finite number"),
        ({"y": Y, "alpha": NAN}, "alpha=nan must be"),
        ({"y": Y, "alpha": INF}, "alpha=inf must be"),
        ({"y": Y, "alpha": "1"}, "alpha='1' must be"),
        ({"y": Y, "alpha": 0}, "alpha=0 would switch .*augmented_lagrangian.* off"),
        ({"y": Y, "strategy": "slack", "alpha": 0}, "alpha=0 would switch"),
        ({"y": Y, "strategy": "exact_penalty", "alpha": 0}, "alpha=0 would switch"),
        ({"y": Y, "strategy": "activation"}, "'activation' is part of the module"),
        ({"y": Y, "strategy": "nonnegative_weights"}, "is part of the module"),
        ({"y": Y, "strategy": "clip"}, "'clip' is unknown; choose one of"),
        ({"y": Y, "strategy": None}, "strategy=None is unknown"),
        ({"y": Y, "strategy": nn.ReLU()}, r"strategy=ReLU\(\) is unknown"),
    ],
)
def test_a_constraint_that_makes_no_sense(given, message):
    with pytest.raises(ValueError, match=message) as error:
        OutputConstraint(**given)
    assert one_sentence(error)


def test_an_alpha_of_0_may_be_meant():
    OutputConstraint(Y, strategy="penalty", alpha=0)


@pytest.mark.parametrize("strategy", ["unconstrained", "lagrangian"])
@pytest.mark.parametrize("alpha", [0, 1.5])
def test_an_alpha_without_an_effect_warns(strategy, alpha):
    with pytest.warns(UserWarning, match=f"alpha={alpha} has no effect"):
        OutputConstraint(Y, strategy=strategy, alpha=alpha)


F = torch.zeros(8, 2)
BATCHES = [
    (F[:, 0], ROWS, r"y_pred has shape \(8,\), but \(batch, 2\) is needed"),
    (F[:, :1], ROWS, r"y_pred has shape \(8, 1\)"),
    (F[None], ROWS, r"y_pred has shape \(1, 8, 2\)"),
    (F.numpy(), ROWS, "y_pred is a ndarray; pass a torch.Tensor"),
    (None, ROWS, "y_pred is a NoneType"),
    (F.long(), ROWS, "y_pred has dtype torch.int64"),
    (F > 0, ROWS, "y_pred has dtype torch.bool"),
    (F, ROWS - 1, "index contains -1, but the row numbers of 8 rows"),
    (F, ROWS + 1, "index contains 8, but .* go from 0 to 7"),
    (F, ROWS[:7], r"index has shape \(7,\)"),
    (F, ROWS[:, None], r"index has shape \(8, 1\)"),
    (F[:1], 0, r"index has shape \(\)"),
    (F, ROWS > 3, "index has dtype torch.bool"),
    (F, ROWS * 1.0, "index has dtype torch.float32"),
    (F, np.arange(8.0), "index has dtype torch.float64"),
    (F, None, "index=None must be numbers"),
    (F, "abc", "index='abc' must be numbers"),
]


@pytest.mark.parametrize(("y_pred", "index", "message"), BATCHES)
def test_a_batch_that_makes_no_sense(y_pred, index, message):
    constraint = OutputConstraint(Y)
    before = {name: value.clone() for name, value in constraint.state_dict().items()}
    for call in (constraint, constraint.dual_step):
        with pytest.raises(ValueError, match=message) as error:
            call(y_pred, index)
        assert one_sentence(error)
    torch.testing.assert_close(dict(constraint.state_dict()), before)


def test_a_column_of_predictions_is_suggested():
    constraint = OutputConstraint(n_samples=4)
    with pytest.raises(ValueError, match=r"use y_pred\[:, None\]"):
        constraint(torch.zeros(4), range(4))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(7), r"weight has shape \(7,\); pass one number for each of the 8"),
        (torch.ones(1), r"weight has shape \(1,\)"),
        (torch.ones(8, 3), r"weight has shape \(8, 3\)"),
        (torch.ones(8, 1, 1), r"weight has shape \(8, 1, 1\)"),
        (2.0, r"weight has shape \(\)"),
        (-torch.ones(8), "weight must be finite and at least 0 in every row"),
        (torch.ones(8, 2) * NAN, "weight must be finite and at least 0"),
        (torch.ones(8) * INF, "weight must be finite and at least 0"),
        (torch.ones(8) > 0, "weight has dtype torch.bool"),
        ("heavy", "weight='heavy' must be numbers"),
    ],
)
def test_weights_of_a_batch_that_make_no_sense(weight, message):
    with pytest.raises(ValueError, match=message) as error:
        OutputConstraint(Y)(F, ROWS, weight)
    assert one_sentence(error)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int8])
def test_row_numbers_of_any_integer_type(dtype):
    constraint = OutputConstraint(Y)
    index = np.arange(8).astype(dtype)
    constraint.dual_step(F - 1, index)
    assert constraint(F, index) == constraint(F, ROWS)


def test_an_empty_batch_is_a_batch():
    constraint = OutputConstraint(Y)
    y_pred = F[:0].clone().requires_grad_()
    constraint.dual_step(y_pred, [])
    constraint.dual_step(y_pred, ROWS[:0])
    term = constraint(y_pred, ROWS[:0], torch.ones(0))
    term.backward()
    assert term.detach() == 0
    constraint.end_epoch()


# The order of the calls


@pytest.mark.parametrize("name", WAITING)
def test_an_epoch_without_a_dual_step(name):
    y, y_pred, _ = make_problem()
    constraint = OutputConstraint(y, strategy=name)
    for _ in range(2):
        constraint(y_pred, ROWS)
        with pytest.raises(RuntimeError, match="without a dual_step"):
            constraint.end_epoch()
        constraint.dual_step(y_pred, ROWS)
        constraint.end_epoch()


def test_strategies_that_wait_for_nothing():
    for name in ("unconstrained", "penalty"):
        summary = OutputConstraint(Y, strategy=name).end_epoch()
        assert summary.max_violation == 0
    OutputConstraint(Y, lower_bound=-INF).end_epoch()


def test_a_dual_step_without_valid_rows_is_a_dual_step():
    constraint = OutputConstraint(Y)
    constraint.dual_step(F * NAN, ROWS)
    assert constraint.end_epoch().max_violation == 0


# Domains


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"X": [1.0, 2.0]}, r"X has shape \(2,\)"),
        ({"X": torch.ones(0, 2)}, r"X has shape \(0, 2\)"),
        ({"X": torch.ones(2, 2) * NAN}, "X contains NaN"),
        (
            {"domain": "ball"},
            "domain='ball' of IntervalBounds must be one of 'box', 'hull'",
        ),
        ({"margin": -0.1}, "margin=-0.1 of IntervalBounds must be"),
        ({"safety": NAN}, "safety=nan of IntervalBounds must be"),
        ({"warm_up": 1.5}, "warm_up=1.5 of IntervalBounds must be"),
    ],
)
def test_a_domain_that_makes_no_sense(given, message):
    with pytest.raises(ValueError, match=message):
        IntervalBounds(**{"X": torch.rand(4, 2)} | given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategy": "activation"}, "part of the module"),
        ({"strategy": "clip"}, "unknown"),
        ({"alpha": 0}, "alpha=0 would switch"),
        ({"alpha": -1}, "alpha=-1 must be"),
        ({"n_domains": 0}, "n_domains=0 must be"),
    ],
)
def test_a_domain_constraint_that_makes_no_sense(given, message):
    bounds, like = IntervalBounds(torch.rand(4, 2)), OutputConstraint(Y)
    with pytest.raises(ValueError, match=message):
        DomainConstraint(bounds, like=like, **given)


@pytest.mark.parametrize("shape", [(2, 2), (1, 1), (2,), (1, 3)])
def test_bounds_of_another_shape(shape):
    domain = DomainConstraint(
        lambda module: (torch.zeros(shape), torch.ones(shape)),
        like=OutputConstraint(Y),
    )
    for call in (domain, domain.dual_step, domain.violation):
        with pytest.raises(ValueError, match=r"bounds returned .* need \(1, 2\)"):
            call(nn.Linear(2, 2))


def test_a_domain_waits_for_a_dual_step():
    domain = DomainConstraint(
        IntervalBounds(torch.rand(4, 2)), like=OutputConstraint(Y)
    )
    with pytest.raises(RuntimeError, match="without a dual_step"):
        domain.end_epoch()
