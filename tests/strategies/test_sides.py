"""Upper bounds and bounds on both sides, as terms of any loss."""

import numpy as np
import pytest
import torch
from constraints import ROWS, STATEFUL, TERMS, make_problem
from torch import nn

from sklpos.strategies import DomainConstraint, OutputConstraint

INF = torch.inf
# The outputs have a lower bound, an upper one, and both.
SIDES = {"lower_bound": [0.0, -INF, 4.5], "upper_bound": [INF, 2.0, 5.5]}


@pytest.fixture(params=TERMS)
def name(request):
    """Every strategy that is a term of the loss."""
    return request.param


def train(constraint, y_pred, sign=1):
    """Two epochs with one batch each, of predictions far out of bounds."""
    for _ in range(2):
        constraint.dual_step(sign * y_pred, ROWS)
        constraint.end_epoch()
    return constraint


def test_columns_are_the_finite_bounds():
    y, y_pred, _ = make_problem()
    constraint = OutputConstraint(y, scale=[1.0, 10.0, 0.1], **SIDES)
    f = y_pred.numpy()
    expected = [
        -f[:, 0],
        (4.5 - f[:, 2]) / 0.1,
        (f[:, 1] - 2) / 10,
        (f[:, 2] - 5.5) / 0.1,
    ]
    found = constraint.violation(y_pred).numpy()
    np.testing.assert_allclose(found, np.transpose(expected), rtol=1e-12)


def test_an_upper_bound_is_the_mirror_image_of_a_lower_one(name):
    y, y_pred, _ = make_problem()
    below = OutputConstraint(y, strategy=name, lower_bound=[0.0, 1.0, -INF])
    above = OutputConstraint(
        -y, strategy=name, lower_bound=None, upper_bound=[0.0, -1.0, INF]
    )
    train(below, y_pred)
    train(above, y_pred, -1)
    leaf, mirrored = y_pred.clone(), -y_pred
    terms = [below(leaf.requires_grad_(), ROWS), above(mirrored.requires_grad_(), ROWS)]
    torch.testing.assert_close(*terms, rtol=1e-12, atol=0)
    torch.testing.assert_close(below.multipliers, -above.multipliers)
    if terms[0].requires_grad:
        terms[0].backward()
        terms[1].backward()
        torch.testing.assert_close(leaf.grad, -mirrored.grad)


def test_two_sides_are_the_sum_of_each_alone(name):
    y, y_pred, _ = make_problem()
    both = train(OutputConstraint(y, strategy=name, **SIDES), y_pred)
    lower, upper = (
        train(OutputConstraint(y, strategy=name, **bounds), y_pred)
        for bounds in (
            {"lower_bound": SIDES["lower_bound"]},
            {"lower_bound": None, "upper_bound": SIDES["upper_bound"]},
        )
    )
    # The schedule sees the largest violation of all columns, so alpha may differ.
    for constraint in (lower, upper):
        constraint.state.alpha.copy_(both.state.alpha)
    total = lower(y_pred, ROWS) + upper(y_pred, ROWS)
    torch.testing.assert_close(both(y_pred, ROWS), total)
    expected = lower.multipliers + upper.multipliers
    torch.testing.assert_close(both.multipliers, expected)
    if name in STATEFUL:
        assert (lower.multipliers > 0).any()
        assert (upper.multipliers < 0).any()


@pytest.mark.parametrize("name", [n for n in STATEFUL if n != "slack"])
def test_the_sign_of_a_multiplier_says_which_side_pushes(name):
    constraint = OutputConstraint(
        np.ones((3, 2)), strategy=name, scale=1.0, upper_bound=[2.0, None]
    )
    y_pred = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [3.0, 3.0]])
    constraint.dual_step(y_pred, [0, 1, 2])
    assert constraint.multipliers.sign().tolist() == [[1, 1], [0, 0], [-1, 0]]


@pytest.mark.parametrize("upper", [2.0, [2.0, None]])
def test_a_multiplier_of_no_force_is_not_shown_as_minus_zero(upper):
    constraint = OutputConstraint(
        np.ones((3, 2)), scale=1.0, lower_bound=None, upper_bound=upper
    )
    assert not constraint.multipliers.signbit().any()


