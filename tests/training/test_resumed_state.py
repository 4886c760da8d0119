"""What callbacks, schedules and modules of the user's own remember in a checkpoint."""

import warnings

import numpy as np
import pytest
import torch
from properties import assert_same_bits
from skorch.callbacks import Callback, EpochScoring, LRScheduler
from torch import nn
from torch.optim import lr_scheduler

from sklpos import MLP, PositiveOutputRegressor, TrainingCheckpoint
from sklpos.training.archive import read_archive, write_archive

X = np.random.default_rng(0).normal(size=(40, 3))
y = np.maximum(X[:, 0], 0)


class Stop(Callback):
    """Fail in the third epoch."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 3:
            raise ZeroDivisionError


class Grows(Callback):
    """Its arrays become longer, one attribute comes late, one is that of the class."""

    state_attributes_ = ("losses_", "tensor_", "late_", "count_")
    count_ = 0

    def on_train_begin(self, net, **kwargs):
        self.losses_, self.tensor_ = np.zeros(0), torch.zeros(0, 2)

    def on_epoch_end(self, net, **kwargs):
        self.count_ += 1
        self.losses_ = np.append(self.losses_, net.history[-1]["train_loss"])
        self.tensor_ = torch.cat([self.tensor_, torch.ones(1, 2)])
        self.late_ = len(self.losses_)


class Remembers(lr_scheduler.LRScheduler):
    """Each learning rate depends on how many there were."""

    def __init__(self, optimizer, last_epoch=-1):
        self.seen = []
        super().__init__(optimizer, last_epoch)

    def get_lr(self):
        self.seen.append(0.9 ** len(self.seen))
        return [lr * self.seen[-1] for lr in self.base_lrs]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(3, 4), nn.Linear(4, 1)
        self.cache = None

    def scale(self):
        return 1.0

    def forward(self, rows):
        self.cache = torch.relu(self.first(rows)) * self.scale()
        return self.head(self.cache)


class Counts(Net):
    """Outputs grow with the number of passes, which no state holds."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def scale(self):
        self.passes += self.training
        return 1 + 0.01 * self.passes


