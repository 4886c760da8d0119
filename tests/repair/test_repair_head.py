"""`repair_head`: any module that ends in ``nn.Linear``, attacked."""

import copy

import numpy as np
import pytest
import torch
from modules import (
    assert_holds,
    loader_of,
    make_module,
    make_rows,
    make_targets,
    predictions,
)
from properties import assert_same_bits
from torch import nn

from sklpos import MLP, PositiveOutputRegressor
from sklpos.repair import Repair, RepairedHead, repair_head

# The promises


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
def test_the_bound_holds_and_the_mean_is_the_mean_target(seed, dtype):
    X = make_rows(dtype=dtype, seed=seed)
    y = make_targets(X, 2)
    module = make_module(2, dtype, seed)
    assert predictions(module, X, 500).min() < 0
    found = repair_head(module, X, y=y)
    assert isinstance(found, RepairedHead)
    assert isinstance(found.repair, Repair)
    assert found.repair.feasible_.all()
    assert found.repair.balanced_.all()
    assert (found.margin == found.repair.margin_).all()
    assert_holds(found.module, X)
    missed = predictions(found.module, X, 500).mean(0) - y.double().mean(0).numpy()
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    assert (np.abs(missed) < tolerance * y.double().std(0).numpy()).all()


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e5])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_bounds_far_from_zero_and_outputs_of_any_size(offset, scale):
    X = make_rows(3000)
    module = make_module()
    with torch.no_grad():
        module[2].weight.mul_(scale)
        module[2].bias.mul_(scale).add_(offset * scale)
    bound = offset * scale
    found = repair_head(module, X, lower_bound=bound)
    assert_holds(found.module, X, bound)
    change = predictions(found.module, X, 3000) - predictions(module, X, 3000)
    assert np.abs(change).max() < 10 * scale  # and the rounding of large numbers


def test_the_unit_of_the_outputs_does_not_matter():
    X = make_rows(dtype=torch.float64)
    small, large = make_module(dtype=torch.float64), make_module(dtype=torch.float64)
    with torch.no_grad():
        small[2].weight.mul_(2.0**-30)
        small[2].bias.mul_(2.0**-30)
    ends = [repair_head(module, X).module[2].weight for module in (small, large)]
    np.testing.assert_allclose(ends[0].detach() * 2.0**30, ends[1].detach(), rtol=1e-9)


def test_bounds_per_output_and_a_free_one():
    X = make_rows()
    module = make_module(3)
    bound = np.array([0.5, -np.inf, -0.1])
    found = repair_head(module, X, lower_bound=bound)
    assert_holds(found.module, X, bound)
    before, after = (predictions(m, X, 500)[:, 1] for m in (module, found.module))
    np.testing.assert_array_equal(before, after)


def test_rows_that_obey_already_change_nothing():
    module = make_module()
    X = make_rows()
    bound = predictions(module, X, 500).min() - 1
    found = repair_head(module, X, lower_bound=bound)
    assert_same_bits(found.module.state_dict(), module.state_dict())
    assert not found.repair.cost_.any()


def test_weights_are_those_of_the_mean_and_a_weight_of_zero_leaves_a_row_out():
    X = make_rows(200, torch.float64)
    y = make_targets(X)
    weight = torch.arange(200.0) % 4
    found = repair_head(make_module(dtype=torch.float64), X, y=y, weight=weight)
    used = weight > 0
    alone = repair_head(
        make_module(dtype=torch.float64), X[used], y=y[used], weight=weight[used]
    )
    assert_same_bits(found.module.state_dict(), alone.module.state_dict())
    values = predictions(found.module, X, 200)[:, 0]
    mean = np.average(values, weights=weight)
    assert abs(mean - np.average(y[:, 0], weights=weight)) < 1e-9
    assert found.repair.multipliers_.shape == (200, 1)
    assert not found.repair.multipliers_[~used.numpy()].any()
    assert (found.repair.multipliers_ > 0).sum() == found.repair.n_cuts_[0]


def test_without_balance_the_head_is_the_nearest_alone():
    X = make_rows(300, torch.float64)
    y = make_targets(X) + 5
    module = make_module(dtype=torch.float64)
    plain = repair_head(module, X)
    free = repair_head(module, X, y=y, balance=False)
    assert not free.repair.balanced_.any()
    assert not plain.repair.balanced_.any()
    np.testing.assert_allclose(
        predictions(plain.module, X, 300), predictions(free.module, X, 300), atol=1e-6
    )


# The same as the estimator's


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_bit_for_bit_what_the_estimator_does(data, dtype, outputs, weighted):
    X, y = data.X.astype(dtype), data.Y[:, :outputs]
    weight = data.weight * (np.arange(40) % 5 > 0) if weighted else None
    net = PositiveOutputRegressor(
        module=MLP,
        module__hidden_layer_sizes=(8,),
        max_epochs=5,
        random_state=0,
        batch_size=16,
    ).fit(X, y if outputs > 1 else y.ravel(), weight)
    given = net.fitted_.as_trained.module
    found = repair_head(given, X, y=y, weight=weight)
    assert_same_bits(found.module.state_dict(), net.module_.state_dict())
    for name in ("multipliers_", "n_cuts_", "cost_", "margin_", "balanced_"):
        assert_same_bits(getattr(found.repair, name), getattr(net.repair_, name))


# Loaders