def test_slack_starts_from_the_room_on_each_side():
    y = np.array([[0.0], [1.0], [3.0]])
    sides = {"lower_bound": -1.0, "upper_bound": 5.0}
    constraint = OutputConstraint(y, strategy="slack", scale=2.0, **sides)
    room = np.hstack([y + 1, 5 - y]) / 2
    found = constraint.state.slack.numpy() ** 2
    np.testing.assert_allclose(found, room + 1e-2, rtol=1e-6)


def test_terms_and_slopes_agree_on_both_sides(name):
    y, y_pred, _ = make_problem()
    constraint = train(OutputConstraint(y, strategy=name, **SIDES), y_pred)
    leaf = y_pred.clone().requires_grad_()
    term = constraint(leaf, ROWS)
    columns = constraint.columns
    closed, slope = constraint.strategy.term_and_slope(
        constraint.violation(y_pred), ROWS
    )
    torch.testing.assert_close(term.detach(), columns.mean_term(closed))
    if term.requires_grad:
        term.backward()
        expected = columns.slope_in_outputs(slope) / y_pred.numel()
        torch.testing.assert_close(leaf.grad, expected)


def test_a_summary_counts_predictions_and_not_sides():
    y, y_pred, _ = make_problem()
    constraint = OutputConstraint(y, strategy="lagrangian", **SIDES)
    constraint.dual_step(y_pred, ROWS)
    multipliers = constraint.multipliers
    summary = constraint.end_epoch()
    outside = constraint.violation(y_pred) > 0
    assert summary.violation_rate == pytest.approx(int(outside.sum()) / (8 * 3))
    scale = torch.as_tensor(y).std(0, correction=0)
    mean = float((multipliers.abs() / scale).sum() / (8 * 3))
    assert summary.mean_multiplier == pytest.approx(mean)


def test_weights_per_output_reach_both_sides():
    y, y_pred, _ = make_problem()
    constraint = OutputConstraint(y, strategy="penalty", **SIDES)
    weight = torch.zeros(8, 3, dtype=torch.float64)
    weight[:, 2] = 2.0
    alone = OutputConstraint(
        y,
        strategy="penalty",
        lower_bound=[-INF, -INF, 4.5],
        upper_bound=[INF, INF, 5.5],
    )
    found = constraint(y_pred, ROWS, weight)
    torch.testing.assert_close(found, 2 * alone(y_pred, ROWS))


@pytest.mark.slow
@pytest.mark.parametrize("name", STATEFUL)
def test_equal_bounds_hold_an_output_at_a_number(name):
    torch.manual_seed(0)
    X = torch.linspace(-1, 1, 16, dtype=torch.float64)[:, None]
    net = nn.Linear(1, 1).double()
    constraint = OutputConstraint(
        X + 0.5, strategy=name, lower_bound=0.5, upper_bound=0.5
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    for _ in range(1500):
        y_pred = net(X)
        constraint.dual_step(y_pred, torch.arange(16))
        loss = ((y_pred - X - 0.5) ** 2).mean() + constraint(y_pred, torch.arange(16))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        constraint.end_epoch()
    assert (net(X) - 0.5).abs().max() < 0.02


def test_a_domain_has_its_lowest_and_its_highest_outputs():
    y, _, _ = make_problem()
    like = OutputConstraint(y, scale=[1.0, 10.0, 0.1], **SIDES)
    lowest = torch.tensor([[-1.0, -5.0, 4.0]], dtype=torch.float64, requires_grad=True)
    highest = torch.tensor([[9.0, 22.0, 5.0]], dtype=torch.float64, requires_grad=True)
    domain = DomainConstraint(lambda module: (lowest, highest), like=like)
    violation = domain.violation(None)
    torch.testing.assert_close(
        violation.detach(),
        torch.tensor([[1.0, 5.0, 2.0, -5.0]], dtype=torch.float64),
    )
    domain.dual_step(None)
    domain(None).backward()
    # A lower bound pulls at the lowest outputs alone, an upper one at the highest.
    assert lowest.grad.sign().tolist() == [[-1.0, 0.0, -1.0]]
    assert highest.grad.sign().tolist() == [[0.0, 1.0, 0.0]]


def test_bounds_of_a_domain_have_the_shape_of_the_outputs():
    like = OutputConstraint(torch.ones(4, 2), upper_bound=1.0)
    domain = DomainConstraint(
        lambda module: (torch.ones(1, 2), torch.ones(1, 3)), like=like
    )
    with pytest.raises(ValueError, match=r"shapes \(1, 2\) and \(1, 3\), but"):
        domain.dual_step(None)
