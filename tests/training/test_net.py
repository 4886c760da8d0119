"""The skorch net: what it minimises, how it fails, and what survives a pickle."""

import copy
import functools
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from problems import line
from skorch.callbacks import Callback
from skorch.helper import predefined_split
from torch import nn

from sklpos import PositiveOutputRegressor
from sklpos.nets.units import TargetScale
from sklpos.strategies import STRATEGIES, AugmentedLagrangian, QuadraticPenalty
from sklpos.training.kkt import evaluate_training_state
from sklpos.training.net import ConstrainedNet
from sklpos.training.rows import RowDataset
from sklpos.training.step import DivergenceError

N, D = 40, 3


def make_data(seed=0, n=N, n_outputs=1):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, D))
    y = np.maximum(X[:, :n_outputs] + 0.3 * rng.normal(size=(n, n_outputs)), 0)
    return X, y.squeeze()


def regressor(**params):
    defaults = {
        "module__hidden_layer_sizes": (8,),
        "max_epochs": 3,
        "batch_size": 16,
        "random_state": 0,
        "repair": None,
    }
    return PositiveOutputRegressor(**{**defaults, **params})


def make_net(rows, *, strategy=None, lower_bound=0.0, alpha=1.0, **params):
    """A linear net on its own, in the unit of y; by default it never moves."""
    n_outputs = rows.y.shape[1]
    torch.manual_seed(0)
    module = nn.Linear(rows.X.shape[1], n_outputs).double()
    bound = np.zeros(n_outputs) + lower_bound
    targets = TargetScale(np.zeros(n_outputs), np.ones(n_outputs), bound)
    strategy = QuadraticPenalty() if strategy is None else strategy
    bounded = torch.as_tensor(targets.bounded)
    strategy.setup(
        rows.y[:, bounded], lower_bound=torch.as_tensor(bound)[bounded], alpha=alpha
    )
    defaults = {
        "optimizer": torch.optim.SGD,
        "lr": 0.0,
        "batch_size": 16,
        "criterion__reduction": "none",
        "train_split": None,
        "verbose": 0,
    }
    net = ConstrainedNet(
        module,
        strategy=strategy,
        alpha=alpha,
        targets=targets,
        head="",
        **{**defaults, **params},
    )
    return net.initialize()


def make_rows(n_outputs=2, weight=None):
    X, y = make_data(n_outputs=n_outputs)
    weight = np.ones(N) if weight is None else weight
    return RowDataset(*map(torch.as_tensor, (X, y.reshape(N, -1), weight)))


def predict(net, rows):
    with torch.no_grad():
        return net.module_(rows.X).numpy()


def frozen(state):
    """Numbers of a nested state dict, for comparison bit by bit."""
    if isinstance(state, dict):
        return {key: frozen(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [frozen(value) for value in state]
    return state.tolist() if isinstance(state, torch.Tensor) else state


def training_state(model):
    net = model.net_
    parts = (net.module_, net.constraint_, net.optimizer_)
    return copy.deepcopy([frozen(part.state_dict()) for part in parts])


def assert_same_training(one, two):
    """Two models carry the same state, bit for bit."""
    assert training_state(one) == training_state(two)
    for name in ("train_loss", "objective", "constraint", "max_multiplier"):
        assert one.history_[:, name] == two.history_[:, name]
    np.testing.assert_array_equal(one.multipliers_, two.multipliers_)


# -- the loss ---------------------------------------------------------------------


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


class OwnLoss(nn.Module):
    def forward(self, y_pred, y_true):
        return (y_pred - y_true) ** 2


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (OwnLoss, "must be made with reduction='none'"),
        (lambda a, b: (a - b) ** 2, "must be made with reduction='none'"),
        (nn.MSELoss(), "has reduction='mean'.*pass reduction='none'"),
        (OwnLoss(), "has reduction=None.*pass reduction='none'"),
        (nn.CrossEntropyLoss, r"of shape \(16, 1\); it returned one of shape \(16,\)"),
    ],
)
def test_criteria_without_a_loss_for_every_output_are_refused(criterion, message):
    X, y = make_data()
    with pytest.raises((TypeError, ValueError), match=f"(?s)criterion=.*{message}"):
        regressor(criterion=criterion).fit(X, y)


def test_criterion_instance_without_reduction():
    X, y = make_data()
    by_instance = regressor(criterion=nn.L1Loss(reduction="none")).fit(X, y)
    assert_same_training(by_instance, regressor(criterion=nn.L1Loss).fit(X, y))


