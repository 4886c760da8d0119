"""The default: `Stack` with ``"auto"``, every strategy on it, and both bounds."""

import functools
import warnings

import numpy as np
import pytest
import torch
from marks import mostly_slow
from sklearn.metrics import r2_score
from torch import nn

from sklpos import (
    MLP,
    STRATEGIES,
    PositiveOutputRegressor,
    Stack,
    TrainingCheckpoint,
    certify,
)
from sklpos.nets.modules import TrainingDefaults

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 3))
SIGNAL = np.column_stack([np.sin(2 * X[:, 0]) + X[:, 1] ** 2 - 1, X[:, 2] + 0.5])
Y = np.clip(SIGNAL + 0.2 * RNG.normal(size=(300, 2)), 0, 1.5)
WEIGHT = RNG.integers(1, 4, size=300).astype(float)
REPAIRED = sorted(n for n, s in STRATEGIES.items() if s.guarantee != "everywhere")
QUICK = "augmented_lagrangian", "certified", "slack"


def make(**params):
    return PositiveOutputRegressor(
        **{"max_epochs": 5, "random_state": 0, "lower_bound": 0.0, **params}
    )


@functools.cache
def fitted(strategy="auto", upper_bound=None, dtype="float64", max_epochs=5):
    model = make(
        strategy=strategy, upper_bound=upper_bound, dtype=dtype, max_epochs=max_epochs
    )
    return model.fit(X, Y, sample_weight=WEIGHT)


@functools.cache
def far_inputs():
    rng = np.random.default_rng(1)
    signs = rng.choice([-1.0, 0.0, 1.0], size=(50_000, 3))
    return signs * 10 ** rng.uniform(-40, 25, size=(50_000, 3))


# What "auto" is


class Cubic(nn.Module):
    """A module with defaults of its own."""

    @staticmethod
    def training_defaults(n_samples):
        return TrainingDefaults("penalty", lr=n_samples / 1e4, epochs=2, steps=5)

    def __init__(self, n_features_in, n_outputs):
        super().__init__()
        self.head = nn.Linear(n_features_in, n_outputs)

    def forward(self, X):
        return self.head(X**3)

    @property
    def param_groups(self):
        return [("head.weight", {"weight_decay": 0.7})]


