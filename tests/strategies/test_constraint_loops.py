"""Constraints in training loops: what is trained, and that it is what fit trains."""

import copy

import numpy as np
import pytest
import torch
from constraints import ROWS, STATEFUL, TERMS, Problem, make_constraint, make_problem
from marks import mostly_slow
from properties import assert_same_bits

from sklpos import MLP, PositiveOutputRegressor, certify
from sklpos.repair import repair_head
from sklpos.strategies import AugmentedLagrangian, OutputConstraint
from sklpos.training.loaders import BatchLoader
from sklpos.training.rows import RowDataset


@pytest.fixture(params=TERMS)
def name(request):
    return request.param


# Gradients


@pytest.mark.parametrize("sizes", [(4, 4), (2, 2, 2, 2), (5, 3), (1, 7)])
def test_gradients_of_micro_batches_add_up(name, sizes):
    y, y_pred, weight = make_problem()
    whole, parts = (make_constraint(name, y, weight=weight) for _ in range(2))
    leaves = [y_pred.clone().requires_grad_() for _ in range(2)]
    for _ in range(2):
        whole.dual_step(leaves[0], ROWS)
        whole_term = whole(leaves[0], ROWS)
        total = 0
        for index in ROWS.flip(0).split(sizes):
            parts.dual_step(leaves[1][index], index)
            term = len(index) / 8 * parts(leaves[1][index], index)
            if term.requires_grad:
                term.backward()
            total = total + term.detach()
        torch.testing.assert_close(total, whole_term.detach())
        if whole_term.requires_grad:
            whole_term.backward()
            torch.testing.assert_close(*(leaf.grad for leaf in leaves))
    torch.testing.assert_close(whole.multipliers, parts.multipliers)
    assert vars(whole.end_epoch()) == pytest.approx(vars(parts.end_epoch()))


def test_terms_of_micro_batches_may_wait_for_one_backward_pass(name):
    problem = Problem(name)
    losses = []
    for index in problem.orders[0]:
        y_pred = problem.predict(problem.X[index])
        problem.constraint.dual_step(y_pred, index)
        losses.append(problem.loss(y_pred, index))
    sum(losses).backward()
    assert all(weight.grad.isfinite().all() for weight in problem.net.parameters())


def test_the_term_is_pure(name):
    y, y_pred, _ = make_problem()
    constraint = make_constraint(name, y)
    constraint.dual_step(y_pred, ROWS)
    before = copy.deepcopy(dict(constraint.state_dict()))
    terms = {float(constraint(y_pred, ROWS)) for _ in range(3)}
    constraint.violation(y_pred)
    _ = constraint.multipliers
    assert len(terms) == 1
    assert_same_bits(dict(constraint.state_dict()), before)


def test_the_gradient_is_that_of_finite_differences(name):
    y, y_pred, weight = make_problem()
    constraint = make_constraint(name, y, weight=weight)
    constraint.dual_step(y_pred, ROWS)
    leaf = y_pred.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: constraint(f, ROWS) + f.sum(), leaf)


