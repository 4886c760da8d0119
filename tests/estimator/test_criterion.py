"""The criterion decides: the mean, the unit of the targets, and what is warned of."""

import functools
import pickle
import warnings

import numpy as np
import pytest
import torch
from marks import mostly_slow
from properties import assert_same_training_state
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from torch.nn import functional

from sklpos import MLP, PositiveOutputRegressor
from sklpos.criteria import PoissonDeviance
from sklpos.training.callbacks import MultiplierAscent

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 3))
# A long tail: the mean, the median and the 95 % quantile are far apart.
SKEWED = np.exp(X[:, 0] + RNG.normal(size=400))
LINE = np.maximum(X[:, 0] + 0.3 * RNG.normal(size=400), 0)
COUNTS = RNG.poisson(np.exp(0.5 * X[:, 0])).astype(float)


def make(**params) -> PositiveOutputRegressor:
    return PositiveOutputRegressor(**{"max_epochs": 40, "random_state": 0, **params})


class Pinball(nn.Module):
    def __init__(self, level):
        super().__init__()
        self.level = level

    def forward(self, y_pred, y_true):
        missing = y_true - y_pred
        return torch.maximum(self.level * missing, (self.level - 1) * missing)


class Squares(nn.Module):
    elicits = "mean"

    def forward(self, y_pred, y_true):
        return (y_pred - y_true) ** 2


class LogError(nn.Module):
    """Squared error of ``log(1 + y)``, which has no value below -1."""

    def forward(self, y_pred, y_true):
        return (torch.log1p(y_pred) - torch.log1p(y_true)) ** 2


def squares(y_pred, y_true):
    return (y_pred - y_true) ** 2


def powers(y_pred, y_true, *, power=2.0):
    return (y_pred - y_true).abs() ** power


# What is a criterion


SAME_AS_SQUARED_ERROR = {
    "instance that averages": {"criterion": nn.MSELoss()},
    "function of torch": {"criterion": functional.mse_loss},
    "partial of a function": {
        "criterion": functools.partial(functional.mse_loss, reduction="none")
    },
    "factory": {"criterion": functools.partial(nn.MSELoss, reduction="none")},
}


@pytest.mark.parametrize("name", SAME_AS_SQUARED_ERROR)
def test_squared_error_in_other_forms(name):
    params = {"module": MLP, "max_epochs": 3}
    expected = make(**params).fit(X, LINE)
    model = make(**params, **SAME_AS_SQUARED_ERROR[name])
    given = model.criterion
    model = clone(model).fit(X, LINE)
    assert np.allclose(model.predict(X), expected.predict(X), rtol=1e-9)
    assert model.repair_.balanced_.all()
    # It is copied, not changed.
    assert getattr(given, "reduction", "mean") == "mean"


OWN = {
    "class": {"criterion": Squares},
    "instance": {"criterion": Squares()},
    "function": {"criterion": squares},
    "function with a parameter": {"criterion": powers, "criterion__power": 2.0},
}


@pytest.mark.parametrize("name", OWN)
def test_a_criterion_is_judged_by_what_it_returns(name):
    expected = make(max_epochs=3, balance=False).fit(X, LINE).predict(X)
    model = make(max_epochs=3, balance=False, **OWN[name]).fit(X, LINE)
    assert np.allclose(model.predict(X), expected, rtol=1e-6)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict(X), model.predict(X))


def test_parameters_of_a_function_reach_it():
    models = [
        make(max_epochs=3, criterion=powers, criterion__power=power).fit(X, LINE)
        for power in (2.0, 4.0)
    ]
    assert not np.allclose(*(model.predict(X) for model in models))


REFUSED = {
    "mean over rows": (lambda p, t: ((p - t) ** 2).mean(), r"of shape \(\)"),
    "mean over outputs": (lambda p, t: ((p - t) ** 2).mean(1), r"of shape \(2,\)"),
    "classes": (nn.CrossEntropyLoss, r"of shape \(2,\)"),
    "a third argument": (nn.GaussianNLLLoss, "it failed: .*'var'"),
    "a third target": (nn.CosineEmbeddingLoss, "it failed: .*'target'"),
    "a crash": (lambda p, t: p @ t, "it failed: "),
    "a logit": (nn.BCEWithLogitsLoss, "the logit; pass criterion=torch.nn.BCELoss"),
    "a logarithm": (nn.PoissonNLLLoss, "criterion__log_input=False"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_loss_per_row_and_output_is_refused(name):
    criterion, message = REFUSED[name]
    model = make(criterion=criterion)
    with pytest.raises(ValueError, match=f"criterion=.*{message}") as caught:
        model.fit(X, LINE)
    assert len(str(caught.value)) < 300
    assert not hasattr(model, "fitted_")


def test_a_reduction_and_parameters_of_an_instance_are_refused():
    with pytest.raises(ValueError, match="criterion__reduction='sum' must be 'none'"):
        make(criterion__reduction="sum").fit(X, LINE)
    with pytest.raises(
        ValueError, match=r"criterion__delta needs .* class or function"
    ):
        make(criterion=nn.HuberLoss(), criterion__delta=2.0).fit(X, LINE)


class RandomWeight(nn.MSELoss):
    def __init__(self, reduction="none"):
        super().__init__(reduction=reduction)
        self.drawn = nn.Parameter(torch.rand(()))


@pytest.mark.parametrize("params", [{}, {"criterion__reduction": "none"}])
def test_what_a_criterion_draws_is_decided_by_the_seed_alone(params):
    drawn = []
    for seed in (0, 0, 1):
        torch.rand(3)
        before = torch.get_rng_state()
        model = make(
            criterion=RandomWeight, random_state=seed, max_epochs=0, **params
        ).fit(X, LINE)
        assert torch.equal(before, torch.get_rng_state())
        drawn.append(model.criterion_.drawn.item())
    assert drawn[0] == drawn[1] != drawn[2]


class Gaussian(nn.Module):
    """Negative log-likelihood with a variance that is learned."""

    def __init__(self):
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))

    def forward(self, y_pred, y_true):
        squares = (y_pred - y_true) ** 2 * torch.exp(-self.log_variance)
        return (squares + self.log_variance) / 2


