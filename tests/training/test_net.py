"""The skorch net: what it minimises, in which order, and how it fails."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from constrained_nets import make_net as net_around
from constrained_nets import make_rows as rows_of
from marks import mostly_slow
from problems import line
from properties import assert_same_training_state
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback
from skorch.helper import predefined_split
from torch import nn
from watching import N, fitted, make_data, regressor

from sklpos.strategies import (
    STRATEGIES,
    Architecture,
    AugmentedLagrangian,
    QuadraticPenalty,
)
from sklpos.training.step import DivergenceError


def make_net(rows, *, strategy=None, **params):
    """A linear net with two outputs; by default it never moves."""
    torch.manual_seed(0)
    defaults = {"optimizer": torch.optim.SGD, "lr": 0.0, "batch_size": 16}
    return net_around(
        nn.Linear(rows.X.shape[1], rows.y.shape[1]),
        rows.y,
        strategy=strategy or QuadraticPenalty(),
        **{**defaults, **params},
    )


def make_rows(weight=None):
    return rows_of(*make_data(n_outputs=2), weight)


def predict(net, rows):
    with torch.no_grad():
        return net.module_(rows.X).numpy()


# The loss


@pytest.mark.parametrize("batch_size", [1, 7, N, -1])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_loss_is_the_weighted_mean(batch_size, scale):
    weight = np.random.default_rng(1).uniform(0.1, 5, size=N)
    rows = make_rows(weight=scale * weight)
    net = make_net(rows, batch_size=batch_size, alpha=3.0)
    net.partial_fit(rows, epochs=1)

    f, y = predict(net, rows), rows.y.numpy()
    objective = np.average(np.mean((f - y) ** 2, axis=1), weights=weight)
    term = np.average(np.mean(3 * np.maximum(-f, 0) ** 2, axis=1), weights=weight)
    record = net.history[-1]
    assert record["objective"] == pytest.approx(objective, rel=1e-12)
    assert record["constraint"] == pytest.approx(term, rel=1e-12)
    assert record["train_loss"] == pytest.approx(objective + term, rel=1e-12)


def test_gradient_of_an_epoch_does_not_depend_on_the_batch_size():
    weight = np.random.default_rng(1).uniform(0.1, 5, size=N)
    rows = make_rows(weight=weight)

    class Gradients(Callback):
        def initialize(self):
            self.mean_ = 0.0
            return self

        def on_grad_computed(self, net, named_parameters, batch, **kwargs):
            parts = [weight.grad.ravel() for _, weight in named_parameters]
            self.mean_ = self.mean_ + torch.cat(parts) * len(batch.index) / N

    seen = {}
    for size in (1, 7, N):
        callback = Gradients()
        net = make_net(rows, batch_size=size, callbacks=[callback])
        net.partial_fit(rows, epochs=1)
        seen[size] = callback.mean_
    torch.testing.assert_close(seen[1], seen[N], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(seen[7], seen[N], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("batch_size", [7, -1])
def test_validation_loss_is_the_weighted_mean_without_the_term(batch_size):
    weight = np.random.default_rng(1).uniform(0.1, 5, size=N)
    rows = make_rows(weight=weight)
    split = predefined_split(rows)
    net = make_net(rows, train_split=split, batch_size=batch_size)
    net.partial_fit(rows, epochs=1)
    squares = np.mean((predict(net, rows) - rows.y.numpy()) ** 2, axis=1)
    expected = np.average(squares, weights=weight)
    assert net.history[-1, "valid_loss"] == pytest.approx(expected, rel=1e-12)
    assert net.history[-1, "train_loss"] > expected


@pytest.mark.parametrize(
    ("criterion", "loss"),
    [
        (nn.L1Loss, nn.functional.l1_loss),
        (nn.SmoothL1Loss, nn.functional.smooth_l1_loss),
        (nn.HuberLoss, nn.functional.huber_loss),
    ],
)
def test_other_criteria(criterion, loss):
    rows = make_rows()
    net = make_net(rows, criterion=criterion)
    net.partial_fit(rows, epochs=1)
    expected = loss(torch.as_tensor(predict(net, rows)), rows.y).item()
    assert net.history[-1, "objective"] == pytest.approx(expected, rel=1e-12)

    X, y = make_data()
    model = regressor(criterion=criterion, max_epochs=30, repair="head").fit(X, y)
    assert model.loss_curve_[-1] < 0.5 * model.loss_curve_[0]
    assert model.predict(X).min() >= 0


def test_criterion_parameters_reach_it():
    X, y = make_data()
    model = regressor(criterion=nn.HuberLoss, criterion__delta=0.25).fit(X, y)
    assert model.criterion_.delta == 0.25
    assert model.criterion_.reduction == "none"


def test_criterion_instance_without_reduction():
    X, y = make_data()
    by_instance = regressor(criterion=nn.L1Loss(reduction="none")).fit(X, y)
    assert_same_training_state(by_instance, regressor(criterion=nn.L1Loss).fit(X, y))


def test_partial_of_a_criterion():
    X, y = make_data()
    huber = functools.partial(nn.HuberLoss, reduction="none", delta=0.5)
    by_name = regressor(criterion=nn.HuberLoss, criterion__delta=0.5).fit(X, y)
    assert_same_training_state(regressor(criterion=huber).fit(X, y), by_name)


# Free outputs


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "lower_bound",
    mostly_slow([[-np.inf, 0.0], [-np.inf, -np.inf], 0.0], [-np.inf, 0.0]),
)
def test_free_outputs_leave_everything_finite(strategy, lower_bound):
    X, y = make_data(n_outputs=2)
    model = regressor(strategy=strategy, lower_bound=lower_bound, repair="head")
    model.fit(X, y - 5 * np.isneginf(lower_bound))
    numbers = {
        name: model.history_[:, name]
        for name in ("train_loss", "constraint", "max_violation", "mean_multiplier")
    }
    for values in (*numbers.values(), model.predict(X), model.multipliers_):
        assert np.isfinite(values).all()
    assert np.isfinite(list(vars(model.kkt_).values())).all()
    free = np.isneginf(np.broadcast_to(lower_bound, 2))
    assert not model.multipliers_[:, free].any()


@pytest.mark.parametrize(
    "name", [n for n, s in STRATEGIES.items() if not issubclass(s, Architecture)]
)
def test_free_outputs_train_as_if_unconstrained(name):
    X, y = make_data(n_outputs=2)
    plain = regressor(strategy="unconstrained").fit(X, y)
    model = regressor(strategy=name, lower_bound=-np.inf).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))
    assert model.history_[:, "constraint"] == [0.0] * 4


def test_free_outputs_add_nothing():
    rows = make_rows()
    net = make_net(rows, lower_bound=[-np.inf, 0.5], lr=0.1, batch_size=-1)
    plain = make_net(rows, lower_bound=-np.inf, lr=0.1, batch_size=-1)
    f = predict(net, rows)
    for each in (net, plain):
        each.partial_fit(rows, epochs=1)
    term = np.maximum(0.5 - f[:, 1], 0) ** 2
    assert net.history[-1, "constraint"] == pytest.approx(term.sum() / (2 * N))
    weight, unmoved = net.module_.weight, plain.module_.weight
    assert torch.equal(weight[0], unmoved[0])
    assert not torch.equal(weight[1], unmoved[1])


# The loop


def test_lbfgs_solves_a_problem_exactly():
    problem = line()
    model = regressor(
        module__hidden_layer_sizes=(),
        optimizer=torch.optim.LBFGS,
        lr=1.0,
        optimizer__line_search_fn="strong_wolfe",
        optimizer__tolerance_change=0.0,
        optimizer__tolerance_grad=1e-12,
        batch_size=-1,
        max_epochs=15,
        alpha=10.0,
        strategy=AugmentedLagrangian(dual_lr=1.0),
        on_violated_y="ignore",
    )
    model.fit(problem.X, problem.y)
    np.testing.assert_allclose(model.predict(problem.X), problem.prediction, atol=1e-8)
    found = model.multipliers_.ravel()
    np.testing.assert_allclose(found, problem.multipliers, atol=1e-7)


class Rows(Callback):
    """Remembers the row numbers of every batch."""

    def initialize(self):
        self.epochs_ = []
        return self

    def on_epoch_begin(self, net, **kwargs):
        self.epochs_.append([])

    def on_violation(self, net, violation, index):
        self.epochs_[-1].append(index.tolist())


def seen_rows(**params):
    X, y = make_data()
    model = regressor(("rows", Rows()), **params).fit(X, y)
    return fitted(model, "rows").epochs_


def test_training_rows_are_shuffled_anew_each_epoch():
    epochs = [np.concatenate(batches).tolist() for batches in seen_rows()]
    assert all(sorted(order) == list(range(N)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 4


def test_iterator_parameters():
    order = list(range(N))
    batches = [order[:16], order[16:32], order[32:48], order[48:]]
    assert seen_rows(iterator_train__shuffle=False) == [batches] * 4
    params = {"iterator_train__shuffle": False, "iterator_train__drop_last": True}
    assert seen_rows(**params) == [batches[:3]] * 4
    assert len(seen_rows(iterator_train__batch_size=10)[0]) == 5
    assert len(seen_rows(batch_size=-1)[0]) == 1


def test_nothing_left_to_train_on_is_refused():
    X, y = make_data()
    model = regressor(batch_size=N + 1, iterator_train__drop_last=True)
    with pytest.raises(ValueError, match=f"drop_last=True leaves no batch of {N} rows"):
        model.fit(X, y)


class CtrlC(Callback):
    """Presses Ctrl-C in the second batch of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_batch_end(self, net, training, **kwargs):
        history = net.history
        if training and len(history) == self.epoch and len(history[-1, "batches"]) == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epoch", [2, 4])
