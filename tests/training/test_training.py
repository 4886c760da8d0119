"""The loop computes what skorch's own loop and autograd compute."""

import functools
import pickle
import types

import numpy as np
import pytest
import torch
from constrained_nets import make_net
from marks import mostly_slow
from properties import assert_same_bits, assert_same_training_state
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback
from skorch.dataset import ValidSplit
from torch import nn

from sklpos import STRATEGIES
from sklpos.strategies import AugmentedLagrangian, ConstraintStrategy
from sklpos.training.backprop import Backprop
from sklpos.training.net import ConstrainedNet
from sklpos.training.step import loss_per_output

HOOKS = ("on_batch_begin", "on_batch_end", "on_grad_computed")


class Onlooker(Callback):
    """Defines every hook of a batch, so that nothing may be left out or put off."""

    def initialize(self):
        self.seen_ = []
        return self

    def on_batch_begin(self, net, batch, training):
        self.seen_.append(("begin", training, len(net.history[-1, "batches"])))

    def on_grad_computed(self, net, named_parameters, batch, training):
        size = sum(weight.grad.abs().sum().item() for _, weight in named_parameters)
        self.seen_.append(("gradient", training, size))

    def on_batch_end(self, net, batch, training, loss, y_pred, **step):
        record = net.history[-1, "batches", -1]
        prefix = "train" if training else "valid"
        assert record[f"{prefix}_loss"] == loss.item()
        assert record[f"{prefix}_batch_size"] == len(y_pred)
        self.seen_.append(("end", training, loss.item()))


def timeless(history):
    return [{k: v for k, v in row.items() if k != "dur"} for row in history]


@pytest.mark.parametrize("callbacks", [(), (Onlooker(),)])
def test_without_a_constraint_the_loop_is_that_of_skorch(data, callbacks):
    """Also with validation rows, which skorch holds out by default."""
    nets = skorch_net(data, *callbacks), net_without_constraint(data, *callbacks)
    theirs, ours = nets
    for weight, same in zip(*(net.module_.parameters() for net in nets), strict=True):
        torch.testing.assert_close(weight, same, rtol=1e-9, atol=1e-12)
    for row, own in zip(theirs.history, ours.history, strict=True):
        assert own.keys() >= row.keys()
        for name in row.keys() - {"dur", "batches"}:
            assert own[name] == pytest.approx(row[name], rel=1e-9)
        for batch, same in zip(row["batches"], own["batches"], strict=True):
            assert batch == pytest.approx(same, rel=1e-9)
    if callbacks:
        seen = [dict(net.callbacks_)["Onlooker"].seen_ for net in nets]
        assert [entry[:2] for entry in seen[0]] == [entry[:2] for entry in seen[1]]
        assert len(seen[0]) > 3 * 3


def make_module():
    torch.manual_seed(0)
    layers = nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)
    return nn.Sequential(*layers).double()


TRAINING = {
    "optimizer": torch.optim.Adam,
    "optimizer__fused": False,
    "batch_size": 16,
    "max_epochs": 3,
    "verbose": 0,
    "train_split": ValidSplit(5),
}


def skorch_net(data, *callbacks):
    net = NeuralNetRegressor(make_module(), callbacks=list(callbacks), **TRAINING)
    return net.fit(data.X.copy(), data.Y.copy())


def net_without_constraint(data, *callbacks, **params):
    params |= {**TRAINING, "callbacks": list(callbacks), "strategy": "unconstrained"}
    net = make_net(make_module(), data.Y.copy(), head="2", **params)
    return net.fit(data.X.copy(), data.Y.copy())


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_of_a_net_are_called(data, hook):
    calls = []

    class Loud(ConstrainedNet):
        pass

    setattr(Loud, hook, lambda net, *args, **kwargs: calls.append(hook))
    net_without_constraint(data, kind=Loud)
    assert calls


