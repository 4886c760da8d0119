"""Training continued and repeated, with nothing else touched."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from properties import (
    assert_same_bits,
    assert_same_training_state,
    untouched_random_state,
)
from skorch.callbacks import EarlyStopping, EpochScoring, LRScheduler

from sklpos import MLP, STRATEGIES
from sklpos.strategies import Lagrangian

DROPOUT = {"module__dropout": 0.2}


# Continuing


@pytest.mark.parametrize("params", [{"batch_size": 16, **DROPOUT}, {"batch_size": -1}])
def test_partial_fit_is_fit_in_slices(small, data, mostly_slow_strategy, params):
    params = {"strategy": mostly_slow_strategy, **params}
    # The end of a fit, which slices do not have, may change the head.
    whole = small(max_epochs=6, repair=None, balance=False, **params)
    whole.fit(data.X, data.Y, data.weight)
    sliced = small(max_epochs=99, **params)
    for _ in range(6):
        sliced.partial_fit(data.X, data.Y, data.weight)
    assert_same_training_state(whole, sliced)
    assert_same_bits(whole.predict(data.X), sliced.predict(data.X))
    assert (whole.n_iter_, sliced.n_iter_) == (6, 1)
    assert len(sliced.loss_curve_) == 6


@pytest.mark.parametrize("repair", ["head", None])
def test_warm_start_continues(small, data, mostly_slow_strategy, repair):
    params = {"strategy": mostly_slow_strategy, "batch_size": 16, "repair": repair}
    whole = small(max_epochs=7, **params).fit(data.X, data.Y)
    halves = small(max_epochs=4, warm_start=True, **params).fit(data.X, data.Y)
    halves.set_params(max_epochs=3).fit(data.X, data.Y)
    assert_same_training_state(whole, halves)
    assert_same_bits(whole.predict(data.X), halves.predict(data.X))


def test_without_warm_start_fit_begins_anew(small, data, mostly_slow_strategy):
    strategy = mostly_slow_strategy
    model = small(strategy=strategy).fit(data.X[:20], data.Y[:20])
    model.fit(data.X, data.Y)
    assert_same_training_state(model, small(strategy=strategy).fit(data.X, data.Y))


@pytest.mark.parametrize("name", ["lagrangian", "augmented_lagrangian", "slack"])
def test_multipliers_belong_to_their_rows(small, data, name):
    still = STRATEGIES[name](dual_lr=0.0)
    model = small(strategy=still).partial_fit(data.X, data.Y)
    model.net_.constraint_.state.multiplier.fill_(0.25)
    same = copy.deepcopy(model).partial_fit(data.X, data.Y)
    assert (same.net_.constraint_.state.multiplier == 0.25).all()
    for change in (
        (data.X[:-1], data.Y[:-1]),
        (data.X + 1e-9, data.Y),
        (data.X, data.Y + 1e-9),
        (data.X, data.Y, data.weight),
    ):
        new = copy.deepcopy(model).partial_fit(*change)
        assert new.net_.constraint_.multipliers.shape == change[1].shape
        assert not new.net_.constraint_.multipliers.any()


@pytest.mark.parametrize(
    "change",
    [
        {"lower_bound": -100.0},
        {"upper_bound": 100.0},
        {"alpha": 2.0},
        {"strategy": "augmented_lagrangian"},
        {"strategy": Lagrangian(dual_lr=0.05)},
    ],
    ids=str,
)
def test_another_problem_starts_new_multipliers(small, data, change):
    model = small(strategy="slack").partial_fit(data.X, data.y)
    other = copy.deepcopy(model)
    other.net_.constraint_.state.multiplier.fill_(7.0)
    for each in (model, other):
        each.set_params(**change).partial_fit(data.X, data.y)
    assert_same_training_state(model, other)
    assert model.strategy_.state_ is model.net_.constraint_.state


@pytest.mark.filterwarnings("ignore:alpha=2.0 has no effect")
@pytest.mark.parametrize(
    "change",
    [
        {"strategy": "penalty"},
        {"alpha": 2.0},
        {"lower_bound": -1.0},
        {"upper_bound": 100.0},
    ],
    ids=str,
)
def test_a_strategy_in_the_module_stays(small, data, everywhere_strategy, change):
    model = small(strategy=everywhere_strategy).partial_fit(data.X, data.y)
    model.set_params(**change)
    with pytest.raises(ValueError, match="alpha and the bounds cannot change"):
        model.partial_fit(data.X, data.y)


def test_changed_hyper_parameters_reach_the_live_optimizer(small, data):
    model = small(warm_start=True, max_epochs=2, batch_size=16).fit(data.X, data.y)
    n_steps = model.history_[0]["train_batch_count"] * 2
    model.set_params(lr=0.123, optimizer__weight_decay=0.5, batch_size=40)
    model.fit(data.X, data.y)
    group = model.optimizer_.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.123, 0.5)
    steps = {int(state["step"]) for state in model.optimizer_.state.values()}
    assert steps == {n_steps + 2}  # it went on
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


def test_same_seed_same_bits(small, data, mostly_slow_strategy):
    params = {
        "strategy": mostly_slow_strategy,
        "batch_size": 16,
        "max_epochs": 4,
        **DROPOUT,
    }
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
def test_global_generators_are_untouched(small, data, module, random_state):
    """By any strategy: the calls of all other tests are watched, too."""
    model = small(batch_size=16, random_state=random_state, max_epochs=2, **module)
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