def test_lbfgs(name):
    problem = Problem(name)
    everything = torch.arange(40)
    optimizer = torch.optim.LBFGS(
        problem.net.parameters(), max_iter=10, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = problem.loss(problem.predict(problem.X), everything)
        loss.backward()
        return loss

    for _ in range(12):
        problem.constraint.dual_step(problem.predict(problem.X), everything)
        optimizer.step(closure)
        problem.constraint.end_epoch()
    smallest = float(problem.predict(problem.X).detach().min())
    assert smallest > (-1 if name == "unconstrained" else -0.06)


# What is trained


def test_training_does_not_depend_on_the_unit_of_y(name):
    one, other = Problem(name), Problem(name, unit=1000.0)
    for problem in (one, other):
        problem.train(20)
    for ours, theirs in zip(one.net.parameters(), other.net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    multipliers = one.constraint.multipliers, other.constraint.multipliers / 1000
    torch.testing.assert_close(*multipliers, rtol=1e-6, atol=1e-8)


@pytest.fixture(scope="module")
def unconstrained_minimum():
    problem = Problem("unconstrained").train(150)
    return float(problem.net(problem.X).detach().min())


@pytest.mark.parametrize(
    "name", mostly_slow(["exact_penalty", *STATEFUL], "augmented_lagrangian")
)
def test_train_repair_certify(name, unconstrained_minimum):
    problem = Problem(name).train(150)
    X, y = problem.X, problem.y
    smallest = float(problem.net(X).detach().min())
    assert smallest > unconstrained_minimum / 1.7

    repaired = repair_head(problem.net, X, y=y).module
    predictions = repaired(X).detach()
    assert float(predictions.min()) >= 0
    assert float(predictions.mean()) == pytest.approx(float(y.mean()), abs=1e-9)
    assert type(repaired[-1]) is torch.nn.Linear

    certificate = certify(repaired, ([-1.0, -1.0], [1.0, 1.0]), time_limit=5)
    assert certificate.status_ in ("verified", "falsified")
    if certificate.status_ == "falsified":
        found = torch.as_tensor(certificate.counterexample_)[None]
        assert float(repaired(found).detach().min()) < 0


def test_multipliers_are_those_of_the_problem():
    """One constant fitted to -1 and 1, bound 0: f = 0, or 2 mean(f - y) = lambda."""
    constant = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[-3.0], [1.0]], dtype=torch.float64)
    strategy = AugmentedLagrangian(max_curvature=10)
    constraint = OutputConstraint(y, strategy=strategy)
    for _ in range(600):
        y_pred = constant.expand(2, 1)
        constraint.dual_step(y_pred, [0, 1])
        loss = (y_pred - y).square().mean() + constraint(y_pred, [0, 1])
        (slope,) = torch.autograd.grad(loss, constant)
        with torch.no_grad():
            constant -= 0.05 * slope
        constraint.end_epoch()
    assert float(constant.detach()) == pytest.approx(0, abs=1e-6)
    assert float(constraint.multipliers.mean()) == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize("name", [n for n in TERMS if n != "certified"])
def test_a_plain_loop_trains_what_the_estimator_trains(name, data):
    params = {
        "strategy": name,
        "lower_bound": 0.1,
        "on_violated_y": "ignore",
        "repair": None,
        "optimizer": torch.optim.Adam,
        "module": MLP,
        "module__hidden_layer_sizes": (6,),
        "lr": 0.02,
        "lr_schedule": None,
        "batch_size": 16,
        "weight_decay": 0.0,
        "random_state": 0,
    }
    arrays = data.X, data.y, data.weight
    fitted = PositiveOutputRegressor(max_epochs=8, **params).fit(*arrays).net_
    start = PositiveOutputRegressor(max_epochs=0, **params).fit(*arrays).net_

    net, targets = copy.deepcopy(start.module_), start.targets
    shift, scale = float(targets.shift[0]), float(targets.scale[0])
    X, y, weight = (torch.tensor(array) for array in arrays)
    rows = RowDataset(X, y[:, None], weight)
    loader = BatchLoader(rows, 16, shuffle=True, seed=start.seed)
    constraint = OutputConstraint(y, lower_bound=0.1, weight=weight, strategy=name)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(8):
        for batch in loader:
            y_pred = shift + scale * net(batch.X)
            constraint.dual_step(y_pred, batch.index)
            loss = (batch.weight * (y_pred - batch.y) ** 2).mean()
            loss = loss + constraint(y_pred, batch.index)
            optimizer.zero_grad()
            (loss / scale**2).backward()
            optimizer.step()
        constraint.end_epoch()

    for own, other in zip(net.parameters(), fitted.module_.parameters(), strict=True):
        np.testing.assert_allclose(own.detach(), other.detach(), rtol=0, atol=1e-9)
    moved = [
        (own - old).abs().max()
        for own, old in zip(net.parameters(), start.module_.parameters(), strict=True)
    ]
    assert min(moved) > 1e-3
    theirs = scale * fitted.constraint_.multipliers
    np.testing.assert_allclose(constraint.multipliers, theirs, rtol=0, atol=1e-9)
    assert constraint.state.alpha == fitted.constraint_.state.alpha