class Buffered(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("sums", torch.zeros(4), persistent=False)

    def scale(self):
        self.sums += self.training
        return 1 + 0.01 * self.sums


class Tells(Counts):
    """A list that becomes longer, and a name that comes later."""

    def get_extra_state(self):
        told = {"passes": [1] * self.passes}
        return told | ({"late": 1} if self.passes else {})

    def set_extra_state(self, state):
        self.passes = len(state["passes"])


class Masked(Net):
    """With a mask as that of attention, a sparse matrix, and what contains itself."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("graph", torch.eye(3).to_sparse(), persistent=False)
        self.tree = {}
        self.tree["root"] = self.tree


class Untellable(Net):
    def get_extra_state(self):
        return object()


def guarded(path, *callbacks, module=MLP, **params):
    params = {"max_epochs": 5, "batch_size": 20, "random_state": 0} | params
    callbacks = [*callbacks, TrainingCheckpoint(path)]
    return PositiveOutputRegressor(module, callbacks=callbacks, **params)


def killed(path, *callbacks, **params):
    with pytest.raises(ZeroDivisionError):
        guarded(path, *callbacks, Stop(), **params).fit(X, y)


def resumed_and_whole(tmp_path, make, **params) -> list:
    killed(tmp_path / "cut", *make(), **params)
    return [guarded(tmp_path / n, *make(), **params).fit(X, y) for n in ("cut", "all")]


def test_state_of_a_callback_may_grow_and_come_late(tmp_path):
    models = resumed_and_whole(tmp_path, lambda: [Grows(), Grows()])
    for name in ("Grows_1", "Grows_2"):
        cut, whole = (vars(dict(model.callbacks_)[name]) for model in models)
        assert cut["count_"] == cut["late_"] == 5
        assert_same_bits(cut["losses_"], whole["losses_"])
        assert_same_bits(cut["tensor_"], whole["tensor_"])


class Nested(lr_scheduler.SequentialLR):
    def __init__(self, optimizer, last_epoch=-1):
        parts = [
            lr_scheduler.LinearLR(optimizer, total_iters=2),
            lr_scheduler.MultiStepLR(optimizer, [1, 2]),
        ]
        super().__init__(optimizer, parts, [2])


@pytest.mark.parametrize("policy", [Remembers, Nested])
def test_schedules_of_the_users_own_go_on(tmp_path, policy):
    models = resumed_and_whole(
        tmp_path, lambda: [LRScheduler(policy)], lr_schedule=None
    )
    rates = [model.net_.optimizer_.param_groups[0]["lr"] for model in models]
    assert rates[0] == rates[1]
    assert_same_bits(*(model.predict(X) for model in models))


def test_a_schedule_made_with_another_number_is_refused(tmp_path):
    """Otherwise the old one would hold without a word, and 0 would be divided by."""
    for size in (2, 3):
        steps = LRScheduler(lr_scheduler.StepLR, step_size=size)
        model = guarded(tmp_path / "a", steps, lr_schedule=None)
        if size == 2:
            model.fit(X, y)
    with pytest.raises(ValueError, match=r"\['step_size'\] is 2, not 3"):
        model.fit(X, y)


@pytest.mark.parametrize(
    ("module", "name"), [(Counts, "module.passes"), (Buffered, "module.sums")]
)
def test_what_a_module_keeps_to_itself_is_named(tmp_path, module, name):
    with pytest.warns(UserWarning, match=f"training changes {name}, which"):
        guarded(tmp_path / "a", module=module).fit(X, y)


@pytest.mark.parametrize("module", [Net, Tells, Masked])
def test_what_a_module_tells_goes_on(tmp_path, module):
    models = resumed_and_whole(tmp_path, list, module=module)
    assert_same_bits(*(model.predict(X) for model in models))


def test_what_cannot_be_saved_is_refused_before_the_first_epoch(tmp_path):
    with pytest.raises(ValueError, match="has a state that a TrainingCheckpoint"):
        guarded(tmp_path / "a", module=Untellable, max_epochs=10**9).fit(X, y)
    assert not (tmp_path / "a").exists()


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    killed(tmp_path / "a")
    with open(tmp_path / "a", "rb") as file:
        saved = read_archive(file)
    next(iter(saved["parts"]["module"].values())).fill_(torch.nan)
    with open(tmp_path / "a", "wb") as file:
        write_archive(saved, file)
    with pytest.raises(ValueError, match=r"^path=.* holds NaN or infinity; "):
        guarded(tmp_path / "a").fit(X, y)


def test_a_subclass_of_skorchs_callback_is_told_by_what_it_adds(tmp_path):
    class Own(EpochScoring):
        pass

    class Forgets(Own):
        def on_train_begin(self, net, **kwargs):
            super().on_train_begin(net, **kwargs)
            self.own_ = 0

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guarded(tmp_path / "a", Own("r2"), early_stopping=True).fit(X, y)
    model = guarded(tmp_path / "b", Forgets("r2"), early_stopping=True)
    with pytest.warns(UserWarning, match="does not save own_; list"):
        model.fit(X, y)


def test_one_file_guards_a_fit(tmp_path):
    other = TrainingCheckpoint(tmp_path / "b")
    with pytest.raises(ValueError, match="pass one TrainingCheckpoint"):
        guarded(tmp_path / "a", other).fit(X, y)


@pytest.mark.parametrize(("every", "fits"), [(np.int64(2), True), (True, False)])
def test_every_is_a_whole_number(tmp_path, every, fits):
    model = guarded(tmp_path / "a").set_params(
        callbacks=[TrainingCheckpoint(tmp_path / "a", every=every)]
    )
    if fits:
        model.fit(X, y)
    else:
        with pytest.raises(ValueError, match="every=True"):
            model.fit(X, y)
