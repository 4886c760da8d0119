"""The learning rate of a fit: on half a cosine to 0, and back afterwards."""

import numpy as np
import pytest
import torch
from properties import assert_same_training_state
from skorch.callbacks import Callback, LRScheduler

from sklpos import TrainingCheckpoint
from sklpos.training.epoch import EACH_BATCH


@pytest.fixture
def annealed(small):
    """Make a regressor with the default schedule."""

    def make(**params):
        return small(**({"lr_schedule": "cosine", "max_epochs": 6} | params))

    return make


def cosine(lr, n):
    return lr * (1 + np.cos(np.pi * np.arange(n) / n)) / 2


def rates(model):
    return [row["lr"] for row in model.history_]


def live_rates(model):
    return [group["lr"] for group in model.optimizer_.param_groups]


def test_a_fit_follows_the_cosine_and_gives_the_rate_back(annealed, data):
    model = annealed(lr=0.1).fit(data.X, data.y)
    np.testing.assert_allclose(rates(model), cosine(0.1, 6), rtol=1e-12)
    assert live_rates(model) == [0.1]


def test_it_is_the_schedule_of_torch(annealed, small, data):
    """Against skorch's callback and torch's schedule, put together by hand."""
    by_hand = LRScheduler(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=6)
    ours = annealed().fit(data.X, data.y)
    theirs = small(max_epochs=6, callbacks=[by_hand]).fit(data.X, data.y)
    np.testing.assert_array_equal(ours.predict(data.X), theirs.predict(data.X))


def test_partial_fit_goes_on_at_the_rate_it_started_with(annealed, data):
    model = annealed().fit(data.X, data.y).partial_fit(data.X, data.y)
    assert "lr" not in model.history_[-1]
    assert live_rates(model) == [model.lr]
    alone = annealed().partial_fit(data.X, data.y)
    assert "lr" not in alone.history_[-1]


def test_a_warm_start_starts_the_cosine_again(annealed, data):
    model = annealed(warm_start=True).fit(data.X, data.y).fit(data.X, data.y)
    once = cosine(model.lr, 6)
    np.testing.assert_allclose(rates(model), [*once, *once], rtol=1e-12)


def test_slices_equal_the_whole_without_a_schedule(small, data):
    whole = small(max_epochs=6).fit(data.X, data.y)
    parts = small()
    for _ in range(6):
        parts.partial_fit(data.X, data.y)
    assert_same_training_state(whole, parts)


def test_rates_of_groups_are_annealed_and_given_back_one_by_one(annealed, data):
    groups = [("head.*", {"lr": 0.02})]
    model = annealed(lr=0.1, optimizer__param_groups=groups).fit(data.X, data.y)
    assert live_rates(model) == [0.02, 0.1]


def test_a_scheduler_of_the_user_takes_its_place(annealed, data):
    own = LRScheduler(torch.optim.lr_scheduler.ConstantLR, factor=0.5, total_iters=99)
    model = annealed(callbacks=[("rate", own)]).fit(data.X, data.y)
    assert "lr" not in model.history_[-1]
    assert live_rates(model) == [0.5 * model.lr]


def test_zero_epochs_need_no_schedule(annealed, data):
    module = torch.nn.Linear(3, 1).double()
    params = {"module": module, "max_epochs": 0}
    assert len(annealed(**params).fit(data.X, data.y).history_) == 0


def test_early_stopping_ends_before_the_cosine_does(annealed, data):
    params = {"early_stopping": True, "n_iter_no_change": 2, "tol": 1e9}
    model = annealed(max_epochs=50, **params).fit(data.X, data.y)
    assert model.n_iter_ < 50
    np.testing.assert_allclose(rates(model), cosine(model.lr, 50)[: model.n_iter_])
    assert live_rates(model) == [model.lr]


class Stop(Callback):
    def __init__(self, after):
        self.after = after

    def after_epoch_end(self, net, **kwargs):
        if len(net.history) == self.after:
            raise RuntimeError("stopped")


def test_a_checkpoint_goes_on_along_the_same_cosine(annealed, data, tmp_path):
    """A schedule is one of so many epochs: others are refused."""
    guard = TrainingCheckpoint(tmp_path / "fit.ckpt")
    with pytest.raises(RuntimeError, match="stopped"):
        annealed(callbacks=[guard, Stop(after=3)]).fit(data.X, data.y)
    with pytest.raises(ValueError, match="differs in max_epochs"):
        annealed(callbacks=[guard], max_epochs=8).fit(data.X, data.y)
    resumed = annealed(callbacks=[guard]).fit(data.X, data.y)
    assert_same_training_state(resumed, annealed().fit(data.X, data.y))
    assert live_rates(resumed) == [resumed.lr]


def test_without_a_schedule_a_checkpoint_may_be_trained_on(small, data, tmp_path):
    guard = TrainingCheckpoint(tmp_path / "fit.ckpt")
    small(callbacks=[guard], max_epochs=3).fit(data.X, data.y)
    longer = small(callbacks=[guard], max_epochs=6).fit(data.X, data.y)
    assert_same_training_state(longer, small(max_epochs=6).fit(data.X, data.y))


def test_other_schedules_are_refused_by_name(annealed, data):
    with pytest.raises(ValueError, match="'lr_schedule' parameter"):
        annealed(lr_schedule="linear").fit(data.X, data.y)


def test_the_schedule_does_not_slow_the_steps_down(annealed, data):
    """No callback listens to batches, and the losses are read once per epoch."""
    seen = []

    class Look(Callback):
        def on_epoch_end(self, net, **kwargs):
            seen.append(any(map(net.listeners, EACH_BATCH)))

    annealed(callbacks=[Look()]).fit(data.X, data.y)
    assert seen == [False] * 6