# -- free outputs -----------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("lower_bound", [[-np.inf, 0.0], [-np.inf, -np.inf], 0.0])
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
    "name", [n for n, s in STRATEGIES.items() if not s().wraps_module]
)
def test_free_outputs_train_as_if_unconstrained(name):
    X, y = make_data(n_outputs=2)
    plain = regressor(strategy="unconstrained").fit(X, y)
    model = regressor(strategy=name, lower_bound=-np.inf).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))
    assert model.history_[:, "constraint"] == [0.0] * 3


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


# -- the loop ---------------------------------------------------------------------


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
        on_negative_y="ignore",
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
    model = regressor(callbacks=[("rows", Rows())], **params).fit(X, y)
    return dict(model.callbacks_)["rows"].epochs_


def test_training_rows_are_shuffled_anew_each_epoch():
    epochs = [np.concatenate(batches).tolist() for batches in seen_rows()]
    assert all(sorted(order) == list(range(N)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 3


def test_training_goes_on_as_in_one_go():
    X, y = make_data()
    rows = Rows()
    whole, parts = (
        regressor(callbacks=[("rows", rows)], module__dropout=0.3) for _ in range(2)
    )
    whole.fit(X, y)
    for _ in range(3):
        parts.partial_fit(X, y)
    orders = [dict(model.callbacks_)["rows"].epochs_ for model in (whole, parts)]
    assert orders[0] == orders[1]
    assert_same_training(whole, parts)
    assert seen_rows(random_state=1) != seen_rows(random_state=2)


def test_dropout_in_two_threads():
    """Each step borrows the generator of the process, one thread at a time."""
    X, y = make_data()

    def fit(_):
        return regressor(module__dropout=0.3, max_epochs=10).fit(X, y)

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(fit, range(2))
    assert_same_training(one, two)
    assert_same_training(one, fit(None))


def test_iterator_parameters():
    order = list(range(N))
    batches = [order[:16], order[16:32], order[32:]]
    assert seen_rows(iterator_train__shuffle=False) == [batches] * 3
    params = {"iterator_train__shuffle": False, "iterator_train__drop_last": True}
    assert seen_rows(**params) == [batches[:2]] * 3
    assert len(seen_rows(iterator_train__batch_size=10)[0]) == 4
    assert len(seen_rows(batch_size=-1)[0]) == 1


def test_nothing_left_to_train_on_is_refused():
    X, y = make_data()
    model = regressor(batch_size=N + 1, iterator_train__drop_last=True)
    with pytest.raises(ValueError, match=f"drop_last=True leaves nothing of {N} rows"):
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
    model = regressor(callbacks=[CtrlC(epoch)], max_epochs=9, repair="head").fit(X, y)
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
    model = regressor(callbacks=[CtrlCInNoGrad(4)], max_epochs=9).fit(X, y)
    assert torch.is_grad_enabled()
    assert model.n_iter_ == 3
    assert model.kkt_.stationarity > 0


# -- divergence -------------------------------------------------------------------


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
        regressor(callbacks=[PoisonLastStep]).fit(X, y)


def other_rows(X, y):
    return X[:-5] + 0.1, y[:-5]


@pytest.mark.parametrize("name", ["augmented_lagrangian", "slack", "exact_penalty"])
@pytest.mark.parametrize(
    ("changes", "data"),
    [
        ({"lr": 1e300}, None),
        ({"lr": 1e300, "batch_size": 3}, other_rows),
        ({"lr": 1e300, "optimizer": torch.optim.SGD}, None),
        ({"lr": 1e300, "strategy": "penalty", "alpha": 2.0}, None),
        ({"lr": 1e300, "lower_bound": 0.5, "on_negative_y": "ignore"}, None),
        ({"lr": 1e300, "optimizer__weight_decay": 0.1}, other_rows),
    ],
)
def test_divergence_in_a_warm_start_loses_nothing(name, changes, data):
    X, y = make_data()
    model = regressor(strategy=name, warm_start=True).fit(X, y)
    steady = copy.deepcopy(model)
    before, parameters = training_state(model), model.get_params()
    net, optimizer = model.net_, model.optimizer_
    predictions, multipliers = model.predict(X), model.multipliers_.copy()

    with pytest.raises(DivergenceError):
        model.set_params(**changes).fit(*(data(X, y) if data else (X, y)))
    assert training_state(model) == before
    assert model.net_ is net
    assert model.optimizer_ is optimizer
    assert len(model.history_) == 3
    assert model.strategy_.state_ is net.constraint_
    np.testing.assert_array_equal(model.predict(X), predictions)
    np.testing.assert_array_equal(model.multipliers_, multipliers)

    for each in (model, steady):  # and it goes on as if nothing had happened
        each.set_params(**{key: parameters.get(key, 0.0) for key in changes}).fit(X, y)
    assert len(model.history_) == 6
    assert_same_training(model, steady)


def test_restore_undoes_a_replaced_history_and_callback_state():
    rows = make_rows()
    net = make_net(rows, lr=0.1)
    net.partial_fit(rows, epochs=2)
    history, undo = net.history, net.snapshot()
    ascent = dict(net.callbacks_)["multiplier_ascent"]
    net.partial_fit(rows, epochs=1)
    ascent.infeasible_rows_ = [1]
    net.history = type(history)()
    net.restore(undo)
    assert net.history is history
    assert len(history) == 2
    assert ascent.infeasible_rows_ == []


# -- copies -----------------------------------------------------------------------


def by_pickle(net):
    return pickle.loads(pickle.dumps(net))


@pytest.mark.parametrize("duplicate", [by_pickle, copy.deepcopy])
@pytest.mark.parametrize("name", STRATEGIES)
def test_copies_keep_their_parts_together(duplicate, name):
    X, y = make_data()
    model = regressor(strategy=name).fit(X, y)
    net = duplicate(model).net_
    assert net.strategy_.state_ is net.constraint_
    assert net.strategy_ is net.strategy
    assert net.module_ is net.module
    weights = {id(weight) for weight in net.module_.parameters()}
    assert {id(w) for g in net.optimizer_.param_groups for w in g["params"]} == weights
    assert training_state(model) == training_state(duplicate(model))


@pytest.mark.parametrize("duplicate", [by_pickle, copy.deepcopy])
@pytest.mark.parametrize("name", ["augmented_lagrangian", "slack", "exact_penalty"])
def test_a_copy_trains_on_like_the_original(duplicate, name):
    X, y = make_data()
    model = regressor(strategy=name, module__dropout=0.2, warm_start=True).fit(X, y)
    twin = duplicate(model)
    model.fit(X, y)
    twin.fit(X, y)
    assert len(twin.history_) == 6
    assert_same_training(model, twin)


def test_a_copy_is_independent():
    X, y = make_data()
    model = regressor(warm_start=True).fit(X, y)
    before = training_state(model)
    copy.deepcopy(model).fit(X, y)
    assert training_state(model) == before


# -- torch.compile ----------------------------------------------------------------

needs_dynamo = pytest.mark.skipif(
    not torch._dynamo.is_dynamo_supported(), reason="torch.compile does not work here"
)
its_own_warnings = pytest.mark.filterwarnings("ignore")  # of non-leaf gradients


def compiled_and_not(**params):
    X, y = make_data()
    models = [
        regressor(compile=how, warm_start=True, **params).fit(X, y)
        for how in (False, True)
    ]
    torch._dynamo.reset()
    return X, *models


@needs_dynamo
@its_own_warnings
@pytest.mark.parametrize("name", ["augmented_lagrangian", "exact_penalty"])
def test_compiled_module_trains_the_same(name):
    X, plain, fast = compiled_and_not(
        strategy=name, compile__backend="eager", repair="head"
    )
    assert hasattr(fast.net_.module_, "_orig_mod")
    assert not hasattr(fast.module_, "_orig_mod")
    assert type(fast.module_.head) is nn.Linear
    np.testing.assert_allclose(fast.predict(X), plain.predict(X), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fast.multipliers_, plain.multipliers_, atol=1e-9)
    assert fast.predict(X).min() >= 0


@needs_dynamo
@its_own_warnings
def test_a_compiled_module_is_compiled_again_when_loaded():
    X, y = make_data()
    params = {"compile": True, "compile__backend": "eager", "warm_start": True}
    model = regressor(**params).fit(X, y)
    twin = by_pickle(model)
    assert hasattr(twin.net_.module_, "_orig_mod")
    assert twin.net_.module_._orig_mod is twin.net_.module
    assert_same_training(model.fit(X, y), twin.fit(X, y))


@needs_dynamo
@its_own_warnings
@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler"
)
def test_compiled_by_the_default_backend():
    X, plain, fast = compiled_and_not(max_epochs=1)
    np.testing.assert_allclose(fast.predict(X), plain.predict(X), rtol=1e-9, atol=1e-9)


def test_partial_of_a_criterion():
    X, y = make_data()
    huber = functools.partial(nn.HuberLoss, reduction="none", delta=0.5)
    by_name = regressor(criterion=nn.HuberLoss, criterion__delta=0.5).fit(X, y)
    assert_same_training(regressor(criterion=huber).fit(X, y), by_name)


# Whole domains beside the rows


class Corners(AugmentedLagrangian):
    """Two points beyond the rows stand for two domains; the second output is free."""

    points = torch.tensor([[3.0, -3.0, 0.0], [-2.0, 1.0, 4.0]], dtype=torch.float64)

    def setup(self, y, *, lower_bound, alpha):
        padded = torch.cat([y, y.new_zeros(2, y.shape[1])])
        super().setup(padded, lower_bound=lower_bound, alpha=alpha)

    def lowest_outputs(self, module):
        return module(self.points)


BOUND = [1.0, -np.inf]


@pytest.mark.parametrize("batch_size", [8, 16, -1])
def test_a_domain_counts_like_all_rows_whatever_the_batch(batch_size):
    rows = make_rows(weight=np.arange(1.0, N + 1))
    with_domains = make_net(rows, strategy=Corners(), lower_bound=BOUND)
    without = make_net(rows, strategy=AugmentedLagrangian(), lower_bound=BOUND)
    for net in (with_domains, without):
        net.strategy_.state_.multiplier.fill_(0.25)
        net.strategy_.dual_lr = 0.0
        net.set_params(batch_size=batch_size)
        net.partial_fit(rows, epochs=1)
    difference = (
        with_domains.history[-1]["constraint"] - without.history[-1]["constraint"]
    )
    module = with_domains.module_
    g = 1.0 - module(Corners.points)[:, 0].detach().numpy()
    term = (np.maximum(0.25 + 2 * g, 0) ** 2 - 0.25**2) / 4  # c = 2
    assert difference == pytest.approx(term.sum() / 2)  # a mean over two outputs
    for name in ("violation_rate", "max_violation", "mean_multiplier"):
        assert with_domains.history[-1][name] == without.history[-1][name]


def test_the_multipliers_of_domains_are_the_last_rows():
    rows, seen = make_rows(), Rows()
    net = make_net(rows, strategy=Corners(), lower_bound=BOUND, callbacks=[seen])
    net.partial_fit(rows, epochs=2)
    batches = [batch for epoch in seen.epochs_ for batch in epoch]
    assert all(batch[-2:] == [-1, -2] for batch in batches)
    steps = 0.1 * len(batches) * (1.0 - net.module_(Corners.points)[:, 0])
    reached = net.strategy_.state_.multiplier[[-1, -2], 0]
    assert (reached > 0).any()
    torch.testing.assert_close(reached, torch.relu(steps.detach()))


def test_kkt_residuals_include_the_domains():
    """The gradient of the Lagrangian, by central differences of its formula."""
    X, Y = make_data(n_outputs=2)
    rows = make_rows()
    net = make_net(rows, strategy=Corners(), lower_bound=BOUND)
    multiplier = net.strategy_.state_.multiplier
    multiplier.copy_(torch.linspace(0, 1, N + 2, dtype=torch.float64)[:, None])
    weight, bias = (p.detach().numpy() for p in net.module_.parameters())

    def lagrangian(theta):
        w, b = theta[:6].reshape(2, 3), theta[6:]
        lam = multiplier.numpy()[:, 0]
        squares, g = (X @ w.T + b - Y) ** 2, 1.0 - (X @ w[0] + b[0])
        domains = 1.0 - (Corners.points.numpy() @ w[0] + b[0])
        own = lam[-1] * domains[0] + lam[-2] * domains[1]
        return squares.mean() + (lam[:N] @ g) / (2 * N) + own / 2

    theta = np.concatenate([weight.ravel(), bias])
    steps = 1e-6 * np.eye(8)
    slope = [(lagrangian(theta + h) - lagrangian(theta - h)) / 2e-6 for h in steps]
    found, _, kkt = evaluate_training_state(net, rows)
    assert found.shape == (N, 1)
    assert kkt.stationarity == pytest.approx(np.linalg.norm(slope), rel=1e-6)
    violation = 1.0 - net.module_(Corners.points)[:, 0].detach()
    assert kkt.max_violation >= violation.max()