@pytest.mark.parametrize(
    ("module", "strategy", "lr", "epochs"),
    [
        (Stack, "nonnegative_weights", 0.02, 134),  # 400 steps of 3 batches
        (MLP, "augmented_lagrangian", 0.004, 100),
        (Cubic, "penalty", 0.03, 2),
        pytest.param(
            functools.partial(Stack, width=2),
            "nonnegative_weights",
            0.02,
            134,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_auto_is_what_the_module_asks_for(module, strategy, lr, epochs):
    model = PositiveOutputRegressor(module, random_state=0).fit(X, Y)
    assert type(model.strategy_) is STRATEGIES[strategy]
    assert model.net_.lr == lr
    assert model.n_iter_ == epochs
    # The parameters stay what they were.
    assert (model.strategy, model.lr, model.max_epochs) == ("auto", "auto", "auto")


def test_many_rows_have_one_large_member():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(10_000, 2))
    inputs[:, 1] = rng.random(10_000) < 0.04
    model = make().fit(inputs, np.abs(inputs[:, 0]))
    stack = model.net_.plain_module_
    assert (stack.n_members, stack.decays) == (1, [0.1])
    assert model.module_.head.in_features == 256
    # 2 * sqrt(p * (1 - p)) of a rare category
    assert stack.encodings[0].height.min() == pytest.approx(0.392, abs=0.02)
    assert model.predict(1e6 * inputs).min() >= 0


@pytest.mark.parametrize(
    ("n", "batch", "epochs"),
    [(10**4, 128, 30), (10**6, 1280, 3), (10**7, 4048, 2)],
)
def test_many_rows_take_as_many_steps(n, batch, epochs):
    defaults = Stack.training_defaults(n)
    assert (defaults.batch_size, defaults.max_epochs(n // batch)) == (batch, epochs)


@pytest.mark.slow
def test_a_step_is_a_batch():
    model = make(max_epochs="auto", batch_size=-1).fit(X[:10], Y[:10])
    assert model.n_iter_ == 400


def test_given_values_are_kept():
    model = make(strategy="penalty", lr=0.01).fit(X, Y)
    assert type(model.strategy_) is STRATEGIES["penalty"]
    assert (model.net_.lr, model.n_iter_) == (0.01, 5)


def test_a_module_may_have_groups_of_its_own():
    model = make(module=Cubic).fit(X, Y)
    decays = {group["weight_decay"] for group in model.optimizer_.param_groups}
    assert 0.7 in decays


def test_the_default_is_a_plain_net_with_a_linear_head():
    kinds = [type(layer) for layer in fitted().module_]
    assert kinds == [nn.Linear, nn.Hardtanh, nn.Linear, nn.ReLU, nn.Linear]
    assert fitted().repair_ is None


class Ready(PositiveOutputRegressor):
    """A subclass that does not name most of its parameters."""

    def __init__(self, lr=0.01, **params):
        super().__init__(lr=lr, **params)


def test_a_subclass_keeps_what_its_constructor_was_given():
    model = Ready(max_epochs=3, random_state=0).fit(X, Y)
    assert (model.n_iter_, model.net_.lr) == (3, 0.01)


@pytest.mark.parametrize("lower_bound", mostly_slow([-20.0, -273.15, -1e6], -1e6))
def test_a_bound_may_be_far_away(lower_bound):
    celsius = 15 + 8 * SIGNAL[:, 0]
    params = {"lower_bound": lower_bound, "max_epochs": 60}
    model = make(on_violated_y="ignore", **params).fit(X, celsius)
    assert model.score(X, celsius) > 0.8


# Both bounds, for every input


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_input_breaks_either_bound(dtype):
    model = fitted(upper_bound=1.5, dtype=dtype)
    for size in (1, 7, 50_000):
        predictions = model.predict(far_inputs()[:size])
        assert predictions.min() >= 0
        assert predictions.max() <= 1.5
    assert isinstance(model.module_[-2], nn.Hardtanh)
    assert type(model.module_[-1]) is nn.Linear


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("domain", ["all", "box"])
def test_both_bounds_are_certified(domain, dtype):
    certificate = certify(fitted(upper_bound=1.5, dtype=dtype), domain)
    assert certificate.status_ == "verified"
    assert (certificate.proved_min_ >= 0).all()
    assert (certificate.proved_max_ <= 1.5).all()


@pytest.mark.parametrize(("dtype", "digits"), [("float64", 1e-9), ("float32", 1e-5)])
def test_the_mean_is_exact_between_both_bounds(dtype, digits):
    model = fitted(upper_bound=1.5, dtype=dtype)
    mean = np.average(model.predict(X), axis=0, weights=WEIGHT)
    wanted = np.average(Y, axis=0, weights=WEIGHT)
    assert np.abs(mean - wanted).max() <= digits * Y.std(axis=0).min()


def test_outputs_may_have_different_sides():
    lower, upper = [0.0, -np.inf, 0.3, -np.inf], [1.5, 1.5, np.inf, np.inf]
    targets = np.column_stack([Y, Y[:, 0] + 0.3, SIGNAL[:, 1]])
    model = make(lower_bound=lower, upper_bound=upper).fit(X, targets)
    predictions = model.predict(far_inputs())
    assert (predictions >= lower).all()
    assert (predictions <= upper).all()
    assert model.predict(X).mean(axis=0) == pytest.approx(targets.mean(axis=0))


@pytest.mark.slow
def test_both_bounds_cost_little():
    free, held = fitted(max_epochs=60), fitted(upper_bound=1.5, max_epochs=60)
    scores = [r2_score(Y, model.predict(X)) for model in (free, held)]
    assert min(scores) > 0.85
    assert abs(scores[0] - scores[1]) < 0.03


# A criterion of one's own


class Coupled(nn.Module):
    """Squares the first output; the second is compared with the first."""

    def __init__(self, reduction="none"):
        super().__init__()
        self.reduction = reduction
        self.register_buffer("weight", torch.tensor([1.0, 3.0]))

    def forward(self, y_pred, y_true):
        residual = y_pred - y_true
        first, second = residual[:, :1], residual[:, 1:]
        return self.weight * torch.cat([first**2, (second - first).abs()], dim=1)


def test_a_criterion_sees_the_outputs_of_one_member():
    # Members that are alone in a `Stack` train as they do beside others.
    rates = {"lr_schedule": None, "optimizer": torch.optim.SGD, "batch_size": -1}
    params = {"criterion": Coupled, "module__n_folds": 1, "early_stopping": True}
    one = {**params, **rates, "module__kinds": ((4, 0.0),), "random_state": 0}
    two = {**one, "module__kinds": ((4, 0.0), (4, 0.0))}
    models = [make(**own, max_epochs=1).fit(X, Y) for own in (one, two)]
    alone, beside = [model.net_.plain_module_.kinds[0] for model in models]
    # The mean over the columns halves the gradient.
    moved = [own.head.bias.grad * n for own, n in ((alone, 1), (beside, 2))]
    assert moved[1].numpy() == pytest.approx(moved[0].numpy(), rel=1e-9)


# Every strategy


@pytest.mark.parametrize("upper_bound", [None, 1.5])
@pytest.mark.parametrize("strategy", mostly_slow(REPAIRED, *QUICK))
def test_every_strategy_is_repaired_on_a_stack(strategy, upper_bound):
    model = fitted(strategy, upper_bound)
    predictions = model.predict(X)
    assert predictions.min() >= 0
    assert predictions.max() <= (upper_bound or np.inf)
    mean = np.average(predictions, axis=0, weights=WEIGHT)
    assert mean == pytest.approx(np.average(Y, axis=0, weights=WEIGHT), rel=1e-9)
    assert type(model.module_.head) is nn.Linear
    assert np.isfinite(list(vars(model.kkt_).values())).all()


@pytest.mark.parametrize("upper_bound", [None, 1.5])
def test_activation_keeps_every_input_within_the_bounds(upper_bound):
    predictions = fitted("activation", upper_bound).predict(far_inputs())
    assert predictions.min() >= 0
    assert predictions.max() <= (upper_bound or np.inf)


@pytest.mark.slow
def test_activation_of_the_members_learns():
    assert r2_score(Y, fitted("activation", max_epochs=60).predict(X)) > 0.8


def test_certified_training_is_proved_on_a_stack():
    certificate = fitted("certified").certificate_
    assert certificate
    assert (certificate.proved_min_ >= 0).all()


def test_a_weight_equals_repetition(mostly_slow_strategy):
    some, weight = slice(0, 60), WEIGHT[:60].astype(int)
    rows = np.repeat(np.arange(60), weight)
    params = {"strategy": mostly_slow_strategy, "batch_size": -1, "max_epochs": 20}
    weighted = make(**params).fit(X[some], Y[some], sample_weight=weight)
    repeated = make(**params).fit(X[rows], Y[rows])
    predictions = weighted.predict(X[some])
    assert predictions == pytest.approx(repeated.predict(X[some]), abs=1e-7)


@pytest.mark.parametrize("strategy", ["augmented_lagrangian", "exact_penalty"])
def test_multipliers_are_mixed_by_the_shares(strategy):
    # Far above the mean, so that the bound presses on most rows.
    params = {"lower_bound": [0.5, 0.0], "on_violated_y": "ignore", "repair": None}
    model = make(strategy=strategy, **params)
    model.fit(X, Y)
    stack = model.net_.plain_module_
    assert model.multipliers_.shape == Y.shape
    assert model.multipliers_[:, 0].max() > 0
    assert stack.n_members == 12
    state = model.net_.strategy_.multipliers(
        torch.zeros(300, 24, dtype=torch.float64), torch.arange(300)
    )
    if strategy == "augmented_lagrangian":
        by_kind = state.numpy().reshape(300, 3, 4, 2).mean(axis=2)
        mixed = (by_kind * stack.shares.numpy().T).sum(axis=1)
        wanted = mixed * model.net_.targets.scale
        assert model.multipliers_ == pytest.approx(wanted)


def test_a_warm_start_keeps_the_multipliers():
    params = {"strategy": "augmented_lagrangian", "warm_start": True}
    model = make(lower_bound=0.1, on_violated_y="ignore", repair=None, **params)
    model.fit(X, Y)
    before = model.multipliers_.copy()
    model.set_params(max_epochs=0).fit(X, Y)
    assert np.array_equal(model.multipliers_, before)


@pytest.mark.parametrize("strategy", ["augmented_lagrangian", "activation"])
def test_a_checkpoint_resumes_bit_for_bit(strategy, tmp_path):
    def run(path, epochs):
        checkpoint = TrainingCheckpoint(tmp_path / path)
        model = make(strategy=strategy, callbacks=[checkpoint], max_epochs=epochs)
        return model.set_params(lr_schedule=None, random_state=1).fit(X, Y)

    whole = run("whole", 4)
    run("halves", 2)
    halves = run("halves", 4)
    assert np.array_equal(halves.predict(X), whole.predict(X))
    assert np.array_equal(halves.multipliers_, whole.multipliers_)


def test_partial_fit_then_enforce():
    model = make(strategy="augmented_lagrangian")
    for part in np.array_split(np.arange(300), 3):
        model.partial_fit(X[part], Y[part])
    assert model.enforce(X).predict(X).min() >= 0


# Parameters that do nothing, or belong elsewhere


@pytest.mark.parametrize("strategy", ["auto", "unconstrained", "lagrangian"])
def test_alpha_without_an_effect_warns(strategy):
    with pytest.warns(UserWarning, match="alpha=3.0 has no effect"):
        make(strategy=strategy, alpha=3.0, max_epochs=1).fit(X, Y)


@pytest.mark.parametrize("strategy", ["penalty", "augmented_lagrangian", "slack"])
def test_alpha_with_an_effect_does_not_warn(strategy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(strategy=strategy, alpha=3.0, max_epochs=1).fit(X, Y)


def test_a_name_has_no_parameters():
    with pytest.raises(ValueError, match="strategy__dual_lr needs strategy to be an"):
        make(strategy="lagrangian").set_params(strategy__dual_lr=0.1)
    own = STRATEGIES["lagrangian"]()
    made = make(strategy="penalty").set_params(strategy=own, strategy__dual_lr=0.1)
    assert made.strategy.dual_lr == 0.1


def test_a_parameter_of_another_module_gets_a_hint():
    model = make(module__hidden_layer_sizes=(8,))
    with pytest.raises(TypeError, match="hidden_layer_sizes is a parameter of sklpos"):
        model.fit(X, Y)