def test_ctrl_c_leaves_a_usable_model(epoch):
    X, y = make_data()
    with pytest.warns(ConvergenceWarning, match=f"interrupted at epoch {epoch} of 9"):
        model = regressor(CtrlC(epoch), max_epochs=9, repair="head").fit(X, y)
    assert model.n_iter_ == epoch - 1  # the one that was cut is undone
    assert model.predict(X).min() >= 0
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin.predict(X), model.predict(X))
        with pytest.raises(KeyboardInterrupt):  # in the same epoch, which was undone
            twin.partial_fit(X, y)
        np.testing.assert_array_equal(twin.predict(X), model.predict(X))


class CtrlCInNoGrad(CtrlC):
    """Presses it where ``torch.no_grad`` has begun, but not yet its block."""

    def on_batch_end(self, net, training, **kwargs):
        try:
            super().on_batch_end(net, training, **kwargs)
        except KeyboardInterrupt:
            torch.set_grad_enabled(False)
            raise


def test_ctrl_c_leaves_gradients_on():
    X, y = make_data()
    with pytest.warns(ConvergenceWarning, match="interrupted at epoch 4 of 9"):
        model = regressor(CtrlCInNoGrad(4), max_epochs=9).fit(X, y)
    assert torch.is_grad_enabled()
    assert model.n_iter_ == 3
    assert model.kkt_.stationarity > 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("params", [{}, {"criterion": nn.HuberLoss}], ids=str)