@pytest.mark.parametrize("module", mostly_slow([None, MLP], MLP))
def test_weights_of_a_criterion_train(module):
    params = {} if module is None else {"module": module}
    model = make(
        criterion=Gaussian, lr=0.02, weight_decay=0.0, max_epochs=100, **params
    )
    model.fit(X, LINE)
    residual = (model.predict(X) - LINE) / LINE.std()
    variance = float(model.criterion_.log_variance.detach().exp())
    # On a stack, it is that of the members, not of their mix.
    assert 0.5 < np.mean(residual**2) / variance < 2


# The mean


def test_a_quantile_keeps_its_coverage():
    for level in (0.05, 0.95):
        model = make(criterion=Pinball, criterion__level=level).fit(X, SKEWED)
        assert np.mean(model.predict(X) >= SKEWED) == pytest.approx(level, abs=0.04)


@pytest.mark.parametrize("module", mostly_slow([None, MLP], MLP))
def test_outliers_do_not_move_a_robust_fit(module):
    spoilt = LINE.copy()
    spoilt[:4] = 1e6
    params = {} if module is None else {"module": module}
    for criterion, scale_y in ((nn.L1Loss, "auto"), (nn.HuberLoss, False)):
        model = make(criterion=criterion, scale_y=scale_y, **params)
        assert model.fit(X, spoilt).score(X[4:], LINE[4:]) > 0.8


def test_the_mean_is_kept_if_the_criterion_aims_at_it():
    assert make(criterion=Squares).fit(X, SKEWED).predict(X).mean() == pytest.approx(
        SKEWED.mean(), rel=1e-9
    )
    by_hand = make(criterion=Squares, balance=False).fit(X, SKEWED)
    assert abs(by_hand.predict(X).mean() - SKEWED.mean()) > 1e-6


def test_a_mean_that_the_criterion_does_not_aim_at_warns():
    model = make(criterion=nn.L1Loss, balance=True)
    with pytest.warns(UserWarning, match="balance=True .*criterion=L1Loss does not"):
        model.fit(X, SKEWED)
    assert model.predict(X).mean() == pytest.approx(SKEWED.mean(), rel=1e-9)


# The unit of the targets


def test_a_criterion_without_values_below_0_trains_on_raw_targets():
    for criterion in (LogError, LogError()):
        with pytest.warns(UserWarning, match="criterion=LogError .*scale_y=False"):
            model = make(criterion=criterion, lr=0.05).fit(X, LINE)
        assert model.net_.targets.scale == 1
        assert model.score(X, LINE) > 0.7


def test_read_only_targets_are_no_reason_to_warn():
    read_only = COUNTS.copy()
    read_only.flags.writeable = False
    make(criterion=PoissonDeviance, max_epochs=1).fit(X, read_only)