@pytest.mark.parametrize(
    ("batch_size", "dtype"),
    [(1, torch.float64), (37, torch.float32), (500, torch.float64)],
)
def test_a_loader_is_as_good_as_an_array(batch_size, dtype):
    X = make_rows(dtype=dtype)
    y = make_targets(X)
    module = make_module(dtype=dtype)
    whole = repair_head(module, X, y=y)
    for loader in (
        loader_of(X, y, batch_size=batch_size),
        loader_of(X, y[:, 0], torch.arange(500), batch_size=batch_size),
    ):
        found = repair_head(module, loader)
        assert_holds(found.module, X)
        assert found.repair.balanced_.all()
        np.testing.assert_allclose(
            predictions(found.module, X, 500),
            predictions(whole.module, X, 500),
            atol=1e-4 if dtype == torch.float32 else 1e-8,
        )


def test_targets_given_count_before_those_of_the_loader():
    X = make_rows()
    y = make_targets(X)
    found = repair_head(make_module(), loader_of(X, y), y=y + 1)
    mean = predictions(found.module, X, 500).mean()
    assert abs(mean - (y + 1).mean().item()) < 1e-5


@pytest.mark.parametrize(
    "second",
    [torch.arange(500), torch.zeros(500, 1, dtype=torch.int32), torch.ones(500, 2)],
    ids=["index", "integers", "of another width"],
)
def test_what_is_no_target_is_not_taken_for_one(second):
    X = make_rows()
    found = repair_head(make_module(), loader_of(X, second))
    alone = repair_head(make_module(), loader_of(X))
    assert not found.repair.balanced_.any()
    assert_same_bits(found.module.state_dict(), alone.module.state_dict())


def test_weights_leave_rows_of_a_loader_out():
    X = make_rows(200, torch.float64)
    y = make_targets(X)
    weight = (torch.arange(200) % 3 > 0).double()
    weight[:80] = 0  # whole batches
    module = make_module(dtype=torch.float64)
    found = repair_head(module, loader_of(X, y), weight=weight)
    alone = repair_head(module, X[weight > 0], y=y[weight > 0])
    np.testing.assert_allclose(
        predictions(found.module, X, 200), predictions(alone.module, X, 200), atol=1e-8
    )


def test_features_are_not_held_where_there_are_many(monkeypatch):
    monkeypatch.setattr("sklpos.nets.rows._MAX_CACHE", 0)
    X = make_rows(dtype=torch.float64)
    y = make_targets(X)
    module = make_module(dtype=torch.float64)
    found = repair_head(module, loader_of(X, y))
    monkeypatch.undo()
    held = repair_head(module, loader_of(X, y))
    assert_same_bits(found.module.state_dict(), held.module.state_dict())


def test_rows_of_a_loader_are_never_together():
    class Counting:
        alive, most = 0, 0

        def __iter__(self):
            for start in range(0, 4000, 40):
                yield (
                    torch.randn(40, 4, generator=torch.Generator().manual_seed(start)),
                )

    found = repair_head(make_module(), Counting())
    assert found.repair.multipliers_.shape == (4000, 1)
    for (X,) in Counting():
        assert_holds(found.module, X)


@pytest.mark.parametrize("kind", [list, tuple])
def test_lists_of_tensors_are_loaders_and_lists_of_numbers_arrays(kind):
    X = make_rows(20)
    module = make_module()
    parts = kind(X.split(6))
    whole, batches, pairs, numbers = (
        repair_head(module, rows).repair.multipliers_.shape
        for rows in (X, parts, kind((part, 0) for part in parts), kind(X.tolist()))
    )
    assert whole == batches == pairs == numbers == (20, 1)


# What is given stays


class Recorder:
    def __init__(self):
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1


def test_the_given_module_is_left_alone_and_the_copy_is_like_it():
    module = nn.Sequential(
        nn.Linear(4, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(16, 1),
    )
    module[1].eval()
    module[3].eval()
    module[0].weight.requires_grad_(False)
    hook = Recorder()
    handle = module[2].register_forward_hook(hook)
    kept = copy.deepcopy(module.state_dict())
    modes = [part.training for part in module.modules()]
    X = make_rows()
    found = repair_head(module, X, y=make_targets(X))
    assert_same_bits(module.state_dict(), kept)
    assert [part.training for part in module.modules()] == modes
    assert [part.training for part in found.module.modules()] == modes
    for theirs, ours in zip(
        module.parameters(), found.module.parameters(), strict=True
    ):
        assert ours.requires_grad == theirs.requires_grad
        assert ours is not theirs
        assert ours.grad is None
        assert isinstance(ours, nn.Parameter)
        assert ours.is_leaf
    for theirs, ours in zip(module.modules(), found.module.modules(), strict=True):
        assert len(ours._forward_hooks) == len(theirs._forward_hooks)
        assert len(ours._forward_pre_hooks) == len(theirs._forward_pre_hooks)
    assert hook.calls == 0
    handle.remove()
    assert_holds(found.module, X)


def test_the_copy_can_be_trained_on():
    X = make_rows()
    found = repair_head(make_module(), X)
    optimizer = torch.optim.SGD(found.module.parameters(), lr=0.1)
    found.module(X).mean().backward()
    optimizer.step()


def test_hooks_that_change_features_count():
    module = make_module()
    module[1].register_forward_hook(lambda layer, args, output: output + 3)
    X = make_rows()
    assert_holds(repair_head(module, X).module, X)


def test_gradients_and_the_mode_of_autograd_stay():
    X = make_rows().requires_grad_()
    module = make_module()
    module(X).sum().backward()
    kept = [weight.grad.clone() for weight in module.parameters()]
    with torch.no_grad():
        repair_head(module, X)
    repair_head(module, X)
    assert torch.is_grad_enabled()
    assert_same_bits([weight.grad for weight in module.parameters()], kept)
