"""A constraint is a module: it moves, is saved, copied, compiled and cast."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from constraints import ROWS, STATEFUL, TERMS, Problem, make_constraint, make_problem
from fake_device import runs_on_fake_device
from marks import mostly_slow
from properties import assert_same_bits
from torch import nn

from sklpos.strategies import (
    ConstraintStrategy,
    DomainConstraint,
    IntervalBounds,
    Lagrangian,
    OutputConstraint,
)


@pytest.fixture(params=TERMS)
def name(request):
    return request.param


def floats(module):
    return [value for value in module.buffers() if value.is_floating_point()]


def after_some_steps(name):
    y, y_pred, _ = make_problem()
    constraint = make_constraint(name, y)
    for shift in (0, 1, 2):
        constraint.dual_step(y_pred - shift, ROWS)
    return constraint, y_pred


def test_it_has_no_parameters(name):
    assert list(after_some_steps(name)[0].parameters()) == []


# Device and dtype


@pytest.mark.parametrize("name", TERMS)
@runs_on_fake_device
def test_another_device_gives_the_same(device, name):
    y, y_pred, weight = make_problem()
    found = []
    for where in ("cpu", device):
        constraint = make_constraint(name, y, weight=weight).to(where)
        index = ROWS.flip(0).to(where)
        there = y_pred.detach().to(where).requires_grad_()
        for _ in range(2):
            constraint.dual_step(there, index)
            constraint.dual_step(there - 1, [3, 3] + 6 * [0])
        term = constraint(there, index) + constraint(there, index, weight)
        if term.requires_grad:
            term.backward()
        assert {value.device.type for value in constraint.buffers()} == {where}
        gradient = None if there.grad is None else there.grad.cpu()
        parts = term.detach().cpu(), gradient, constraint.multipliers.cpu()
        parts = *parts, vars(constraint.end_epoch())
        state = {n: v.cpu() for n, v in constraint.state_dict().items()}
        found.append([*parts, state])
    assert_same_bits(*found)


@runs_on_fake_device
def test_a_device_may_change_within_an_epoch(device):
    _, y_pred, _ = make_problem()
    constraint, _ = after_some_steps("augmented_lagrangian")
    before = constraint.multipliers
    constraint.to(device)
    assert torch.equal(constraint.multipliers.cpu(), before)
    constraint.dual_step(y_pred.to(device), ROWS)
    assert constraint.end_epoch().max_violation > 0


@runs_on_fake_device
def test_a_domain_on_another_device(device):
    found = []
    for where in ("cpu", device):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).to(where)
        bounds = IntervalBounds(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        rows = OutputConstraint(torch.ones(3, 1))
        domain = DomainConstraint(bounds, like=rows).to(where)
        assert rows.columns.bound.device.type == "cpu"
        domain.dual_step(net)
        domain(net).backward()
        gradients = [weight.grad.cpu() for weight in net.parameters()]
        found.append([*gradients, domain.state.multiplier.cpu()])
    assert_same_bits(*found)


def test_double_and_half(name):
    constraint, y_pred = after_some_steps(name)
    assert {value.dtype for value in floats(constraint)} == {torch.float64}
    for cast in (constraint.half, constraint.bfloat16, constraint.float):
        cast()
        assert {value.dtype for value in floats(constraint)} == {torch.float32}
    holder = nn.ModuleDict({"net": nn.Linear(2, 3), "constraint": constraint}).half()
    assert holder["net"].weight.dtype == torch.float16
    assert {value.dtype for value in floats(constraint)} == {torch.float32}
    constraint.double()
    assert {value.dtype for value in floats(constraint)} == {torch.float64}
    assert constraint.strategy.state_ is constraint.state
    constraint.dual_step(y_pred, ROWS)
    assert constraint(y_pred, ROWS).dtype == torch.float64


def test_half_keeps_the_multipliers():
    constraint, _ = after_some_steps("lagrangian")
    before = constraint.float().multipliers
    assert torch.equal(constraint.half().multipliers, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_predictions_of_any_precision(name, dtype):
    y, y_pred, _ = make_problem()
    constraint = make_constraint(name, y).float()
    exact = make_constraint(name, y)
    rounded = y_pred.to(dtype).requires_grad_()
    for each in (constraint, exact):
        each.dual_step(rounded, ROWS)
    term = constraint(rounded, ROWS)
    assert term.dtype == torch.promote_types(dtype, torch.float32)
    same = exact(rounded.detach().double(), ROWS)
    torch.testing.assert_close(term.double(), same, rtol=1e-4, atol=1e-5)
    if term.requires_grad:
        term.backward()
        assert rounded.grad.dtype == dtype
    assert {value.dtype for value in floats(constraint)} == {torch.float32}


def test_autocast(name):
    problem = Problem(name, dtype=torch.float32)
    index = problem.orders[0][0]
    with torch.autocast("cpu", torch.bfloat16):
        y_pred = problem.net(problem.X[index])
        assert y_pred.dtype == torch.bfloat16
        problem.constraint.dual_step(y_pred, index)
        term = problem.constraint(y_pred, index)
    assert term.dtype == torch.float32
    (term + y_pred.float().square().mean()).backward()
    assert all(weight.grad.isfinite().all() for weight in problem.net.parameters())


@pytest.mark.parametrize("name", ["penalty", "augmented_lagrangian"])
def test_training_under_autocast(name):
    problem = Problem(name, dtype=torch.float32)
    problem.predict = torch.autocast("cpu", torch.bfloat16)(problem.net)
    problem.train(60)
    assert float(problem.net(problem.X).detach().min()) > -0.15


# Saving and copying


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_state_goes_through_a_file(name):
    constraint, y_pred = after_some_steps(name)
    fresh = make_constraint(name, make_problem()[0])
    fresh.load_state_dict(through_a_file(constraint.state_dict()))
    assert fresh.strategy.state_ is fresh.state
    for each in (constraint, fresh):
        each.dual_step(y_pred, ROWS)
    assert torch.equal(constraint(y_pred, ROWS), fresh(y_pred, ROWS))
    assert_same_bits(dict(constraint.state_dict()), dict(fresh.state_dict()))
    assert constraint.end_epoch() == fresh.end_epoch()


def test_configuration_is_not_state(name):
    keys = make_constraint(name, make_problem()[0]).state_dict().keys()
    assert {key.split(".")[0] for key in keys} == {"state", "record"}


def test_resumed_training_is_training_in_one_go(name):
    whole = Problem(name).train(6)
    state = through_a_file(Problem(name).train(3).state())
    resumed = Problem(name).load(state).train(3, start=3)
    assert_same_bits(resumed.state(), whole.state())


def test_training_resumed_within_an_epoch(name):
    whole, first = Problem(name).train(3), Problem(name).train(2)
    for index in first.orders[2][:3]:
        first.step(index)
    resumed = Problem(name).load(through_a_file(first.state()))
    for index in first.orders[2][3:]:
        resumed.step(index)
    resumed.constraint.end_epoch()
    assert_same_bits(resumed.state(), whole.state())


def pickled(constraint):
    return pickle.loads(pickle.dumps(constraint))


@pytest.mark.parametrize("twin_of", [pickled, copy.deepcopy])
def test_copies_are_whole_and_independent(name, twin_of):
    constraint, y_pred = after_some_steps(name)
    twin = twin_of(constraint)
    assert twin.strategy.state_ is twin.state
    assert twin.state is not constraint.state
    assert_same_bits(dict(twin.state_dict()), dict(constraint.state_dict()))
    before = constraint.multipliers.clone()
    twin.dual_step(y_pred - 10, ROWS)
    assert torch.equal(constraint.multipliers, before)
    constraint.dual_step(y_pred - 10, ROWS)
    assert torch.equal(constraint(y_pred, ROWS), twin(y_pred, ROWS))
    assert constraint.end_epoch() == twin.end_epoch()


def test_a_group_of_processes_is_shared_by_copies_but_not_pickled():
    group = object()  # cannot be told from a group here, and cannot be pickled either
    constraint = OutputConstraint(n_samples=2, process_group=group)
    assert copy.deepcopy(constraint).process_group is group
    assert copy.deepcopy(nn.ModuleList([constraint]))[0].process_group is group
    assert pickled(constraint).process_group is None


def test_a_strategy_of_ones_own_is_copied():
    own = Lagrangian(dual_lr=0.5)
    constraint = OutputConstraint(n_samples=2, strategy=own)
    assert constraint.strategy is not own
    assert constraint.strategy.dual_lr == 0.5
    assert not hasattr(own, "state_")


@pytest.mark.parametrize("name", STATEFUL)
def test_the_state_of_a_loaded_strategy_moves(name):
    constraint = pickled(after_some_steps(name)[0])
    before = constraint.multipliers.clone()
    constraint.dual_step(make_problem()[1] - 7, ROWS)
    assert not torch.equal(constraint.multipliers, before)


# Compilation


BACKEND = "eager"  # the default one needs a C++ compiler, and warns


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("weighted", mostly_slow([False, True], True))
def test_the_term_compiles_without_a_break(name, weighted):
    y, y_pred, weight = make_problem()
    given = torch.as_tensor(weight) if weighted else None
    constraint = make_constraint(name, y)
    compiled = torch.compile(constraint, fullgraph=True, backend=BACKEND)
    for shift in (0, 1):
        constraint.dual_step(y_pred - shift, ROWS)
        leaves = [y_pred.clone().requires_grad_() for _ in range(2)]
        terms = [
            term(leaf, ROWS, given)
            for term, leaf in zip((constraint, compiled), leaves, strict=True)
        ]
        torch.testing.assert_close(*terms)
        if terms[0].requires_grad:
            (terms[0] + terms[1]).backward()
            torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


# dynamo looks at the gradient of all that comes in
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_loss_trains_the_same():
    eager, compiled = Problem("augmented_lagrangian"), Problem("augmented_lagrangian")
    compiled.loss = torch.compile(compiled.loss, fullgraph=True, backend=BACKEND)
    for problem in (eager, compiled):
        problem.train(2)
    states = [dict(problem.net.state_dict()) for problem in (eager, compiled)]
    torch.testing.assert_close(*states)
    torch.testing.assert_close(
        eager.constraint.multipliers, compiled.constraint.multipliers
    )


def test_rows_and_weights_may_be_arrays_that_are_read_only(name):
    y, y_pred, weight = make_problem()
    for array in (y, weight):
        array.setflags(write=False)
    index = np.arange(8)[::-1]
    index.setflags(write=False)
    constraint = make_constraint(name, y, weight=weight)
    constraint.dual_step(y_pred, index)
    one = constraint(y_pred, index)
    other = constraint(y_pred, index.tolist(), weight[::-1] / weight.mean())
    torch.testing.assert_close(one, other)


class GrowingPenalty(ConstraintStrategy):
    guarantee = "none"

    def penalty(self, violation, index):
        return self.state_.alpha * torch.relu(violation) ** 2


def test_the_default_slope_is_known_in_inference_mode():
    constraint = OutputConstraint(n_samples=2, strategy=GrowingPenalty())
    with torch.inference_mode():
        y_pred = torch.tensor([[-1.0], [2.0]])
        constraint.dual_step(y_pred, [0, 1])
        slope = constraint.strategy.multipliers(-y_pred, torch.arange(2))
    assert slope.tolist() == [[2.0], [0.0]]
    assert constraint.end_epoch().max_multiplier == 2
