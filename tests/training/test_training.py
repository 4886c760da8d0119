"""The lean loop computes what skorch's own loop and autograd compute."""

import pickle

import numpy as np
import pytest
import torch
from properties import assert_same_bits, assert_same_training_state
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback
from torch import nn

from sklpos import STRATEGIES
from sklpos.estimator.build import new_net
from sklpos.strategies import AugmentedLagrangian
from sklpos.training.backprop import Backprop
from sklpos.training.epoch import LeanNet
from sklpos.training.net import ConstrainedNet

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
        assert record[f"{prefix}_batch_size"] == len(batch[0]) == len(y_pred)
        self.seen_.append(("end", training, loss.item()))


def timeless(history):
    return [{k: v for k, v in row.items() if k != "dur"} for row in history]


def plain_net(cls, data, *callbacks):
    torch.manual_seed(0)
    return cls(
        nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 2)),
        optimizer=torch.optim.Adam,
        optimizer__fused=False,
        batch_size=16,
        max_epochs=3,
        callbacks=list(callbacks),
        verbose=0,
    ).fit(data.X.astype(np.float32), data.Y.astype(np.float32))


@pytest.mark.parametrize("callbacks", [(), (Onlooker(),)])
def test_the_loop_is_that_of_skorch(data, callbacks):
    """Also with validation rows, which skorch holds out by default."""
    theirs, ours = (
        plain_net(cls, data, *callbacks) for cls in (NeuralNetRegressor, LeanNet)
    )
    assert_same_bits(dict(ours.module_.state_dict()), dict(theirs.module_.state_dict()))
    assert timeless(ours.history) == timeless(theirs.history)
    if callbacks:
        seen = [dict(net.callbacks_)["Onlooker"].seen_ for net in (ours, theirs)]
        assert seen[0] == seen[1]
        assert len(seen[0]) > 3 * 3


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_of_a_net_are_called(data, hook):
    calls = []

    class Loud(LeanNet):
        pass

    setattr(Loud, hook, lambda net, *args, **kwargs: calls.append(hook))
    plain_net(Loud, data)
    assert calls


def test_a_callback_that_comes_later_is_heard(small, data):
    model = small(max_epochs=1).fit(data.X, data.Y)
    rows = model.net_.get_dataset(data.X.copy(), torch.tensor(data.Y))
    model.net_.callbacks_.append(("late", Onlooker().initialize()))
    model.net_.partial_fit(rows, epochs=1)
    assert dict(model.net_.callbacks_)["late"].seen_


@pytest.mark.parametrize("bound", [0.0, [0.0, -np.inf]])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_that_wait_are_the_same(small, data, strategy, bound):
    """Summed up after the epoch, or in every batch because somebody looks on."""
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


def test_losses_are_the_same_however_many_are_summed_up_at_once(
    small, data, monkeypatch
):
    fits = [small(batch_size=7).fit(data.X, data.Y, data.weight)]
    monkeypatch.setattr("sklpos.training.steps._SUMMED", 20)  # two batches
    fits.append(small(batch_size=7).fit(data.X, data.Y, data.weight))
    assert_same_bits(*(timeless(model.history_) for model in fits))


class ByAutograd(ConstrainedNet):
    """The textbook's step: one loss with its graph, and ``loss.backward()``."""

    def train_step_single(self, batch, **fit_params):
        self._set_training(True)
        y_pred = self.infer(batch[0])
        violation, index, weight = self.violation(y_pred), batch.index, batch.weight
        if domains := self.domain_violation():
            violation = torch.cat([violation, domains[0]])
            index = torch.cat([index, domains[1]])
            weight = torch.cat([weight, weight.new_full((1, 1), len(y_pred))])
        self._notify_violation(violation.detach(), index)
        objective = self.objective(y_pred, batch[1], batch.weight)
        term = weight * self.strategy_.penalty(violation, index)
        loss = objective + term.sum() / y_pred.numel()
        loss.backward()
        names = ("loss", "objective", "constraint")
        values = (v.detach() for v in (loss, objective, loss - objective))
        step = dict(zip(names, values, strict=True))
        own = violation[: len(y_pred)].detach()
        return {"y_pred": y_pred, "violation": own, **step}


