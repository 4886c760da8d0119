"""skorch's callbacks that look at validation rows, at files, and at each other."""

import functools

import numpy as np
import pytest
import torch
from killed import end_of
from properties import assert_same_bits
from sklearn.base import clone
from skorch.callbacks import (
    BatchScoring,
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    InputShapeSetter,
    LoadInitState,
    LRScheduler,
    TrainEndCheckpoint,
)
from watching import States, assert_same_state, fitted, make_data, regressor, state_of

from sklpos import TrainingCheckpoint
from sklpos.training.copies import copy_callbacks

X, Y = make_data()
PLATEAU = functools.partial(LRScheduler, "ReduceLROnPlateau", monitor="valid_loss")
R2 = EpochScoring("r2", lower_is_better=False)
R2_STOPS = EarlyStopping(monitor="r2", lower_is_better=False)
WAITING = {
    "stopping": [EarlyStopping()],
    "class": [EarlyStopping],
    "named": [("mine", EarlyStopping())],
    "named class": [("mine", EarlyStopping)],
    "checkpoint": [Checkpoint(f_params=None, f_optimizer=None, f_criterion=None)],
    "scheduler": [PLATEAU()],
    "score": [R2, R2_STOPS],
    "best score": [R2, Checkpoint("r2_best", f_params=None)],
}
by_kind = pytest.mark.parametrize("callbacks", WAITING.values(), ids=WAITING)


class Counted(Callback):
    """Counts the epochs that begin."""

    epochs = 0

    def on_epoch_begin(self, net, **kwargs):
        Counted.epochs += 1


@by_kind
def test_a_callback_that_waits_for_validation_rows_is_refused_at_once(callbacks):
    before = Counted.epochs
    for method in ("fit", "partial_fit"):
        model = regressor(Counted(), *callbacks)
        with pytest.raises(ValueError, match=r"no validation rows.*early_st"):
            getattr(model, method)(X, Y)
    assert Counted.epochs == before