def test_a_callback_that_comes_later_is_heard(small, data):
    model = small(max_epochs=1).fit(data.X, data.Y)
    rows = model.net_.get_dataset(data.X.copy(), torch.tensor(data.Y))
    model.net_.callbacks_.append(("late", Onlooker().initialize()))
    model.net_.partial_fit(rows, epochs=1)
    assert dict(model.net_.callbacks_)["late"].seen_


@pytest.mark.parametrize("bound", mostly_slow([0.0, [0.0, -np.inf]], [0.0, -np.inf]))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_onlooker_changes_nothing(small, data, strategy, bound):
    """Losses are read after the epoch, or in every batch because somebody looks on."""
    params = {"strategy": strategy, "lower_bound": bound, "batch_size": 16}
    late = small(**params).fit(data.X, data.Y, data.weight)
    soon = small(callbacks=[Onlooker()], **params).fit(data.X, data.Y, data.weight)
    assert_same_bits(
        dict(late.net_.module_.state_dict()), dict(soon.net_.module_.state_dict())
    )
    assert_same_bits(late.multipliers_, soon.multipliers_)
    assert_same_bits(late.predict(data.X), soon.predict(data.X))
    for one, other in zip(late.history_, soon.history_, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"dur", "batches"}:
            assert one[name] == pytest.approx(other[name], rel=1e-12, abs=1e-15)
        for batch, same in zip(one["batches"], other["batches"], strict=True):
            assert batch == pytest.approx(same, rel=1e-12)


def textbook_step(net, batch, **fit_params):
    """One loss with its graph, and ``loss.backward()``."""
    net.module_.train()
    y_pred = net.infer(batch.X)
    violation = net.constraint_.columns.violation(y_pred)
    domain = net.domain_constraint_
    of_domains = None if domain is None else domain.violation(net.module_)
    for listener in net.listeners("on_violation"):
        listener(net, violation.detach(), batch.index)
    if of_domains is not None:
        for listener in net.listeners("on_domain_violation"):
            listener(net, of_domains.detach())
    losses = loss_per_output(net, y_pred, batch.y)
    term = net.strategy_.penalty(violation, batch.index)
    total = (batch.weight * losses).sum() + (batch.weight * term).sum()
    loss = total / y_pred.numel()
    domain_term = None
    if domain is not None:
        penalty = domain.strategy.penalty(of_domains, domain.index)
        domain_term = len(penalty) * domain.columns.mean_term(penalty)
        loss = loss + domain_term
    loss.backward()
    step = {
        "loss": loss,
        "y_pred": y_pred,
        "violation": violation,
        "losses": losses,
        "term": term,
        "domain_violation": of_domains,
        "domain_term": domain_term,
    }
    return {k: v if v is None else v.detach() for k, v in step.items()}


@pytest.mark.parametrize(
    ("dtype", "criterion"), [("float32", nn.HuberLoss), ("float64", nn.MSELoss)]
)
@pytest.mark.parametrize("bound", mostly_slow([0.0, [-np.inf, 0.0]], [-np.inf, 0.0]))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_gradient_is_that_of_autograd(
    small, data, monkeypatch, strategy, dtype, bound, criterion
):
    params = {"strategy": strategy, "lower_bound": bound, "criterion": criterion}
    params |= {"dtype": dtype, "batch_size": 16, "repair": None}
    fast = small(**params).fit(data.X, data.Y, data.weight)
    monkeypatch.setattr(ConstrainedNet, "train_step_single", textbook_step)
    params |= {"optimizer__fused": False, "callbacks": [Onlooker()]}
    plain = small(**params).fit(data.X, data.Y, data.weight)
    tolerance = {"float32": 1e-5, "float64": 1e-9}[dtype]
    close = functools.partial(
        np.testing.assert_allclose, rtol=tolerance, atol=tolerance
    )
    close(fast.predict(data.X), plain.predict(data.X))
    close(fast.multipliers_, plain.multipliers_)
    close(fast.loss_curve_, plain.loss_curve_)


