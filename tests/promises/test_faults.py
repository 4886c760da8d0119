"""Faults injected at step k: training stops, says why, and nothing is lost."""

import copy

import numpy as np
import pytest
import torch
from properties import assert_same_bits, training_state
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback
from torch import nn

from sklpos import MLP
from sklpos.strategies import AugmentedLagrangian, Lagrangian, SlackMultipliers
from sklpos.training.step import DivergenceError

EPOCHS = 3  # of 4 batches of 10 rows each
EPOCH_OF = {1: 1, 6: 2, 12: 3}  # the first step, one in the middle, the last


class Fault:
    """Counts training steps, and spoils one of them."""

    step, value, count = -1, np.nan, 0

    @classmethod
    def now(cls, *, new_step: bool) -> bool:
        cls.count += new_step
        return cls.count == cls.step


@pytest.fixture
def fault(monkeypatch):
    def at(step, value=np.nan):
        for name, new in {"step": step, "value": value, "count": 0}.items():
            monkeypatch.setattr(Fault, name, new)

    at(-1)
    return at


class SpoiltModule(MLP):
    def forward(self, X):
        training = self.training and torch.is_grad_enabled()
        outputs = super().forward(X)
        return outputs * Fault.value if Fault.now(new_step=training) else outputs


class SpoiltCriterion(nn.MSELoss):
    def forward(self, y_pred, y_true):
        loss = super().forward(y_pred, y_true)
        # Asked twice in a step; two rows are those of a check before training.
        new_step = y_pred.requires_grad and len(y_pred) > 2
        spoilt = Fault.now(new_step=new_step)
        return loss * Fault.value if spoilt else loss


class SpoiltBatch(Callback):
    def on_batch_begin(self, net, batch, training, **kwargs):
        if Fault.now(new_step=training):
            X, _ = batch
            X[0, 0] = Fault.value


PLACES = {
    "module": {"module": SpoiltModule, "module__hidden_layer_sizes": (8,)},
    "criterion": {"criterion": SpoiltCriterion},
    "batch": {"callbacks": [SpoiltBatch()]},
}
# They read the layers of a module, and refuse one with a forward of its own.
READERS = ("certified", "nonnegative_weights")


def can_be_spoilt(strategy, place) -> bool:
    return place != "module" or strategy not in READERS


def assert_found(model, data, epoch):
    with pytest.raises(DivergenceError, match=rf"epoch {epoch}; .* lower lr \(now"):
        model.fit(data.X, data.Y)
    assert not hasattr(model, "net_")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("step", EPOCH_OF)
@pytest.mark.parametrize("place", PLACES)
def test_a_fault_is_found_in_its_epoch(small, data, fault, place, step, value):
    model = small(**PLACES[place], batch_size=10, max_epochs=EPOCHS)
    fault(step, value)
    assert_found(model, data, EPOCH_OF[step])


def test_a_fault_is_found_by_every_strategy(small, data, fault, strategy):
    for place in PLACES:
        if can_be_spoilt(strategy, place):
            params = {"batch_size": 10, "max_epochs": EPOCHS, "strategy": strategy}
            fault(6)
            assert_found(small(**PLACES[place], **params), data, EPOCH_OF[6])


@pytest.mark.parametrize(
    ("place", "method"),
    [("module", "fit"), ("criterion", "partial_fit"), ("batch", "fit")],
)
def test_a_fault_leaves_the_estimator_as_it_was(
    small, data, fault, strategy, place, method
):
    if not can_be_spoilt(strategy, place):
        place = "criterion"
    params = {"batch_size": 10, "max_epochs": 2, "warm_start": True}
    model = small(**PLACES[place], **params, strategy=strategy).fit(data.X, data.Y)
    kept = copy.deepcopy(model)
    fault(2)
    with pytest.raises(DivergenceError):
        getattr(model, method)(data.X, data.Y)
    fault(-1)
    assert_same_bits(training_state(model), training_state(kept))
    assert_same_bits(model.predict(data.X), kept.predict(data.X))
    for each in (model, kept):
        each.partial_fit(data.X, data.Y)
    assert_same_bits(training_state(model), training_state(kept))


class Epochs(Callback):
    begun = 0

    def on_epoch_begin(self, net, **kwargs):
        Epochs.begun = len(net.history)


class SpoiltNorm(nn.Module):
    """The weights stay finite; the statistics of the batch norm do not."""

    def __init__(self, n_features_in, n_outputs):
        super().__init__()
        self.norm = nn.BatchNorm1d(n_features_in)
        self.head = nn.Linear(n_features_in, n_outputs)

    def forward(self, X):
        outputs = self.head(self.norm(X))
        if Fault.now(new_step=self.training and torch.is_grad_enabled()):
            self.norm.running_mean = torch.full_like(self.norm.running_mean, np.nan)
        return outputs


def test_buffers_are_looked_at_too(small, data, fault):
    fault(6)
    with pytest.raises(DivergenceError, match="no longer a finite number"):
        small(module=SpoiltNorm, batch_size=10).fit(data.X, data.Y)


@pytest.mark.parametrize("batch_size", [10, -1])
@pytest.mark.parametrize("kind", [SlackMultipliers, Lagrangian, AugmentedLagrangian])
def test_exploding_multipliers_end_training(small, data, kind, batch_size):
    """Weights and losses can stay finite meanwhile."""
    model = small(strategy=kind(dual_lr=1e300), batch_size=batch_size, max_epochs=9)
    with pytest.raises(DivergenceError, match="training diverged: lower"):
        model.fit(data.X, data.Y)
    assert not hasattr(model, "net_")
    model.set_params(strategy=kind(dual_lr=1e12), callbacks=[Epochs()], lr=1e-9)
    model.set_params(lower_bound=2.0, on_violated_y="ignore")
    with pytest.raises(DivergenceError, match=r"multipliers grew to .* dual_lr, lr"):
        model.fit(data.X, data.Y)
    assert Epochs.begun == 1


def test_a_loss_that_is_finite_and_an_end_that_is_not(small, data, fault):
    """The last step's weights are finite, and overflow where they predict."""

    class Overflowing(nn.Module):
        def __init__(self, n_features_in, n_outputs):
            super().__init__()
            self.features = nn.Linear(n_features_in, 4)
            self.head = nn.Linear(4, n_outputs)

        def forward(self, X):
            hidden = self.features(X)
            return self.head(hidden if self.training else hidden * 1e300 * 1e300)

    for repair in ("head", None):
        model = small(module=Overflowing, repair=repair)
        with pytest.raises((ValueError, ConvergenceWarning), match="diverged"):
            model.fit(data.X, data.Y)
        assert not hasattr(model, "net_")