@by_kind
def test_with_validation_rows_it_works(callbacks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert regressor(*callbacks, early_stopping=True).fit(X, Y).n_iter_ == 4
    assert regressor(*callbacks).fit(X, Y, X_val=X[:9], y_val=Y[:9]).n_iter_ == 4


@pytest.mark.parametrize(
    "callback",
    [
        EarlyStopping(monitor="train_loss"),
        Checkpoint("train_loss_best", f_params=None),
        LRScheduler("ReduceLROnPlateau"),
        LRScheduler("StepLR", monitor="valid_loss", step_size=2),  # which it ignores
        EpochScoring("r2", on_train=True),
    ],
)
def test_others_need_no_validation_rows(callback, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert regressor(callback).fit(X, Y).n_iter_ == 4


@pytest.mark.parametrize("kind", [EpochScoring, BatchScoring])
def test_validation_scores_without_validation_rows_are_left_out(kind):
    with pytest.warns(UserWarning, match=f"{kind.__name__}.*left out.*X_val"):
        model = regressor(kind("r2")).fit(X, Y)
    assert "r2" not in model.history_[-1]


@pytest.mark.parametrize(
    ("callbacks", "column"),
    [
        ([EarlyStopping(monitor="val_loss")], "val_loss"),
        ([Checkpoint("accuracy_best", f_params=None)], "accuracy_best"),
        ([R2_STOPS, EpochScoring("r2", on_train=True)], "r2"),
        ([Checkpoint(lambda net: net.history[-1, "valid_loss"])], "valid_loss"),
    ],
    ids=["typo", "checkpoint", "order", "function"],
)
def test_a_column_that_no_epoch_has_is_named(callbacks, column):
    with pytest.raises(ValueError, match=f"reads '{column}', but.*train_loss") as error:
        regressor(*callbacks).fit(X, Y)
    assert len(str(error.value)) <= 300


def test_a_key_error_of_a_callback_is_its_own():
    class Broken(Callback):
        def on_epoch_end(self, net, **kwargs):
            {}["key"]

    with pytest.raises(KeyError, match="key"):
        regressor(Broken()).fit(X, Y)


# Early stopping


@pytest.mark.parametrize("warm_start", [False, True])
def test_early_stopping_keeps_the_epochs_that_it_waited(warm_start):
    model = regressor(
        States(),
        max_epochs=300,
        early_stopping=True,
        n_iter_no_change=3,
        tol=0.01,
        warm_start=warm_start,
    )
    before = 0
    for _ in range(2):
        model.fit(X, Y)
        best = fitted(model, "early_stopping").best_epoch_
        assert model.n_iter_ == best - before + 3 < 300
        assert len(model.loss_curve_) == before + model.n_iter_
        # The weights are those of the best epoch, not of the last one.
        states = fitted(model, "States").states_
        assert_same_state(state_of(model.net_), states[best - 1])
        before = len(model.history_) if warm_start else 0


def test_a_checkpoint_of_a_stopped_fit_stops_again(tmp_path):
    saved = TrainingCheckpoint(tmp_path / "fit.ckpt")
    model = regressor(
        saved, max_epochs=300, early_stopping=True, n_iter_no_change=3, tol=0.01
    ).fit(X, Y)
    assert model.n_iter_ < 300
    assert_same_bits(end_of(clone(model).fit(X, Y)), end_of(model))


# No epochs


@pytest.mark.parametrize("kind", [Checkpoint, TrainEndCheckpoint])
def test_a_state_is_loaded_without_training(tmp_path, kind):
    monitor = {"monitor": None} if kind is Checkpoint else {}
    saved = kind(dirname=str(tmp_path), **monitor)
    first = regressor(saved).fit(X, Y)
    again = regressor(LoadInitState(saved), max_epochs=0, random_state=1).fit(X, Y)
    assert_same_bits(again.predict(X), first.predict(X))
    assert (again.n_iter_, len(again.history_)) == (0, 4)
    longer = regressor(LoadInitState(saved), max_epochs=2).fit(X, Y)
    assert (longer.n_iter_, len(longer.history_)) == (2, 6)


def test_hooks_run_without_epochs():
    class Log(Callback):
        def on_train_begin(self, net, **kwargs):
            self.log_ = ["begin"]

        def on_train_end(self, net, **kwargs):
            self.log_.append("end")

    model = regressor(Log(), max_epochs=0).fit(X, Y)
    assert fitted(model, "Log").log_ == ["begin", "end"]


@pytest.mark.parametrize("stopper", [EarlyStopping, Checkpoint])
def test_there_is_no_best_epoch_without_epochs(stopper, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    best = stopper(load_best=True)
    model = regressor(best, max_epochs=0, early_stopping=True).fit(X, Y)
    assert_same_bits(model.predict(X), regressor(max_epochs=0).fit(X, Y).predict(X))


def test_a_checkpoint_of_the_last_epoch_needs_one(tmp_path):
    model = regressor(TrainEndCheckpoint(dirname=str(tmp_path)), max_epochs=0)
    with pytest.raises(ValueError, match=r"TrainEndCheckpoint.*max_epochs=0"):
        model.fit(X, Y)


@pytest.mark.parametrize("setter", [InputShapeSetter(), InputShapeSetter])
def test_a_setter_of_shapes_is_not_needed(setter):
    with pytest.raises(ValueError, match=r"InputShapeSetter.*n_features_in"):
        regressor(setter).fit(X, Y)


# Shared callbacks


@pytest.mark.parametrize("copied", [False, True])
def test_a_shared_checkpoint_stays_shared(tmp_path, copied):
    saved = TrainEndCheckpoint(dirname=str(tmp_path))
    model = regressor(saved, LoadInitState(saved), warm_start=True)
    model = (clone(model) if copied else model).fit(X, Y).fit(X, Y)
    assert len(model.history_) == 8
    if not copied:
        inner = fitted(model, "LoadInitState").checkpoint
        assert inner is fitted(model, "TrainEndCheckpoint")
    assert not hasattr(saved, "checkpoint_")  # of the user, who still has it as it was
    again = regressor(saved, LoadInitState(saved)).fit(X, Y)
    assert len(again.history_) == 12


def test_containers_of_a_callback_stay_those_of_the_user():
    class Log(Callback):
        def __init__(self):
            self.log = []

        def on_epoch_end(self, net, **kwargs):
            self.log.append(len(net.history))

    log = Log()
    regressor(log).fit(X, Y)
    assert log.log == [1, 2, 3, 4]


def test_callbacks_in_a_list_of_a_callback_are_copied():
    class Group(Callback):
        def __init__(self, members):
            self.members = members

    score, group = EpochScoring("r2"), Group([EpochScoring("r2")])
    group.members.append(score)
    twin, (name, copied) = copy_callbacks([score, ("group", group)])
    assert (name, copied.members[1]) == ("group", twin)
    assert twin is not score
    assert copied.members[0] is not group.members[0]


def test_validation_scores_are_of_the_rows_given():
    """An oracle in numpy: the mean over the weighted rows."""
    weight = np.linspace(1, 2, 9)
    model = regressor(States()).fit(
        X, Y, X_val=X[:9], y_val=Y[:9], sample_weight_val=weight
    )
    with torch.no_grad():
        scaled = model.net_.module_(torch.as_tensor(X[:9])).numpy().ravel()
    error = scaled - model.net_.targets.standardise(Y[:9, None]).ravel()
    expected = np.average(error**2, weights=weight)
    assert model.history_[-1]["valid_loss"] == pytest.approx(expected)


def test_a_checkpoint_of_another_net_is_refused(tmp_path):
    saved = TrainEndCheckpoint(dirname=tmp_path)
    regressor(saved).fit(X, Y)
    other = regressor(LoadInitState(saved), module__hidden_layer_sizes=(3,))
    with pytest.raises(ValueError, match=r"LoadInitState, .* do not fit the module"):
        other.fit(X, Y)
