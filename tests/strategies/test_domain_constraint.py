"""Bounds over whole domains, as a term of any loss."""

import copy
import pickle

import pytest
import torch
from constraints import STATEFUL, TERMS, Problem
from properties import assert_same_bits
from torch import nn

from sklpos import certify
from sklpos.strategies import DomainConstraint, IntervalBounds, OutputConstraint

CORNERS = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)


def make_net(n_outputs=1):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, n_outputs)
        return nn.Sequential(*layers).double()


def make_domain(strategy="augmented_lagrangian", *, like=None, **bounds):
    if like is None:
        like = OutputConstraint(torch.tensor([[0.0], [4.0]], dtype=torch.float64))
    return DomainConstraint(
        IntervalBounds(CORNERS, **bounds), like=like, strategy=strategy
    )


@pytest.fixture(params=TERMS)
def name(request):
    return request.param


def test_violation_is_that_of_the_lowest_output():
    net, domain = make_net(), make_domain()
    lowest, _ = IntervalBounds(CORNERS)(net)
    torch.testing.assert_close(domain.violation(net), -lowest / 2)  # y has deviation 2
    inside = torch.rand(1000, 2, dtype=torch.float64) * 2 - 1
    assert (-net(inside) / 2).max() <= domain.violation(net).max()


def test_bounds_and_scales_are_those_of_the_rows():
    y = torch.tensor([[0.0, 0.0, 0.0], [2.0, 4.0, 8.0]], dtype=torch.float64)
    like = OutputConstraint(y, lower_bound=[1.0, -torch.inf, 2.0])
    domain, net = make_domain(like=like), make_net(3)
    lowest, _ = IntervalBounds(CORNERS)(net)
    expected = torch.stack([1 - lowest[:, 0], (2 - lowest[:, 2]) / 4], dim=1)
    torch.testing.assert_close(domain.violation(net), expected)


def test_a_domain_weighs_as_much_as_all_rows():
    like = OutputConstraint(torch.tensor([[0.0], [4.0]], dtype=torch.float64))
    net = make_net()

    def twice(module):
        lowest, highest = IntervalBounds(CORNERS)(module)
        return lowest.repeat(2, 1), highest.repeat(2, 1)

    both = DomainConstraint(twice, like=like, strategy="penalty", n_domains=2)
    torch.testing.assert_close(both(net), 2 * make_domain("penalty", like=like)(net))


def test_each_moves_its_own_columns():
    like = OutputConstraint(torch.tensor([[0.0], [4.0]], dtype=torch.float64))
    domain = make_domain(like=like)
    domain.float()
    assert like.columns.bound.dtype == torch.float64
    like.dual_step(torch.zeros(2, 1, dtype=torch.float64), [0, 1])


def test_the_term_is_pure_and_differentiable(name):
    net, domain = make_net(), make_domain(name)
    domain.dual_step(net)
    before = copy.deepcopy(dict(domain.state_dict()))
    terms = [domain(net) for _ in range(2)]
    assert torch.equal(*terms)
    assert_same_bits(dict(domain.state_dict()), before)
    (sum(terms) + net[0].weight.sum()).backward()
    assert not any(value.requires_grad for value in domain.buffers())


@pytest.mark.parametrize("name", STATEFUL)
def test_bounds_that_are_not_finite_move_nothing(name):
    net, domain = make_net(), make_domain(name)
    domain.dual_step(net)
    before = domain.state.multiplier.clone()
    with torch.no_grad():
        net[0].weight.fill_(torch.nan)
    domain.dual_step(net)
    assert torch.equal(domain.state.multiplier, before)
    assert domain.end_epoch().max_violation > 0


def test_the_domain_grows_by_the_epoch():
    net, domain = make_net(), make_domain(warm_up=4)
    lowest = []
    for _ in range(6):
        domain.dual_step(net)
        lowest.append(domain.end_epoch().max_violation)
    assert lowest == sorted(lowest)
    assert lowest[3] == lowest[5] == make_domain().violation(net).item()
    assert domain.violation(net.eval()).item() == lowest[5]


def pickled(domain):
    return pickle.loads(pickle.dumps(domain))


def reloaded(domain):
    twin = make_domain(warm_up=4)
    twin.load_state_dict(domain.state_dict())
    return twin


@pytest.mark.parametrize("twin_of", [pickled, copy.deepcopy, reloaded])
def test_copies_go_on_in_the_same_way(twin_of):
    net, domain = make_net(), make_domain(warm_up=4)
    domain.dual_step(net)
    domain.end_epoch()
    twin = twin_of(domain)
    assert twin.strategy.state_ is twin.state
    for each in (domain, twin):
        each.dual_step(net)
    assert torch.equal(domain(net), twin(net))
    assert domain.end_epoch() == twin.end_epoch()
    assert_same_bits(dict(domain.state_dict()), dict(twin.state_dict()))


def test_taking_over_spans_both_domains():
    net = make_net()
    earlier = make_domain(warm_up=4)
    for _ in range(2):
        earlier.dual_step(net)
        earlier.end_epoch()
    bounds = IntervalBounds(CORNERS + 1, warm_up=4)
    like = OutputConstraint(torch.tensor([[0.0], [4.0]], dtype=torch.float64))
    later = DomainConstraint(bounds, like=like)
    later.take_over(earlier)
    assert torch.equal(later.state.multiplier, earlier.state.multiplier)
    assert bounds.points.tolist() == [[-1, -1], [2, 2]]
    assert bounds.n_epochs == 2


def test_a_net_is_trained_to_be_proved():
    problem = Problem("augmented_lagrangian")
    bounds = IntervalBounds(CORNERS, warm_up=10, safety=0.02)
    domain = DomainConstraint(bounds, like=problem.constraint, alpha=0.1)
    net = problem.net
    fit = problem.loss
    problem.loss = lambda y_pred, index: fit(y_pred, index) + domain(net)
    for order in problem.orders[:80]:
        for index in order:
            domain.dual_step(net)
            problem.step(index)
        problem.constraint.end_epoch()
        domain.end_epoch()
    proof = certify(net.eval(), ([-1.0, -1.0], [1.0, 1.0]), method="interval")
    assert proof.status_ == "verified"
    residual = problem.predict(problem.X) - problem.y
    assert float(residual.detach().square().mean()) < 0.5 * float(problem.y.var())