def test_the_mode_of_the_caller_does_not_matter(mode, params):
    X, y = make_data()
    whole = regressor(**params).fit(X, y).partial_fit(X, y)
    with mode():
        model = regressor(**params).fit(X, y).partial_fit(X, y)
    assert_same_training_state(model, whole)


# Divergence


def test_divergence_is_an_error():
    X, y = make_data()
    sentence = (
        r"the loss became (inf|nan) in epoch \d; training diverged: lower lr "
        r"\(now 1e\+300\) or alpha, or standardise X\."
    )
    model = regressor(lr=1e300)
    with pytest.raises(DivergenceError, match=sentence):
        model.fit(X, y)
    assert issubclass(DivergenceError, ValueError)
    assert not model.__sklearn_is_fitted__()


@pytest.mark.parametrize("lr", [1e100, 1e200, 1e308])
def test_divergence_in_the_last_step_is_an_error(lr):
    X, y = make_data()
    with pytest.raises(DivergenceError, match="training diverged"):
        regressor(lr=lr, batch_size=-1, max_epochs=1).fit(X, y)


class PoisonLastStep(Callback):
    """Makes a weight infinite when nobody will compute a loss again."""

    def on_train_end(self, net, **kwargs):
        with torch.no_grad():
            next(net.module_.parameters()).view(-1)[0] = np.inf


def test_weights_that_are_not_finite_are_an_error():
    X, y = make_data()
    with pytest.raises(DivergenceError, match="a weight is no longer a finite number"):
        regressor(PoisonLastStep).fit(X, y)
