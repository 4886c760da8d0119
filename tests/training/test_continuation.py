"""Training continued, repeated, interrupted and failed, with nothing else touched."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from properties import (
    assert_obeys,
    assert_same_bits,
    assert_same_training_state,
    training_state,
    untouched_random_state,
)
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback, EarlyStopping, EpochScoring, LRScheduler
from torch import nn

from sklpos import MLP, STRATEGIES
from sklpos.strategies import Lagrangian
from sklpos.training.decay import NoiseScaledDecay

DROPOUT = {"module__dropout": 0.2}


# Continuing


@pytest.mark.parametrize("batch_size", [16, -1])
@pytest.mark.parametrize("module", [{}, DROPOUT])
def test_partial_fit_is_fit_in_slices(small, data, strategy, batch_size, module):
    params = {"strategy": strategy, "batch_size": batch_size, **module}
    whole = small(max_epochs=6, repair=None, **params).fit(data.X, data.Y, data.weight)
    sliced = small(max_epochs=99, **params)
    for _ in range(6):
        sliced.partial_fit(data.X, data.Y, data.weight)
    assert_same_training_state(whole, sliced)
    assert_same_bits(whole.predict(data.X), sliced.predict(data.X))
    assert (whole.n_iter_, sliced.n_iter_) == (6, 1)
    assert len(sliced.loss_curve_) == 6


@pytest.mark.parametrize("repair", ["head", None])
def test_warm_start_continues(small, data, strategy, repair):
    params = {"strategy": strategy, "batch_size": 16, "repair": repair}
    whole = small(max_epochs=7, **params).fit(data.X, data.Y)
    halves = small(max_epochs=4, warm_start=True, **params).fit(data.X, data.Y)
    halves.set_params(max_epochs=3).fit(data.X, data.Y)
    assert_same_training_state(whole, halves)
    assert_same_bits(whole.predict(data.X), halves.predict(data.X))


def test_without_warm_start_fit_begins_anew(small, data, strategy):
    model = small(strategy=strategy).fit(data.X[:20], data.Y[:20])
    model.fit(data.X, data.Y)
    assert_same_training_state(model, small(strategy=strategy).fit(data.X, data.Y))


@pytest.mark.parametrize("name", ["lagrangian", "augmented_lagrangian", "slack"])
def test_multipliers_belong_to_their_rows(small, data, name):
    still = STRATEGIES[name](dual_lr=0.0)
    model = small(strategy=still).partial_fit(data.X, data.Y)
    model.net_.constraint_.multiplier.fill_(0.25)
    same = copy.deepcopy(model).partial_fit(data.X, data.Y)
    assert (same.net_.constraint_.multiplier == 0.25).all()
    for change in (
        (data.X[:-1], data.Y[:-1]),
        (data.X + 1e-9, data.Y),
        (data.X, data.Y + 1e-9),
        (data.X, data.Y, data.weight),
    ):
        new = copy.deepcopy(model).partial_fit(*change)
        assert new.net_.constraint_.multiplier.shape == change[1].shape
        assert not new.net_.constraint_.multiplier.any()


@pytest.mark.parametrize(
    "change",
    [
        {"lower_bound": -100.0},
        {"alpha": 2.0},
        {"strategy": "augmented_lagrangian"},
        {"strategy": Lagrangian(dual_lr=0.1)},
    ],
    ids=str,
)
def test_another_problem_starts_new_multipliers(small, data, change):
    model = small(strategy="lagrangian").partial_fit(data.X, data.y)
    model.net_.constraint_.multiplier.fill_(7.0)
    model.set_params(**change).partial_fit(data.X, data.y)
    assert model.net_.constraint_.multiplier.max() < 2
    assert model.net_.constraint_.alpha == model.alpha
    assert model.net_.constraint_ is model.strategy_.state_


@pytest.mark.parametrize(
    "change", [{"strategy": "penalty"}, {"alpha": 2.0}, {"lower_bound": -1.0}], ids=str
)
def test_a_strategy_in_the_module_stays(small, data, everywhere_strategy, change):
    model = small(strategy=everywhere_strategy).partial_fit(data.X, data.y)
    model.set_params(**change)
    with pytest.raises(ValueError, match="alpha and lower_bound cannot change"):
        model.partial_fit(data.X, data.y)


def test_changed_hyper_parameters_reach_the_live_optimizer(small, data):
    model = small(warm_start=True, max_epochs=2, batch_size=16).fit(data.X, data.y)
    optimizer = model.optimizer_
    model.set_params(lr=0.123, optimizer__weight_decay=0.5, batch_size=40)
    model.fit(data.X, data.y)
    assert model.optimizer_ is optimizer
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.123, 0.5)
    assert len(model.history_[-1, "batches"]) == 1
    model.set_params(optimizer=torch.optim.SGD, optimizer__weight_decay=0.0)
    model.fit(data.X, data.y)
    assert isinstance(model.optimizer_, torch.optim.SGD)


def test_a_tiny_learning_rate_stops_the_weights(small, data):
    model = small(warm_start=True).fit(data.X, data.y)
    before = model.predict(data.X)
    model.set_params(lr=1e-30).fit(data.X, data.y)
    np.testing.assert_allclose(model.predict(data.X), before, atol=1e-12)


# Reproducibility


@pytest.mark.parametrize("module", [{}, DROPOUT])
def test_same_seed_same_bits(small, data, strategy, module):
    params = {"strategy": strategy, "batch_size": 16, "max_epochs": 4, **module}
    fits = []
    for seed in range(2):
        torch.manual_seed(seed)  # where the global generator stands must not matter
        fits.append(small(**params).fit(data.X, data.Y))
    assert_same_training_state(*fits)
    assert_same_bits(*(model.predict(data.X) for model in fits))
    other = small(**params, random_state=None).set_params(random_state=1)
    assert np.ptp(other.fit(data.X, data.Y).predict(data.X) - fits[0].predict(data.X))


def test_random_state_none_and_instance(small, data):
    differ = [small(random_state=None).fit(data.X, data.y) for _ in range(2)]
    assert np.ptp(differ[0].predict(data.X) - differ[1].predict(data.X)) > 0
    state = np.random.RandomState(3)
    same = [
        small(random_state=seed).fit(data.X, data.y)
        for seed in (np.random.RandomState(3), state)
    ]
    assert_same_bits(*(model.predict(data.X) for model in same))


@pytest.mark.parametrize("module", [{}, DROPOUT])
def test_fits_in_threads_are_independent(small, data, module):
    params = {"batch_size": 8, "max_epochs": 5, **module}

    def fit(seed):
        return small(random_state=seed, **params).fit(data.X, data.Y)

    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(fit, [0, 1, 0, 1]))
    for seed, model in enumerate(together):
        assert_same_training_state(model, fit(seed % 2))


@pytest.mark.parametrize("random_state", [0, None])
@pytest.mark.parametrize("module", [{}, DROPOUT])
def test_global_generators_are_untouched(small, data, strategy, module, random_state):
    model = small(
        strategy=strategy, batch_size=16, random_state=random_state, max_epochs=2
    )
    model.set_params(**module)
    with untouched_random_state():
        model.fit(data.X, data.y)
        model.partial_fit(data.X, data.y)
        model.predict(data.X)
        model.enforce(data.X)
        if random_state is None:
            model.set_params(early_stopping=True).fit(data.X, data.y)


def test_arguments_are_never_mutated(small, data, strategy):
    module = MLP(3, 2, hidden_layer_sizes=(5,)).train()
    instance = STRATEGIES[strategy]()
    callbacks = [
        EarlyStopping(monitor="train_loss", patience=2, load_best=True),
        ("scoring", EpochScoring("r2", on_train=True)),
        LRScheduler("StepLR", step_size=1),
    ]
    X, Y = data.X.copy(), data.Y.copy()
    arguments = [module.state_dict(), vars(instance), callbacks, X, Y]
    before = (
        copy.deepcopy(arguments[:2]),
        [dict(vars(c[1] if isinstance(c, tuple) else c)) for c in callbacks],
    )
    model = small(module=module, strategy=instance, callbacks=callbacks)
    model.fit(X, Y)
    model.partial_fit(X, Y)
    model.enforce(X)
    assert_same_bits(
        [dict(module.state_dict()), vars(instance)], [dict(before[0][0]), before[0][1]]
    )
    assert module.training
    assert next(module.parameters()).dtype == torch.float32
    assert not any(layer._forward_hooks for layer in module.modules())
    assert not any(layer._forward_pre_hooks for layer in module.modules())
    for callback, values in zip(callbacks, before[1], strict=True):
        bare = callback[1] if isinstance(callback, tuple) else callback
        assert vars(bare) == values
    assert_same_bits([X, Y], [np.array(data.X), np.array(data.Y)])
    assert model.module is module
    assert model.strategy is instance
    assert model.callbacks is callbacks


# Failure and interruption


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

    monkeypatch.setattr("sklpos.estimator.repairs.repaired_product", interrupt)
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


@pytest.mark.parametrize("how", [{}, {"method": "bias"}, {"domain": "box"}])
def test_an_interrupted_enforce_changes_nothing(small, data, monkeypatch, how):
    """Not even between the new head and the record of it, or inside of no_grad."""
    model = small().fit(data.X, data.Y).enforce(domain="box")
    kept, predictions = copy.copy(vars(model)), model.predict(data.X_new)

    def interrupt(*args, **kwargs):
        torch.set_grad_enabled(False)
        raise KeyboardInterrupt

    for name in ("summarise", "summarise_change"):
        monkeypatch.setattr(f"sklpos.estimator.repairs.{name}", interrupt)
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
        {"device": "meta"},
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
    """Ctrl-C at the start of an epoch, or in the middle of it."""

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
            raise KeyboardInterrupt


@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_batch_end", "on_epoch_end"])
def test_an_interrupt_leaves_the_model_of_the_last_finished_epoch(
    small, data, strategy, hook
):
    params = {"batch_size": 16, "warm_start": True, "strategy": strategy}
    model = small(callbacks=[Interrupt(hook)], **params).fit(data.X, data.Y)
    finished = 3 if hook == "on_epoch_end" else 2
    params["callbacks"] = [Interrupt(hook, 99)]
    undisturbed = small(max_epochs=finished, **params).fit(data.X, data.Y)
    assert model.n_iter_ == len(model.loss_curve_) == finished
    assert_same_training_state(model, undisturbed)
    assert_same_bits(model.predict(data.X), undisturbed.predict(data.X))  # repaired
    assert_obeys(model, data.X)
    next(cb for _, cb in model.callbacks_ if isinstance(cb, Interrupt)).epoch = 99
    for each in (pickle.loads(pickle.dumps(model)), model, undisturbed):
        each.set_params(max_epochs=5).fit(data.X, data.Y)
        assert each.n_iter_ == 5
    assert_same_training_state(model, undisturbed)


@pytest.mark.parametrize("name", ["slack", "augmented_lagrangian", "certified"])
def test_the_best_epoch_is_none_that_was_undone(small, data, monkeypatch, name):
    """Ctrl-C after early stopping saw an epoch: weights and multipliers go together."""
    params = {"strategy": name, "early_stopping": True, "weight_decay": "auto"}
    undisturbed = small(max_epochs=2, lr=0.01, **params).fit(data.X, data.Y)
    longer = small(max_epochs=3, lr=0.01, **params).fit(data.X, data.Y)
    for model in (undisturbed, longer):  # each epoch is the best one so far
        best = dict(model.callbacks_)["early_stopping"].best_epoch_
        assert best == model.n_iter_

    scale = NoiseScaledDecay._scale

    def interrupt(self, net):
        if len(net.history) == 3:
            raise KeyboardInterrupt
        scale(self, net)

    monkeypatch.setattr("sklpos.decay.NoiseScaledDecay._scale", interrupt)
    model = small(max_epochs=3, lr=0.01, **params).fit(data.X, data.Y)
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
