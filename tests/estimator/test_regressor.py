"""The estimator: weights, units, early stopping, modules, attributes."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from properties import (
    assert_balanced,
    assert_obeys,
    assert_same_bits,
    untouched_random_state,
)
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score
from sklearn.utils.validation import validate_data
from skorch.callbacks import LRScheduler
from torch import nn

import sklpos
from sklpos import PositiveOutputRegressor
from sklpos.estimator.new_inputs import is_valid_as_it_is
from sklpos.strategies import AugmentedLagrangian


@pytest.mark.parametrize("target", ["y", "Y"])
def test_the_bound_bites_on_this_data(small, data, target):
    y = getattr(data, target)
    assert y.min() >= 0
    model = small(strategy="unconstrained", repair=None).fit(data.X, y)
    assert (model.predict(data.X).min(axis=0) < -0.2 * y.std(axis=0)).all()


# Weights


def test_weights_equal_repetition(small, fitted, data, mostly_slow_strategy):
    strategy = mostly_slow_strategy
    times = data.weight.astype(int)
    weighted = small(strategy=strategy).fit(data.X, data.Y, data.weight)
    X, Y = (np.repeat(part, times, axis=0) for part in (data.X, data.Y))
    repeated = small(strategy=strategy).fit(X, Y)
    predictions = weighted.predict(data.X)
    np.testing.assert_allclose(repeated.predict(data.X), predictions, atol=1e-7)
    expected = np.repeat(weighted.multipliers_, times, axis=0)
    np.testing.assert_allclose(repeated.multipliers_, expected, atol=1e-7)
    assert np.abs(fitted(strategy).predict(data.X) - predictions).max() > 1e-3


def test_only_the_ratio_of_weights_matters(small, data):
    one, other = (
        small().fit(data.X, data.Y, unit * data.weight) for unit in (1, 2.0**-60)
    )
    assert_same_bits(one.predict(data.X), other.predict(data.X))
    assert_same_bits(one.multipliers_, other.multipliers_)


def test_a_row_of_weight_0_is_absent(small, data, strategy):
    keep = np.arange(len(data.X)) % 4 > 0
    Y = np.where(keep[:, None], data.Y, -1e6)
    model = small(strategy=strategy)
    masked = clone(model).fit(data.X, Y, data.weight * keep)
    absent = clone(model).fit(data.X[keep], data.Y[keep], data.weight[keep])
    np.testing.assert_array_equal(masked.predict(data.X), absent.predict(data.X))
    np.testing.assert_array_equal(masked.multipliers_[keep], absent.multipliers_)
    assert not masked.multipliers_[~keep].any()


# Units


def test_the_unit_of_y_does_not_matter(small, data, mostly_slow_strategy):
    model = small(strategy=mostly_slow_strategy, batch_size=16)
    one = clone(model).fit(data.X, data.Y)
    expected = one.predict(data.X_new)
    for gain, offset in ((1e6, 0.0), (1e-6, 0.0), (1.0, 1000.0), (1e3, -273.15)):
        model.set_params(lower_bound=offset).fit(data.X, gain * data.Y + offset)
        found = (model.predict(data.X_new) - offset) / gain
        np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())
        found = model.multipliers_ / gain
        np.testing.assert_allclose(found, one.multipliers_, atol=1e-8)


def test_outputs_of_different_scale_train_equally_well(
    small, data, mostly_slow_strategy
):
    model = small(strategy=mostly_slow_strategy, max_epochs=15)
    expected = clone(model).fit(data.X, data.Y).predict(data.X)
    assert r2_score(data.Y, expected, multioutput="raw_values").min() > 0.3
    model.fit(data.X, data.Y * [1e6, 1.0])
    np.testing.assert_allclose(
        model.predict(data.X) / [1e6, 1.0], expected, atol=1e-9 * expected.max()
    )


@pytest.mark.parametrize(("batch_size", "epochs"), [(10, 60), (20, 90), (-1, 150)])
def test_batch_size_does_not_change_the_optimum(small, data, batch_size, epochs):
    """The penalty is a mean; summed over a batch, its weight would be alpha * batch."""
    alpha, design = 5.0, np.column_stack([data.X, np.ones(len(data.X))])

    def objective(v):
        f = design @ v
        return np.mean((f - data.y) ** 2 + alpha * np.minimum(f, 0) ** 2)

    model = small(
        strategy="penalty",
        alpha=alpha,
        batch_size=batch_size,
        max_epochs=epochs,
        repair=None,
        module__hidden_layer_sizes=(),
        callbacks=[LRScheduler("CosineAnnealingLR", T_max=epochs)],
    ).fit(data.X, data.y)
    expected = design @ minimize(objective, np.zeros(4), tol=1e-8).x
    assert expected.min() < -0.01
    np.testing.assert_allclose(model.predict(data.X), expected, atol=0.03)


def test_scale_y_false_trains_in_the_unit_of_y(small, data):
    model = small(scale_y=False, repair=None).fit(data.X, data.y)
    np.testing.assert_array_equal(
        model.net_.plain_module_.head.weight.detach(),
        model.module_.head.weight.detach(),
    )


# Early stopping


def test_early_stopping(small, data, mostly_slow_strategy):
    model = small(
        strategy=mostly_slow_strategy,
        early_stopping=True,
        validation_fraction=0.25,
        n_iter_no_change=3,
        max_epochs=300,
        dtype="float32",
    ).fit(data.X, data.Y, data.weight)
    assert model.n_iter_ < 300
    assert len(model.loss_curve_) == model.n_iter_
    losses = [epoch["valid_loss"] for epoch in model.history_]
    assert model.n_iter_ - np.argmin(losses) >= 3
    assert_obeys(model, data.X)
    assert model.multipliers_.shape == data.Y.shape


def test_validation_rows_have_no_multipliers_but_are_repaired(small, data):
    model = small(strategy="slack", early_stopping=True, validation_fraction=0.25)
    model.fit(data.X, data.Y)
    held_out = (model.multipliers_ == 0).all(axis=1)
    assert held_out.sum() == 10
    alone = small(strategy="slack", repair=None, early_stopping=True)
    alone.set_params(validation_fraction=0.25).fit(data.X, data.Y)
    assert alone.predict(data.X[held_out]).min() < 0
    assert_obeys(model, data.X[held_out])
    assert_balanced(model, data.X, data.Y)


def test_early_stopping_keeps_the_best_epoch(small, data):
    params = {"early_stopping": True, "n_iter_no_change": 4, "max_epochs": 200}
    model = small(repair=None, **params).fit(data.X, data.Y)
    best = 1 + int(np.argmin([epoch["valid_loss"] for epoch in model.history_]))
    assert best < model.n_iter_
    short = small(
        repair=None, early_stopping=True, max_epochs=best, n_iter_no_change=99
    )
    short.fit(data.X, data.Y)
    assert_same_bits(model.predict(data.X), short.predict(data.X))
    assert_same_bits(model.multipliers_, short.multipliers_)


# Modules


def make_net(n_features_in, n_outputs):
    return nn.Sequential(
        nn.Linear(n_features_in, 5), nn.Tanh(), nn.Linear(5, n_outputs)
    )


def fixed_net():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def lazy_net():
    return nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(2))


def batch_norm_net(n_features_in):
    return nn.Sequential(
        nn.Linear(n_features_in, 5), nn.BatchNorm1d(5), nn.Sigmoid(), nn.Linear(5, 2)
    )


@pytest.mark.parametrize(
    "module",
    [
        make_net,
        fixed_net,
        nn.Linear(3, 2),
        fixed_net(),
        fixed_net().double(),
        lazy_net,
        batch_norm_net,
    ],
    ids=["factory", "fixed factory", "linear", "instance", "double", "lazy", "norm"],
)
def test_modules_of_all_kinds(small, data, module):
    with untouched_random_state():
        model = small(module=module).fit(data.X, data.Y)
    assert_obeys(model, data.X)
    assert_balanced(model, data.X, data.Y)
    last = list(model.module_.modules())[-1]
    assert type(last) is nn.Linear
    assert not model.module_.training
    with torch.no_grad():
        exported = model.module_(torch.as_tensor(np.array(data.X)))
    np.testing.assert_array_equal(model.predict(data.X), exported)


def test_a_pretrained_module_is_only_converted(small, data, repaired_strategy):
    torch.manual_seed(0)
    for module in (fixed_net().double(), nn.Linear(3, 2).double()):
        with torch.no_grad():
            expected = module(torch.as_tensor(np.array(data.X))).numpy()
        model = small(
            module=module,
            strategy=repaired_strategy,
            lr=1e-14,
            max_epochs=1,
            repair=None,
        ).fit(data.X, 1e3 * data.Y + 50)
        np.testing.assert_allclose(model.predict(data.X), expected, atol=1e-8)


def test_a_fresh_module_starts_at_the_mean(small, data):
    model = small(lr=1e-14, max_epochs=1, repair=None)
    model.set_params(module__hidden_layer_sizes=())
    model.fit(0 * data.X, data.Y)
    np.testing.assert_allclose(model.predict(0 * data.X[:1]), [data.Y.mean(axis=0)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dtype_of_X", ["float32", "float64"])
def test_a_dtype_may_be_another_than_that_of_X(small, data, dtype, dtype_of_X):
    model = small(dtype=dtype).fit(data.X.astype(dtype_of_X), data.y)
    assert model.predict(data.X).dtype == dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_auto_follows_X(small, data, dtype):
    model = small().fit(data.X.astype(dtype), data.y)
    assert model.predict(data.X.astype("float64")).dtype == dtype
    assert model.net_.constraint_.multipliers.dtype == getattr(torch, dtype)


def test_the_shape_of_y_comes_back(small, data):
    assert small().fit(data.X, data.y).predict(data.X).shape == (40,)
    assert small().fit(data.X, data.Y[:, :1]).predict(data.X).shape == (40, 1)
    assert small().fit(data.X, data.Y).predict(data.X).shape == (40, 2)


def test_fitted_attributes(small, data):
    model = small(strategy=AugmentedLagrangian(dual_lr=0.3)).fit(data.X, data.Y)
    assert model.n_outputs_ == 2
    assert model.n_features_in_ == 3
    assert model.n_iter_ == 5 == len(model.history_) == len(model.loss_curve_)
    assert model.strategy_.dual_lr == 0.3
    assert model.optimizer_ is model.net_.optimizer_
    assert model.criterion_ is model.net_.criterion_
    assert model.callbacks_ is model.net_.callbacks_
    assert model.kkt_.stationarity > 0
    assert model.partial_fit(data.X, data.Y).kkt_ is None


def test_silent_unless_asked(small, data, capfd):
    for params in ({}, {"early_stopping": True, "n_iter_no_change": 1}):
        small(max_epochs=9, **params).fit(data.X, data.y)
        assert capfd.readouterr() == ("", "")
        small(max_epochs=9, verbose=1, **params).fit(data.X, data.y)
        assert "train_loss" in capfd.readouterr().out


def test_unfitted_estimators_have_no_fitted_attributes():
    model = PositiveOutputRegressor()
    for name in ("module_", "net_", "strategy_", "history_", "loss_curve_"):
        assert not hasattr(model, name)


def test_training_lowers_the_loss(small, data, mostly_slow_strategy):
    model = small(strategy=mostly_slow_strategy, max_epochs=40).fit(data.X, data.y)
    assert model.score(data.X, data.y) > 0.4
    assert model.score(data.X, data.y) == r2_score(data.y, model.predict(data.X))


@pytest.mark.filterwarnings("ignore:the nearest head .* was lost to rounding")
def test_divergence_warns_and_keeps_finite_numbers(small, data):
    with pytest.warns(ConvergenceWarning, match="training diverged"):
        model = small(lr=1e6, strategy="penalty").fit(data.X, data.y)
    assert np.isfinite(model.predict(data.X)).all()
    assert_obeys(model, data.X)


CLEAN = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    ("X", "as_it_is"),
    [
        (CLEAN, True),
        (CLEAN.astype(np.float32), True),
        (np.asfortranarray(CLEAN), True),
        (CLEAN[::2], True),
        (CLEAN.astype(">f8"), False),
        (CLEAN.astype(int), False),
        (CLEAN.tolist(), False),
        (np.broadcast_to(CLEAN[:1], (4, 3)), False),
        (pd.DataFrame(CLEAN), False),
    ],
)
def test_only_what_is_valid_as_it_is_skips_the_validation(fitted, X, as_it_is):
    model = fitted()
    assert is_valid_as_it_is(model, X) is as_it_is
    checked = validate_data(
        model, X, reset=False, dtype=[np.float64, np.float32], force_writeable=True
    )
    assert not as_it_is or checked is X
    # another memory layout may be another order of summation
    np.testing.assert_allclose(model.predict(X), model.predict(checked), rtol=1e-12)


def test_large_numbers_are_valid_and_a_nan_is_not(fitted):
    huge = np.full((4, 3), 1e308)  # the numbers are finite, and their sum is not
    assert is_valid_as_it_is(fitted(), huge)
    for value in (np.nan, np.inf, -np.inf):
        assert not is_valid_as_it_is(fitted(), np.where(CLEAN == 4, value, CLEAN))
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            fitted().predict(np.where(CLEAN == 4, value, CLEAN))


@pytest.mark.parametrize(
    "X", [CLEAN[0], CLEAN[:0], CLEAN[:, :2], CLEAN * np.nan, CLEAN + np.inf, 1j * CLEAN]
)
def test_what_is_not_valid_is_refused(fitted, X):
    with pytest.raises(ValueError, match=r"\S"):
        fitted().predict(X)


def test_names_of_features_are_always_checked(small, data):
    frame = pd.DataFrame(data.X, columns=["a", "b", "c"])
    model = small().fit(frame, data.y)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(CLEAN)


@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"verbose": 1}])
def test_without_an_epoch_a_trained_net_is_only_repaired(data, params):
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    with torch.no_grad():
        net[-1].bias.sub_(1.0)
    model = PositiveOutputRegressor(net, max_epochs=0, strategy="unconstrained")
    model.set_params(repair=None, random_state=0, **params).fit(data.X, data.y)
    with torch.no_grad():
        expected = net(torch.tensor(data.X)).numpy().ravel()
    np.testing.assert_allclose(model.predict(data.X), expected, rtol=1e-12)
    assert model.n_iter_ == 0
    assert model.loss_curve_ == []

    model.set_params(repair="head", early_stopping=False).fit(data.X, data.y)
    assert model.predict(data.X).min() >= 0
    assert model.predict(data.X).mean() == pytest.approx(data.y.mean())
    with torch.no_grad():
        now = net(torch.tensor(data.X)).numpy().ravel()
    np.testing.assert_array_equal(now, expected)


def test_a_balance_that_costs_the_slope_warns(small):
    X = np.linspace(-1, 1, 100)[:, None]
    y = X.ravel() + 0.02
    model = small(strategy="unconstrained", max_epochs=100, on_violated_y="ignore")
    with pytest.warns(UserWarning, match="balance=False costs less"):
        model.fit(X, y)
    balanced = model.score(X, y)
    assert model.set_params(balance=False).fit(X, y).score(X, y) > balanced + 0.1


@pytest.mark.slow
def test_public_submodules_are_at_hand():
    code = "import sklpos; print(sklpos.export.to_onnx.__name__, dir(sklpos))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("to_onnx")
    assert "'metrics'" in done.stdout
    assert "'backprop'" not in done.stdout
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sklpos.nothing
