"""Training that fails or is interrupted leaves what it found."""

import copy
import pickle
import signal

import numpy as np
import pytest
import torch
from marks import mostly_slow
from properties import (
    assert_obeys,
    assert_same_bits,
    assert_same_training_state,
    training_state,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback, EarlyStopping
from torch import nn

from sklpos.training.decay import NoiseScaledDecay
from sklpos.training.trees import Copies


def _nan(X):
    X = X.copy()
    X[2, 1] = np.nan
    return X


FAILURES = {
    "nan": lambda model, data: model.fit(_nan(data.X), data.Y),
    "length": lambda model, data: model.fit(data.X[:5], data.Y[:4]),
    "strategy": lambda model, data: model.set_params(strategy="?").fit(data.X, data.Y),
    "infinite loss": lambda model, data: model.set_params(lr=1e200).fit(data.X, data.Y),
    "other rows": lambda model, data: model.set_params(
        lr=1e200, optimizer=torch.optim.SGD, alpha=9.0, lower_bound=-1.0
    ).fit(data.X[:9], data.Y[:9]),
    "after the last epoch": lambda model, data: model.set_params(
        lr=1e200, max_epochs=1
    ).fit(data.X, data.Y),
    "warnings are errors": lambda model, data: model.set_params(lr=1e6).fit(
        data.X, data.Y
    ),
    "partial_fit": lambda model, data: model.set_params(lr=1e200).partial_fit(
        data.X, data.Y
    ),
    "enforce": lambda model, data: model.enforce(_nan(data.X)),
}


@pytest.mark.parametrize("warm_start", [True, False])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_loses_nothing(small, data, failure, warm_start):
    params = {"warm_start": warm_start, "max_epochs": 3}
    model = small(**params).fit(data.X, data.Y)
    kept = copy.deepcopy(training_state(model))
    parameters, predictions = model.get_params(), model.predict(data.X)
    with pytest.raises((ValueError, ConvergenceWarning)):
        FAILURES[failure](model, data)
    model.set_params(**parameters)
    assert_same_bits(model.predict(data.X), predictions)
    assert_same_bits(training_state(model), kept)
    model.partial_fit(data.X, data.Y)
    undisturbed = small(**params).fit(data.X, data.Y).partial_fit(data.X, data.Y)
    assert_same_training_state(model, undisturbed)


@pytest.mark.parametrize("warm_start", [True, False])
def test_an_interrupted_repair_loses_nothing(small, data, monkeypatch, warm_start):
    model = small(warm_start=warm_start).fit(data.X, data.Y)
    kept, predictions = training_state(copy.deepcopy(model)), model.predict(data.X)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("sklpos.estimator.endings.repair_on_rows", interrupt)
    for work in (lambda: model.fit(data.X, data.Y), lambda: model.enforce(data.X_new)):
        with pytest.raises(KeyboardInterrupt):
            work()
        assert_same_bits(model.predict(data.X), predictions)
        assert_same_bits(training_state(model), kept)


def test_what_callbacks_learnt_in_a_failure_is_forgotten(small, data):
    class Late(Callback):
        def on_train_end(self, net, **kwargs):
            if self.at_last:
                self.new_, self.old_ = 1, 1

    model = small(callbacks=[Late()], warm_start=True)
    Late.at_last, Late.old_ = False, 0
    late = dict(model.fit(data.X, data.Y).callbacks_)["Late"]
    kept, Late.at_last = dict(vars(late)), True
    with pytest.raises(ValueError, match="diverged"):
        model.set_params(lr=1e200, max_epochs=1).fit(data.X, data.Y)
    assert vars(late) == kept


@pytest.mark.parametrize(
    "how", mostly_slow([{}, {"adjust": "bias"}, {"domain": "box"}], {})
)
def test_an_interrupted_enforce_changes_nothing(small, data, monkeypatch, how):
    """Not even between the new head and the record of it, or inside of no_grad."""
    model = small().fit(data.X, data.Y).enforce(domain="box")
    kept, predictions = copy.copy(vars(model)), model.predict(data.X_new)

    def interrupt(*args, **kwargs):
        torch.set_grad_enabled(False)
        raise KeyboardInterrupt

    for name in ("summarise", "summarise_change"):
        monkeypatch.setattr(f"sklpos.estimator.endings.{name}", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.enforce(data.X_new if "domain" not in how else None, **how)
    assert torch.is_grad_enabled()
    assert vars(model) == kept
    assert_same_bits(model.predict(data.X_new), predictions)


def test_what_an_optimizer_keeps_in_another_dtype_is_not_lost(small, data):
    params = {"optimizer": torch.optim.NAdam, "weight_decay": 0.0}
    model = small(**params).fit(data.X, data.Y)
    kept = copy.deepcopy(training_state(model))
    assert kept["optimizer"]["state"][0]["mu_product"].dtype == torch.float32
    with pytest.raises(ValueError, match="diverged"):
        model.set_params(lr=1e200).partial_fit(data.X, data.Y)
    assert_same_bits(training_state(model), kept)
    model.set_params(lr=0.1).partial_fit(data.X, data.Y)
    undisturbed = small(**params).fit(data.X, data.Y).partial_fit(data.X, data.Y)
    assert_same_training_state(model, undisturbed)


@pytest.mark.parametrize(
    "change",
    [
        {"module": nn.Linear(3, 2)},
        {"module__hidden_layer_sizes": (3,)},
        {"module__dropout": 0.5},
        {"criterion": nn.L1Loss},
        {"criterion__beta": 2.0},
        {"callbacks": [EarlyStopping(monitor="train_loss")]},
        {"callbacks__print_log": None},
        {"early_stopping": True},
        {"validation_fraction": 0.5},
        {"scale_y": False},
        {"dtype": "float32"},
        {"device": "auto"},
        {"iterator_train__drop_last": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_built_into_the_net_cannot_change(small, data, change):
    model = small(warm_start=True, criterion=nn.SmoothL1Loss).fit(data.X, data.Y)
    predictions = model.predict(data.X)
    model.set_params(**change)
    with pytest.raises(ValueError, match=f"{next(iter(change))} is part of the net"):
        model.fit(data.X, data.Y)
    assert_same_bits(model.predict(data.X), predictions)


class Interrupt(Callback):
    """Ctrl-C at the start of an epoch, in the middle of it, or before its end."""

    def __init__(self, hook: str, epoch: int = 3):
        self.hook = hook
        self.epoch = epoch

    def on_epoch_begin(self, net, **kwargs):
        self._interrupt("on_epoch_begin", net)

    def on_batch_end(self, net, **kwargs):
        self._interrupt("on_batch_end", net)

    def on_epoch_end(self, net, **kwargs):
        self._interrupt("on_epoch_end", net)

    def _interrupt(self, hook, net):
        if hook == self.hook and len(net.history) == self.epoch:
            self.interrupt()

    def interrupt(self):
        signal.raise_signal(signal.SIGINT)


class Stop(Interrupt):
    """skorch's way to stop training."""

    def interrupt(self):
        raise KeyboardInterrupt


def interrupted(message="interrupted at epoch"):
    return pytest.warns(ConvergenceWarning, match=message)


@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_batch_end", "on_epoch_end"])
def test_an_interrupt_leaves_the_model_of_the_last_finished_epoch(
    small, data, mostly_slow_strategy, hook
):
    params = {"batch_size": 16, "warm_start": True, "strategy": mostly_slow_strategy}
    model = small(callbacks=[Interrupt(hook)], **params)
    with interrupted("interrupted at epoch 3 of 5; the model is that of epoch 2"):
        model.fit(data.X, data.Y)
    params["callbacks"] = [Interrupt(hook, 99)]
    undisturbed = small(max_epochs=2, **params).fit(data.X, data.Y)
    assert model.n_iter_ == len(model.loss_curve_) == 2
    assert_same_training_state(model, undisturbed)
    assert_same_bits(model.predict(data.X), undisturbed.predict(data.X))  # repaired
    assert_obeys(model, data.X)
    next(cb for _, cb in model.callbacks_ if isinstance(cb, Interrupt)).epoch = 99
    for each in (pickle.loads(pickle.dumps(model)), model, undisturbed):
        each.set_params(max_epochs=5).fit(data.X, data.Y)
        assert each.n_iter_ == 5
    assert_same_training_state(model, undisturbed)


def test_a_callback_that_stops_training_is_no_interruption(small, data):
    """The epoch is complete: no warning, and all callbacks have seen its end."""

    class Seen(Callback):
        def on_epoch_end(self, net, **kwargs):
            self.epochs_ = len(net.history)

    callbacks = [Stop("on_epoch_end"), Seen()]
    model = small(callbacks=callbacks, on_interrupt="raise").fit(data.X, data.Y)
    whole = small(max_epochs=3).fit(data.X, data.Y)
    assert model.n_iter_ == dict(model.callbacks_)["Seen"].epochs_ == 3
    assert_same_bits(model.predict(data.X), whole.predict(data.X))


def test_a_callback_that_cuts_an_epoch_interrupts(small, data):
    model = small(callbacks=[Stop("on_batch_end")], batch_size=16)
    with interrupted("epoch 3 of 5"):
        model.fit(data.X, data.Y)
    assert model.n_iter_ == 2


def test_an_interrupt_may_raise_and_keep_the_model(small, data):
    callbacks = [Interrupt("on_batch_end")]
    model = small(callbacks=callbacks, batch_size=16, on_interrupt="raise")
    with pytest.raises(KeyboardInterrupt, match="interrupted at epoch 3 of 5"):
        model.fit(data.X, data.Y)
    warned = small(callbacks=callbacks, batch_size=16)
    with interrupted():
        warned.fit(data.X, data.Y)
    assert_same_training_state(model, warned)
    assert_obeys(model, data.X)  # repaired


def test_the_model_is_kept_where_warnings_are_errors(small, data):
    model = small(callbacks=[Interrupt("on_batch_end")])
    with pytest.raises(ConvergenceWarning, match="interrupted"):
        model.fit(data.X, data.Y)
    assert model.n_iter_ == 2
    assert_obeys(model, data.X)


def test_a_search_stops_with_its_fit(small, data):
    class Counted(Interrupt):
        fits = 0

        def on_train_begin(self, net, **kwargs):
            Counted.fits += 1

    model = small(callbacks=[Counted("on_batch_end")], on_interrupt="raise")
    search = GridSearchCV(model, {"alpha": [0.5, 1.0]}, cv=2)
    with pytest.raises(KeyboardInterrupt):
        search.fit(data.X, data.Y)
    assert Counted.fits == 1


def test_the_handler_of_the_user_is_called_and_stays(small, data):
    """One that raises nothing lets training go on."""
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        handler = signal.getsignal(signal.SIGINT)
        callbacks = [Interrupt("on_epoch_end"), Stop("on_epoch_end", 4)]
        model = small(callbacks=callbacks).fit(data.X, data.Y)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert (seen, model.n_iter_) == ([1], 4)


class InterruptedDecay(NoiseScaledDecay):
    """Ctrl-C after the others have seen the end of the third epoch."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 3:
            signal.raise_signal(signal.SIGINT)
        super().on_epoch_end(net, **kwargs)


@pytest.mark.parametrize("name", ["slack", "augmented_lagrangian", "certified"])
def test_the_best_epoch_is_none_that_was_undone(small, data, name):
    """Ctrl-C after early stopping saw an epoch: weights and multipliers go together."""
    params = {"strategy": name, "early_stopping": True, "weight_decay": "auto"}
    undisturbed = small(max_epochs=2, lr=0.01, **params).fit(data.X, data.Y)
    longer = small(max_epochs=3, lr=0.01, **params).fit(data.X, data.Y)
    for model in (undisturbed, longer):  # each epoch is the best one so far
        best = dict(model.callbacks_)["early_stopping"].best_epoch_
        assert best == model.n_iter_

    decay = {"callbacks__weight_decay": InterruptedDecay()}
    model = small(max_epochs=3, lr=0.01, **params, **decay)
    with interrupted():
        model.fit(data.X, data.Y)
    assert model.n_iter_ == 2
    assert_same_bits(
        dict(model.net_.constraint_.state_dict()),
        dict(undisturbed.net_.constraint_.state_dict()),
    )


@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_batch_end"])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_an_interrupt_of_the_first_epoch_loses_nothing(small, data, method, hook):
    """There is no model of this call; a stream must not go on without these rows."""
    model = small(callbacks=[Interrupt(hook, 1)], batch_size=16)
    with pytest.raises(KeyboardInterrupt):
        getattr(model, method)(data.X, data.Y)
    assert not hasattr(model, "net_")

    model = small(callbacks=[Interrupt(hook, 6)], batch_size=16, warm_start=True)
    kept = copy.deepcopy(training_state(model.fit(data.X, data.Y)))
    predictions = model.predict(data.X)
    with pytest.raises(KeyboardInterrupt):
        getattr(model, method)(data.X, data.Y)
    assert_same_bits(training_state(model), kept)
    assert_same_bits(model.predict(data.X), predictions)


def test_ctrl_c_between_two_epochs_keeps_the_complete_one(small, data, monkeypatch):
    """It strikes when the memory that holds the state of the last one is filled."""
    hold, calls = Copies.hold, []

    def hold_and_press(self, tree):
        calls.append(hold(self, tree))
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return self

    whole = small(max_epochs=3).fit(data.X, data.Y)
    monkeypatch.setattr(Copies, "hold", hold_and_press)
    with pytest.warns(ConvergenceWarning, match="that of epoch 3"):
        cut = small(max_epochs=9).fit(data.X, data.Y)
    assert len(calls) == 4
    assert_same_bits(cut.predict(data.X), whole.predict(data.X))
