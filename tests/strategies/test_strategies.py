"""Every strategy, by itself: what all have in common, and what each promises."""

import pytest
import torch
from marks import mostly_slow
from sklearn.base import clone

from sklpos import STRATEGIES, ConstraintStrategy
from sklpos.strategies import (
    AugmentedLagrangian,
    ExactPenalty,
    Lagrangian,
    QuadraticPenalty,
    SlackMultipliers,
)
from sklpos.strategies.base import GUARANTEES

N, K = 6, 2


def set_up(strategy, alpha=1.5, seed=0):
    """Set a strategy up, with a state that is not the initial one."""
    generator = torch.Generator().manual_seed(seed)
    room = torch.randn(N, K, generator=generator, dtype=torch.float64)
    strategy.setup(room, alpha=alpha)
    rows = torch.arange(N)
    for _ in range(3):
        violation = torch.randn(N, K, generator=generator, dtype=torch.float64)
        strategy.dual_step(violation, rows)
    return strategy, violation, rows


@pytest.fixture(params=sorted(STRATEGIES))
def strategy(request):
    return STRATEGIES[request.param]()


def state_of(strategy):
    return {name: value.clone() for name, value in strategy.state_.named_buffers()}


def test_guarantee_is_a_known_word(strategy):
    assert strategy.guarantee in GUARANTEES


def test_penalty_is_one_finite_term_per_row_and_column(strategy):
    strategy, violation, rows = set_up(strategy)
    term = strategy.penalty(violation, rows)
    assert term.shape == violation.shape
    assert torch.isfinite(term).all()


def test_penalty_knows_rows_by_number_not_by_position(strategy):
    strategy, violation, rows = set_up(strategy)
    order = torch.tensor([4, 0, 5])
    whole = strategy.penalty(violation, rows)
    assert torch.equal(strategy.penalty(violation[order], order), whole[order])


def test_dual_step_moves_only_the_rows_of_its_batch(strategy):
    strategy, violation, _ = set_up(strategy)
    before = state_of(strategy)
    batch = torch.tensor([4, 1])
    strategy.dual_step(violation[batch] + 1, batch)
    others = torch.tensor([0, 2, 3, 5])
    for name, value in strategy.state_.named_buffers():
        if len(value.shape) == 2 and len(value) >= N:
            assert torch.equal(value[others], before[name][others])


def test_dual_step_of_a_batch_equals_that_of_its_rows(strategy):
    whole, violation, rows = set_up(strategy)
    parts, _, _ = set_up(type(strategy)())
    whole.dual_step(violation, rows)
    for row in rows:
        parts.dual_step(violation[row : row + 1], row[None])
    for name, value in parts.state_.named_buffers():
        assert torch.allclose(value, state_of(whole)[name], rtol=1e-12)


def test_state_tensors_keep_their_place_in_memory(strategy):
    strategy, violation, rows = set_up(strategy)
    before = {name: value.data_ptr() for name, value in strategy.state_.named_buffers()}
    strategy.dual_step(violation, rows)
    strategy.on_epoch_end(1.0)
    strategy.on_epoch_end(1.0)
    after = {name: value.data_ptr() for name, value in strategy.state_.named_buffers()}
    assert after == before


def test_inequality_multipliers_are_the_slope_of_the_penalty():
    """For the slack they are those of the equality, -mu, whatever s is."""
    for cls in (QuadraticPenalty, ExactPenalty, Lagrangian):
        strategy, violation, rows = set_up(cls())
        violation.requires_grad_()
        slope = torch.autograd.grad(strategy.penalty(violation, rows).sum(), violation)[
            0
        ]
        assert torch.allclose(strategy.multipliers(violation, rows), slope)


def test_term_and_slope_agree_with_the_penalty(strategy):
    strategy, violation, rows = set_up(strategy)
    for _ in range(3):
        strategy.dual_step(violation, rows)
    term, slope = strategy.term_and_slope(violation, rows)
    torch.testing.assert_close(
        term, strategy.penalty(violation, rows), rtol=1e-12, atol=1e-14
    )
    by_autograd = ConstraintStrategy.term_and_slope(strategy, violation, rows)
    torch.testing.assert_close(slope, by_autograd[1], rtol=1e-12, atol=1e-15)
    assert not term.requires_grad
    assert not slope.requires_grad


def test_inequality_multipliers_stay_non_negative():
    for cls in (Lagrangian, AugmentedLagrangian):
        strategy, violation, rows = set_up(cls(dual_lr=1.0))
        strategy.dual_step(violation - 100, rows)
        assert (strategy.state_.multiplier == 0).all()