@pytest.mark.parametrize("criterion", [nn.MSELoss, nn.HuberLoss])
@pytest.mark.parametrize("bound", [0.0, [-np.inf, 0.0]])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_gradient_is_that_of_autograd(
    small, data, monkeypatch, strategy, dtype, bound, criterion
):
    params = {"strategy": strategy, "lower_bound": bound, "criterion": criterion}
    params |= {"dtype": dtype, "batch_size": 16, "repair": None}
    fast = small(**params).fit(data.X, data.Y, data.weight)
    monkeypatch.setattr(new_net, "__defaults__", (None, ByAutograd))
    params |= {"optimizer__fused": False, "callbacks": [Onlooker()]}
    plain = small(**params).fit(data.X, data.Y, data.weight)
    assert type(plain.net_) is ByAutograd
    tolerance = {"float32": 1e-5, "float64": 1e-9}[dtype]
    for values in ("predict", "multipliers"):
        one, other = (
            model.predict(data.X) if values == "predict" else model.multipliers_
            for model in (fast, plain)
        )
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


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


class Doubled(AugmentedLagrangian):
    """Replaces the term, and says nothing about its gradient."""

    def penalty(self, violation, index):
        return 2 * super().penalty(violation, index)


def test_a_new_term_does_not_inherit_the_gradient_of_the_old_one():
    strategy, old = Doubled(), AugmentedLagrangian()
    violation, index = torch.tensor([[0.5], [-1.0]]), torch.arange(2)
    for each in (strategy, old):
        each.setup(torch.zeros(2, 1), lower_bound=torch.zeros(1), alpha=1.0)
    slopes = [each.penalty_gradient(violation, index) for each in (strategy, old)]
    torch.testing.assert_close(slopes[0], 2 * slopes[1])
    assert old.row_by_row
    assert not strategy.row_by_row


def test_strategies_of_others_are_asked_in_every_batch(small, data):
    """A term that changes from batch to batch is recorded as it was."""

    class Counting(AugmentedLagrangian):
        def penalty(self, violation, index):
            self.state_.alpha.mul_(1.01)
            return super().penalty(violation, index)

    model = small(strategy=Counting(), max_epochs=2, batch_size=16).fit(data.X, data.y)
    n_batches = model.history_[0]["train_batch_count"]
    assert model.strategy_.state_.alpha > 1.01 ** (2 * n_batches)


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
def test_ctrl_c_while_losses_wait(small, data, strategy):
    model = small(module=CtrlC, strategy=strategy, batch_size=10, warm_start=True)
    model.fit(data.X, data.y)
    assert model.n_iter_ == len(model.history_) == len(model.loss_curve_) == 1
    twin = pickle.loads(pickle.dumps(model))
    for each in (model, twin):
        each.fit(data.X, data.y)
    assert len(model.history_) == 1 + 5
    assert_same_training_state(model, twin)


def test_nothing_of_an_epoch_is_kept(small, data):
    for callbacks in ([], [Onlooker()]):
        net = small(callbacks=callbacks).fit(data.X, data.y).net_
        assert net.steps_ is None
        assert net.backprop_ is None
        assert net.batches_ == []


@pytest.mark.parametrize("hook", [None, "on_batch_end"])
def test_plain_nets_take_the_plain_passes_unless_somebody_looks_on(
    small, data, monkeypatch, hook
):
    taken = []
    forward = Backprop.forward
    monkeypatch.setattr(
        Backprop, "forward", lambda self, X: taken.append(1) or forward(self, X)
    )
    callback = Callback()
    if hook:
        setattr(callback, hook, lambda *args, **kwargs: None)
    small(callbacks=[callback], max_epochs=2).fit(data.X, data.y)
    assert bool(taken) is (hook is None)