def test_raw_targets_are_silent_if_they_are_asked_for():
    poisson = {"criterion": nn.PoissonNLLLoss, "criterion__log_input": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(**poisson, scale_y=False).fit(X, COUNTS)
    assert model.predict(X).mean() == pytest.approx(COUNTS.mean(), rel=1e-9)


def test_standardised_targets_of_such_a_criterion_are_refused():
    with pytest.raises(ValueError, match=r"scale_y=True .*criterion=LogError"):
        make(criterion=LogError, scale_y=True).fit(X, LINE)


def test_targets_without_a_loss_are_refused():
    with pytest.raises(ValueError, match=r"LogError is not finite .*-5 to"):
        make(criterion=LogError, on_violated_y="ignore").fit(X, LINE - 5)


def test_predictions_without_a_loss_are_refused_before_training():
    for strategy in ("augmented_lagrangian", "penalty"):
        model = make(module=MLP, criterion=LogError, strategy=strategy)
        with pytest.raises(
            ValueError, match=r"not finite for predictions .*nonnegative_weights"
        ):
            model.set_params(lower_bound=None).fit(X, 3 * LINE)


def test_probabilities_have_binary_cross_entropy():
    share = (X[:, 0] + RNG.normal(size=400) > 0).astype(float)
    model = make(criterion=nn.BCELoss, upper_bound=1.0, scale_y=False)
    model.fit(X, share)
    predictions = model.predict(10 * X)
    assert predictions.min() >= 0
    assert predictions.max() <= 1
    assert model.predict(X).mean() == pytest.approx(share.mean(), rel=1e-9)
    assert model.score(X, share) > 0.2


@pytest.mark.parametrize("unit", mostly_slow([0.1, 1.0, 1e3], 1e3))
@pytest.mark.parametrize("module", [None, MLP])
def test_targets_in_their_own_unit_train(module, unit):
    params = {"max_epochs": 80} if module is None else {"module": MLP}
    # Weights move by the learning rate, so it is in the unit of y.
    params |= {"lr": max(0.02, 5e-4 * unit), "scale_y": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(**params).fit(X, unit * LINE)
    assert model.score(X, unit * LINE) > 0.7


def test_training_begins_at_the_mean_in_any_unit():
    for strategy in ("nonnegative_weights", "activation", "augmented_lagrangian"):
        for module in ({}, {"module": MLP, "module__hidden_layer_sizes": (4,)}):
            params = {"strategy": strategy, "max_epochs": 0, "repair": None, **module}
            model = make(scale_y=False, balance=False, **params).fit(X, 50 + LINE)
            assert abs(model.predict(X).mean() - 50.3) < 2


# Warnings


def test_divergence_is_measured_by_the_criterion():
    far = nn.Sequential(nn.Linear(3, 1))
    nn.init.zeros_(far[0].weight)
    nn.init.constant_(far[0].bias, 100.0)
    params = {"module": far, "max_epochs": 0, "repair": None, "scale_y": False}
    for criterion, loss in ((nn.L1Loss, "99.7"), (nn.MSELoss, "9.9")):
        with pytest.warns(ConvergenceWarning, match=f"the criterion ends at {loss}"):
            make(**params, criterion=criterion).fit(X, LINE)


def test_targets_in_their_own_unit_are_no_divergence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(criterion=nn.L1Loss, max_epochs=1).fit(X, 1e4 * LINE)
        make(scale_y=False, max_epochs=1).fit(X, 1e4 * LINE)


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        (nn.MSELoss, "raised the training error"),
        pytest.param(nn.L1Loss, "moved the training", marks=pytest.mark.slow),
    ],
)
def test_the_cost_of_a_repair_is_measured_by_what_was_trained(criterion, words):
    params = {"module": MLP, "max_epochs": 100, "strategy": "unconstrained"}
    model = make(criterion=criterion, repair=None, on_violated_y="ignore", **params)
    model.fit(X, X[:, 0] + 0.5)
    with pytest.warns(UserWarning, match=f"the repair {words}"):
        model.enforce(domain=(-3 * np.ones(3), 3 * np.ones(3)))


class RaisedMultipliers(MultiplierAscent):
    """Multipliers as large as those of targets in such a unit may become."""

    def on_violation(self, net, violation, index):
        net.constraint_.state.multiplier.fill_(1e7)


def test_multipliers_are_measured_in_deviations_of_y():
    callbacks = {"callbacks__multiplier_ascent": RaisedMultipliers()}
    params = {"module": MLP, "scale_y": False, "lr": 1e-9, "max_epochs": 1}
    make(**params, **callbacks).fit(X, 1e4 * LINE)
    with pytest.raises(ValueError, match="the multipliers grew"):
        make(**params, **callbacks).fit(X, LINE)


def test_decay_by_noise_has_no_unit():
    noises = []
    for unit in (1e-2, 1.0, 1e3):
        params = {"module": MLP, "scale_y": False, "max_epochs": 1, "lr": 1e-6 * unit}
        with warnings.catch_warnings():
            # A step of such a size trains nothing.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = make(**params).fit(X, unit * LINE)
        noises.append(dict(model.callbacks_)["weight_decay"].noise_)
    assert noises[0] < 0.8
    assert noises == pytest.approx([noises[0]] * 3)


def test_the_same_state_with_the_former_default():
    params = {"max_epochs": 3, "module": MLP}
    before = make(**params, balance=True, scale_y=True).fit(X, LINE)
    assert_same_training_state(make(**params).fit(X, LINE), before)


@pytest.mark.parametrize(
    "loss",
    [
        lambda y_pred, y: ((y_pred - y) ** 2).detach(),
        lambda y_pred, y: torch.as_tensor(y_pred.detach().numpy() - y.numpy()),
        lambda y_pred, y: (y_pred > y).double(),
    ],
    ids=["detached", "numpy", "a count"],
)
def test_a_criterion_without_a_gradient_is_refused(loss):
    with pytest.raises(ValueError, match="must have a gradient in the predictions"):
        PositiveOutputRegressor(criterion=loss).fit([[1.0], [2.0]], [1.0, 2.0])