@pytest.mark.parametrize("alpha", [0.01, 1.0, 40.0])
def test_augmented_lagrangian_without_multipliers_is_the_penalty(alpha):
    violation = torch.linspace(-2, 2, N * K, dtype=torch.float64).reshape(N, K)
    terms = []
    for strategy in (AugmentedLagrangian(), QuadraticPenalty()):
        strategy.setup(violation, alpha=alpha)
        terms.append(strategy.penalty(violation, torch.arange(N)))
    assert torch.allclose(*terms, rtol=1e-15, atol=0)


def test_augmented_lagrangian_equals_its_textbook_formula():
    strategy, violation, rows = set_up(AugmentedLagrangian(dual_lr=1.0))
    multiplier, c = strategy.state_.multiplier, 2 * strategy.state_.alpha
    textbook = (torch.relu(multiplier + c * violation) ** 2 - multiplier**2) / (2 * c)
    assert torch.allclose(strategy.penalty(violation, rows), textbook, rtol=1e-12)


def test_augmented_lagrangian_tends_to_the_lagrangian():
    strategy, violation, rows = set_up(AugmentedLagrangian(dual_lr=1.0))
    strategy.state_.multiplier.add_(0.5)
    limit = strategy.state_.multiplier * violation
    for alpha in (1e-12, 1e-320, 0.0):
        strategy.state_.alpha.fill_(alpha)
        term = strategy.penalty(violation, rows)
        assert torch.allclose(term, limit, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 7.0])
def test_the_best_slack_makes_the_slack_term_the_augmented_lagrangian(alpha):
    """min over s of ``mu h + alpha h**2`` is Rockafellar's term of -mu, c = 2 alpha."""
    generator = torch.Generator().manual_seed(1)
    violation = torch.randn(N, K, generator=generator, dtype=torch.float64)
    multiplier = torch.rand(N, K, generator=generator, dtype=torch.float64)
    slack, augmented = SlackMultipliers(), AugmentedLagrangian()
    for strategy in (slack, augmented):
        strategy.setup(violation, alpha=alpha)
    slack.state_.multiplier.copy_(-multiplier)
    augmented.state_.multiplier.copy_(multiplier)
    square = torch.relu(-violation - multiplier / (2 * alpha))
    slack.state_.slack.copy_(square.sqrt())
    rows = torch.arange(N)
    assert torch.allclose(
        slack.penalty(violation, rows), augmented.penalty(violation, rows), rtol=1e-12
    )
    for other in (0.9, 1.1):  # and it is the smallest over s
        slack.state_.slack.copy_(other * square.sqrt() + (square == 0) * 0.1)
        worse = slack.penalty(violation, rows) - augmented.penalty(violation, rows)
        assert (worse > 0).all()


def descend(strategy, weight, targets, *, bound, lr=0.05):
    """Minimise ``(x - target)**2`` subject to ``x >= bound`` by hand, dual first."""
    rows = torch.zeros(1, dtype=torch.long)
    for target in targets:
        with torch.no_grad():
            strategy.dual_step(bound - weight.reshape(1, 1), rows)
        loss = (weight - target) ** 2
        term = strategy.penalty(bound - weight.reshape(1, 1), rows).sum()
        (gradient,) = torch.autograd.grad(loss + term, weight)
        weight.data -= lr * gradient
    return weight.item(), strategy.multipliers(
        bound - weight.reshape(1, 1), rows
    ).item()


DUAL = mostly_slow(["lagrangian", "augmented_lagrangian", "slack"], "slack")


@pytest.mark.parametrize("name", DUAL)
def test_a_bound_violated_only_at_the_start_does_not_hold_the_solution_back(name):
    """With the slack started at ``sqrt(relu(x))`` = 0, x would stay at 1."""
    strategy, weight = STRATEGIES[name](), torch.tensor(-1.0, requires_grad=True)
    strategy.setup(torch.full((1, 1), -2.0), alpha=1.0)
    reached, multiplier = descend(strategy, weight, [3.0] * 2000, bound=1.0)
    assert reached == pytest.approx(3, abs=1e-4)
    assert multiplier == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", DUAL)
def test_a_bound_active_for_long_lets_go(name):
    strategy, weight = STRATEGIES[name](), torch.tensor(-3.0, requires_grad=True)
    strategy.setup(torch.full((1, 1), -3.0), alpha=1.0)
    reached, multiplier = descend(strategy, weight, [-3.0] * 1000, bound=0.0)
    assert reached == pytest.approx(0, abs=1e-3)
    assert multiplier == pytest.approx(6, abs=1e-2)
    reached, multiplier = descend(strategy, weight, [2.0] * 2000, bound=0.0)
    assert reached == pytest.approx(2, abs=1e-4)
    assert multiplier == pytest.approx(0, abs=1e-4)


