"""A strategy as a term of any loss: what it computes, and what it promises."""

import numpy as np
import pytest
import torch
from constraints import (
    LOWER_BOUND,
    ROWS,
    STATEFUL,
    TERMS,
    make_constraint,
    make_problem,
    weighted_deviation,
)
from torch import nn

from sklpos.strategies import Lagrangian, OutputConstraint


@pytest.fixture(params=TERMS)
def name(request):
    """Every strategy that is a term of the loss."""
    return request.param


def written_out(name, strategy, g, state):
    """The terms of the documentation, in numpy; `state` has the rows of the batch."""
    alpha = state["alpha"]
    if name == "unconstrained":
        return 0 * g
    if name == "penalty":
        return alpha * np.maximum(g, 0) ** 2
    if name == "exact_penalty":
        reach = state["share"] + g / strategy.width
        share = np.clip(reach, 0, 1)
        return strategy.width * alpha * share * (reach - share / 2)
    multiplier = state["multiplier"]
    if name == "slack":
        residual = -g - state["slack"] ** 2
        return multiplier * residual + alpha * residual**2
    if name == "lagrangian":
        return (multiplier + state["proportional"]) * g
    c = 2 * alpha
    return (np.maximum(multiplier + c * g, 0) ** 2 - multiplier**2) / (2 * c)


def test_term_is_the_formula(name):
    y, y_pred, weight = make_problem()
    constraint = make_constraint(name, y, weight=weight)
    index = torch.tensor([5, 0, 3])
    for _ in range(3):
        constraint.dual_step(y_pred[index] - 1, index)
    scale = weighted_deviation(y, weight)
    violation = ((LOWER_BOUND - y_pred[index].numpy()) / scale)[:, :2]
    state = {n: v.numpy() for n, v in constraint.state.named_buffers()}
    state = {n: v[index] if v.ndim else v for n, v in state.items()}
    term = scale[:2] ** 2 * written_out(name, constraint.strategy, violation, state)
    share = (weight / weight.mean())[index, None]
    expected = (share * term).sum() / (3 * 3)  # the free output counts in the mean
    assert float(constraint(y_pred[index], index)) == pytest.approx(expected, rel=1e-12)


def test_term_and_gradient_agree_with_the_closed_form(name):
    y, y_pred, _ = make_problem()
    constraint = make_constraint(name, y)
    constraint.dual_step(y_pred - 1, ROWS)
    leaf = y_pred.clone().requires_grad_()
    term = constraint(leaf, ROWS)
    violation = constraint.violation(y_pred)
    closed, slope = constraint.strategy.term_and_slope(violation, ROWS)
    columns = constraint.columns
    torch.testing.assert_close(term.detach(), columns.mean_term(closed))
    if term.requires_grad:
        term.backward()
        expected = columns.slope_in_outputs(slope) / y_pred.numel()
        torch.testing.assert_close(leaf.grad, expected)


def test_without_multipliers_it_is_the_penalty():
    y, y_pred, _ = make_problem()
    terms = [
        make_constraint(strategy, y, alpha=3.0)(y_pred, ROWS)
        for strategy in ("penalty", "augmented_lagrangian")
    ]
    torch.testing.assert_close(*terms)


def test_a_free_output_has_no_part(name):
    y, y_pred, _ = make_problem()
    constraint = make_constraint(name, y)
    y_pred[:, 2] = -1e6
    moved = y_pred.clone()
    moved[:, 2] = 1e6
    constraint.dual_step(y_pred, ROWS)
    assert constraint(y_pred, ROWS) == constraint(moved, ROWS)
    assert constraint.multipliers.shape == (8, 3)
    assert not constraint.multipliers[:, 2].any()
    assert constraint.violation(y_pred).shape == (8, 2)


def test_all_outputs_free(name):
    y, y_pred, _ = make_problem()
    constraint = OutputConstraint(y, lower_bound=-np.inf, strategy=name)
    constraint.dual_step(y_pred, ROWS)
    term = constraint(y_pred.requires_grad_(), ROWS)
    (term + 0 * y_pred.sum()).backward()
    assert term.detach() == 0
    assert not y_pred.grad.any()
    assert constraint.end_epoch().max_violation == 0
    assert constraint.end_epoch().violation_rate == 0


def test_the_unit_of_y_does_not_matter(name):
    y, y_pred, weight = make_problem()
    parts = []
    for unit in (1.0, 1000.0):
        bound = unit * LOWER_BOUND
        constraint = make_constraint(name, unit * y, weight=weight, lower_bound=bound)
        constraint.dual_step(unit * y_pred, ROWS)
        term = constraint(unit * y_pred, ROWS)
        parts.append((term / unit**2, constraint.multipliers / unit))
    for one, other in zip(*parts, strict=True):
        torch.testing.assert_close(one, other)


def test_without_targets_the_scale_is_1(name):
    _, y_pred, _ = make_problem()
    constraint = OutputConstraint(n_samples=8, n_outputs=3, strategy=name).double()
    torch.testing.assert_close(constraint.violation(y_pred), -y_pred)
    assert constraint.n_samples == 8
    constraint.dual_step(y_pred, ROWS)
    assert constraint(y_pred, ROWS).isfinite()


@pytest.mark.parametrize("name", STATEFUL)
def test_order_of_the_rows_does_not_matter(name):
    y, y_pred, _ = make_problem()
    found = []
    for index in (ROWS, ROWS.flip(0), torch.tensor([3, 1, 0, 2, 7, 6, 4, 5])):
        constraint = make_constraint(name, y)
        constraint.dual_step(y_pred[index], index)
        found.append(constraint.multipliers)
        terms = constraint(y_pred[index], index), constraint(y_pred, ROWS)
        torch.testing.assert_close(*terms)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found[0].any()