@pytest.mark.parametrize(
    ("params", "fused"),
    [
        ({}, True),
        ({"optimizer": torch.optim.AdamW}, True),
        ({"optimizer__fused": False}, False),
        ({"optimizer__foreach": True}, None),
        ({"optimizer": torch.optim.Adamax}, None),
        ({"optimizer": torch.optim.SGD}, None),
    ],
)
def test_adam_is_fused_unless_one_says_how(small, data, params, fused):
    optimizer = small(max_epochs=1, **params).fit(data.X, data.y).optimizer_
    assert optimizer.defaults.get("fused") is fused


def test_fused_adam_is_reproducible(small, data):
    """Wherever in memory the weights happen to lie."""
    first = small(max_epochs=3).fit(data.X, data.Y)
    held = [torch.zeros(n) for n in range(1, 40)]
    again = small(max_epochs=3).fit(data.X, data.Y)
    assert len(held) == 39
    assert_same_training_state(first, again)


def test_a_term_without_a_slope_of_its_own_is_trained_by_autograd(small, data):
    """It is asked once per batch, so that what it counts is right."""

    class Counting(AugmentedLagrangian):
        term_and_slope = ConstraintStrategy.term_and_slope

        def penalty(self, violation, index):
            self.state_.alpha.mul_(1.5)
            return super().penalty(violation, index)

    strategy = Counting(growth=1.0)
    model = small(strategy=strategy, max_epochs=2, batch_size=16).fit(data.X, data.y)
    n_batches = model.history_[0]["train_batch_count"]
    assert model.strategy_.state_.alpha == 1.5 ** (2 * n_batches)


def test_a_new_term_with_the_slope_of_another_is_refused():
    class Doubling:
        def penalty(self, violation, index):
            return 2 * super().penalty(violation, index)

    for bases in ((AugmentedLagrangian,), (Doubling, AugmentedLagrangian)):
        with pytest.raises(TypeError, match="replaces penalty but inherits"):
            types.new_class("Own", bases, {}, lambda own: own.update(vars(Doubling)))


class CtrlC(nn.Module):
    """Presses Ctrl-C in the middle of the second epoch of four batches."""

    def __init__(self, n_features_in, n_outputs):
        super().__init__()
        self.head = nn.Linear(n_features_in, n_outputs)
        self.steps = 0

    def forward(self, X):
        self.steps += self.training and torch.is_grad_enabled()
        if self.steps == 6:
            self.steps += 1
            raise KeyboardInterrupt
        return self.head(X)


@pytest.mark.parametrize("strategy", ["augmented_lagrangian", "exact_penalty"])
def test_ctrl_c_while_the_losses_of_an_epoch_are_not_read(small, data, strategy):
    model = small(module=CtrlC, strategy=strategy, batch_size=10, warm_start=True)
    with pytest.warns(ConvergenceWarning, match="interrupted at epoch 2 of 5"):
        model.fit(data.X, data.y)
    assert model.n_iter_ == len(model.history_) == len(model.loss_curve_) == 1
    twin = pickle.loads(pickle.dumps(model))
    for each in (model, twin):
        each.fit(data.X, data.y)
    assert len(model.history_) == 1 + 5
    assert_same_training_state(model, twin)


@pytest.mark.parametrize("hook", [None, "on_batch_end"])
def test_plain_nets_take_the_plain_passes_unless_somebody_looks_on(
    small, data, monkeypatch, hook
):
    taken = []
    forward = Backprop.forward
    monkeypatch.setattr(
        Backprop, "forward", lambda self, *rows: taken.append(1) or forward(self, *rows)
    )
    callback = Callback()
    if hook:
        setattr(callback, hook, lambda *args, **kwargs: None)
    small(callbacks=[callback], max_epochs=2).fit(data.X, data.y)
    assert bool(taken) is (hook is None)