def test_slack_is_never_absorbed_at_zero():
    strategy = SlackMultipliers()
    strategy.setup(torch.full((1, 1), -5.0), alpha=1.0)
    assert strategy.state_.slack.item() == pytest.approx(0.1)
    for _ in range(200):
        strategy.dual_step(torch.ones(1, 1), torch.zeros(1, dtype=torch.long))
    assert strategy.state_.slack.item() == pytest.approx(strategy.min_slack)


@pytest.mark.parametrize("largest", [1.0, 1e3, 1e6])
def test_slack_step_is_stable_at_any_distance_from_the_bound(largest):
    """A fixed gradient step diverges once ``s**2 > 1 / (4 alpha slack_lr)``."""
    strategy, rows = SlackMultipliers(), torch.zeros(1, dtype=torch.long)
    y = torch.full((1, 1), largest, dtype=torch.float64)
    strategy.setup(0.25 * y, alpha=10.0)
    for _ in range(300):
        strategy.dual_step(-y, rows)
    assert strategy.state_.slack.item() ** 2 == pytest.approx(largest, rel=1e-3)


def epochs(strategy, violations, alpha=1.0):
    strategy.setup(torch.zeros(1, 1), alpha=alpha)
    record = []
    for violation in violations:
        strategy.on_epoch_end(violation)
        record.append(strategy.state_.alpha.item())
    return record


def test_curvature_grows_only_without_progress_and_up_to_its_cap():
    strategy = AugmentedLagrangian(max_curvature=16.0, growth=2.0)
    assert epochs(strategy, [1, 0.2, 0.04, 0.04, 0.04, 0.04, 0.04]) == [
        1, 1, 1, 2, 4, 8, 8,
    ]  # fmt: skip
    assert epochs(strategy, [1e-5] * 5) == [1] * 5
    assert epochs(strategy, [1] * 3, alpha=50.0) == [50] * 3


def exact_penalty_epochs(violations, share=1.0):
    strategy, rows = ExactPenalty(patience=2, max_alpha=4.0), torch.tensor([0])
    strategy.setup(torch.zeros(1, 1), alpha=1.0)
    record = []
    for violation in violations:
        strategy.state_.share.fill_(share)
        strategy.dual_step(torch.full((1, 1), violation), rows)
        strategy.on_epoch_end(violation)
        record.append(strategy.state_.alpha.item())
    return record


def test_exact_penalty_doubles_only_if_no_epoch_of_the_window_was_feasible():
    assert exact_penalty_epochs([1.0] * 6) == [1, 1, 1, 2, 2, 4]
    assert exact_penalty_epochs([1.0, 0.0] * 3) == [1] * 6
    assert exact_penalty_epochs([1.0] * 12)[-1] == 4


def test_exact_penalty_doubles_only_for_rows_of_the_whole_slope():
    assert exact_penalty_epochs([1.0] * 12, share=0.99) == [1] * 12


@pytest.mark.slow
@pytest.mark.parametrize("width", [0.05, 0.5])
def test_the_rounded_kink_ends_at_the_minimum_of_the_sharp_one(width):
    """``(x + 3)**2 + alpha relu(-x)`` is smallest at ``min(alpha / 2 - 3, 0)``."""
    for alpha, solution in ((1.0, -2.5), (4.0, -1.0), (10.0, 0.0)):
        strategy = ExactPenalty(width=width, max_alpha=0.0)
        weight = torch.tensor(1.0, requires_grad=True)
        strategy.setup(torch.zeros(1, 1), alpha=alpha)
        reached, multiplier = descend(strategy, weight, [-3.0] * 4000, bound=0, lr=4e-3)
        assert reached == pytest.approx(solution, abs=1e-4)
        assert multiplier == pytest.approx(2 * (solution + 3), abs=1e-2)


def test_hyper_parameters_are_scikit_learn_parameters(strategy):
    params = strategy.get_params()
    assert type(strategy)(**params).get_params() == params


def test_strategies_are_cloned_and_printed_like_estimators():
    strategy = clone(AugmentedLagrangian(dual_lr=0.2))
    assert repr(strategy) == "AugmentedLagrangian(dual_lr=0.2)"
    assert repr(strategy.set_params(dual_lr=0.05)) == "AugmentedLagrangian()"


def test_unknown_hyper_parameters_raise():
    with pytest.raises(ValueError, match="Invalid parameter"):
        Lagrangian().set_params(step=1)