@pytest.mark.parametrize("name", STATEFUL)
def test_only_rows_of_the_batch_move(name):
    y, y_pred, _ = make_problem()
    constraint = make_constraint(name, y)
    constraint.dual_step(y_pred[2:4] - 5, [2, 3])
    moved = constraint.multipliers.any(1)
    assert moved.tolist() == [False, False, True, True] + 4 * [False]


@pytest.mark.parametrize("name", STATEFUL)
def test_a_repeated_row_moves_once_by_its_mean_violation(name):
    y, y_pred, _ = make_problem()
    index = torch.tensor([2, 5, 2, 2])
    once, often = make_constraint(name, y), make_constraint(name, y)
    often.dual_step(y_pred[:4], index)
    mean = y_pred[[0, 2, 3]].mean(0, keepdim=True)
    once.dual_step(torch.cat([mean, y_pred[1:2]]), [2, 5])
    torch.testing.assert_close(often.multipliers, once.multipliers)
    torch.testing.assert_close(dict(often.state_dict()), dict(once.state_dict()))


def test_rows_of_weight_0_have_no_part(name):
    y, y_pred, weight = make_problem()
    weight[[1, 4]] = 0
    y_pred[[1, 4]] = -100.0
    kept = weight.nonzero()[0]
    whole = make_constraint(name, y, weight=weight)
    part = make_constraint(name, y[kept], weight=weight[kept])
    whole.dual_step(y_pred, ROWS)
    part.dual_step(y_pred[kept], torch.arange(6))
    term = part(y_pred[kept], torch.arange(6))
    torch.testing.assert_close(whole(y_pred, ROWS), term)
    torch.testing.assert_close(whole.multipliers[kept], part.multipliers)
    assert not whole.multipliers[[1, 4]].any()
    one, other = whole.end_epoch(), part.end_epoch()
    assert one.max_violation == pytest.approx(other.max_violation)
    assert one.violation_rate == other.violation_rate


def test_weights_of_a_batch_replace_those_of_the_rows(name):
    y, y_pred, weight = make_problem()
    constraint = make_constraint(name, y, weight=weight)
    plain = make_constraint(name, y, scale=weighted_deviation(y, weight))
    share = weight / weight.mean()
    for given in (share, share[:, None], np.tile(share[:, None], 3)):
        one = plain(y_pred, ROWS, torch.as_tensor(given))
        torch.testing.assert_close(one, constraint(y_pred, ROWS))
        other = constraint(y_pred, ROWS, torch.as_tensor(given))
        torch.testing.assert_close(one, other)


def test_weights_per_output():
    y, y_pred, _ = make_problem()
    constraint = make_constraint("penalty", y)
    per_output = torch.zeros(8, 3)
    per_output[:, 1] = 1
    only = y_pred.clone()
    only[:, 0] = 1e3
    torch.testing.assert_close(
        constraint(y_pred, ROWS, per_output), constraint(only, ROWS)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_predictions_that_are_not_finite_move_nothing(name, value):
    y, y_pred, _ = make_problem()
    one, other = make_constraint(name, y), make_constraint(name, y)
    y_pred[3, 0] = value
    rest = torch.tensor([0, 1, 2, 4, 5, 6, 7])
    one.dual_step(y_pred, ROWS)
    other.dual_step(y_pred[rest], rest)
    torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()))
    one.dual_step(torch.full_like(y_pred, value), ROWS)
    assert torch.equal(one.multipliers, other.multipliers)
    assert all(value.isfinite().all() for value in [one.multipliers, one.state.alpha])
    assert one.end_epoch() == other.end_epoch()


def test_a_dual_step_never_breaks_the_next_backward_pass(name):
    y, _, _ = make_problem()
    torch.manual_seed(0)
    net = nn.Linear(2, 3).double()
    X = torch.randn(8, 2).double()
    constraint = make_constraint(name, y)
    for _ in range(3):
        y_pred = net(X) - 1
        constraint.dual_step(y_pred, ROWS)
        constraint.ascend(constraint.violation(y_pred), ROWS)
        constraint.step(constraint.violation(y_pred), ROWS)
        (y_pred.square().mean() + constraint(y_pred, ROWS)).backward()
    assert not any(value.requires_grad for value in constraint.buffers())
    constraint.end_epoch()


def test_a_summary_describes_the_epoch():
    strategy = Lagrangian(dual_lr=0.2, damping=0)
    constraint = OutputConstraint(n_samples=4, strategy=strategy)
    constraint.dual_step(torch.tensor([[-1.0], [2.0]]), [0, 1])
    constraint.dual_step(torch.tensor([[-3.0], [-1.0]]), [2, 3])
    summary = constraint.end_epoch()
    assert summary.max_violation == 3
    assert summary.violation_rate == 0.75
    assert summary.max_multiplier == pytest.approx(0.6)
    assert summary.mean_multiplier == pytest.approx((0.2 + 0 + 0.6 + 0.2) / 4)
    assert summary.alpha == 1
    constraint.dual_step(torch.ones(1, 1), [0])
    assert constraint.end_epoch().max_violation == 0


def test_the_schedule_runs_once_per_epoch():
    constraint = OutputConstraint(n_samples=1, strategy="augmented_lagrangian")
    alphas = []
    for _ in range(3):
        for _ in range(5):
            constraint.dual_step(torch.tensor([[-1.0]]), [0])
        alphas.append(constraint.end_epoch().alpha)
    # the first epoch has nothing to be compared with
    assert alphas == pytest.approx([1, 1, 1.06])
