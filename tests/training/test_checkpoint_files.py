"""The file of a checkpoint, while it trains and however training ends."""

import copy
import errno
import os
import pickle
import threading

import killed
import pytest
import torch
from joblib import parallel_config
from killed import end_of, guarded, make_data
from properties import assert_same_bits
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

from sklpos import TrainingCheckpoint
from sklpos.training.files import OwnedFile


class At(Callback):
    """Acts once, after some epochs."""

    def __init__(self, epoch, act):
        self.epoch = epoch
        self.act = act

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == self.epoch:
            self.act(net)


class Fail(Callback):
    """Fails in the middle of an epoch, where Ctrl-C is no request to stop."""

    def __init__(self, epoch, error):
        self.epoch = epoch
        self.error = error

    def on_batch_end(self, net, **kwargs):
        if len(net.history) == self.epoch:
            raise self.error("mine")


def make(path, *callbacks, every=1, max_epochs=5, **params):
    model = guarded(path, "slack", early_stopping=False, max_epochs=max_epochs)
    checkpoint = TrainingCheckpoint(path, every=every)
    return model.set_params(callbacks=[checkpoint, *callbacks], **params)


def never(net):
    raise AssertionError("an epoch began")


def is_free(path) -> bool:
    file = OwnedFile(path)
    file.acquire()
    file.release()
    return True


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("name", ["nowhere/a", ".", "", "kept/a", "a\0"])
def test_the_path_is_checked_before_the_first_epoch(tmp_path, monkeypatch, name):
    """Also if no epoch is to be written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").write_bytes(b"")
    model = make("b", max_epochs=1).fit(*make_data())
    before = end_of(model)
    model.set_params(callbacks=[TrainingCheckpoint(name, 99), At(1, never)])
    with pytest.raises(ValueError, match="path="):
        model.fit(*make_data())
    assert_same_bits(end_of(model), before)
    assert names(tmp_path) == ["b", "kept"]


@pytest.mark.parametrize("where", ["lock", "fsync", "replace"])
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, where):
    """Neither the model that was fitted before, nor the file of the last epoch."""
    path = tmp_path / "a"
    model = make(tmp_path / "b", max_epochs=1).fit(*make_data())
    before = end_of(model)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill(net):
        monkeypatch.setattr(os, where, full)

    if where == "lock":
        monkeypatch.setattr("filelock.FileLock.acquire", full)
    model.set_params(callbacks=[TrainingCheckpoint(path), At(3, fill)], max_epochs=5)
    with pytest.raises(OSError, match="cannot be written: No space left") as refusal:
        model.fit(*make_data())
    monkeypatch.undo()
    assert str(path) in str(refusal.value)
    assert refusal.value.errno == errno.ENOSPC
    assert_same_bits(end_of(model), before)
    assert names(tmp_path) == (["b"] if where == "lock" else ["a", "b"])
    if where != "lock":
        assert len(torch.load(path, weights_only=True)["history"]) == 2
    model.set_params(callbacks=[TrainingCheckpoint(path)])
    whole = make(tmp_path / "c").fit(*make_data())
    assert_same_bits(end_of(model.fit(*make_data())), end_of(whole))


@pytest.mark.parametrize(
    ("error", "epoch"),
    [(ValueError, 1), (KeyboardInterrupt, 1), (KeyboardInterrupt, 3), (SystemExit, 3)],
)
def test_the_file_is_free_however_training_ends(tmp_path, error, epoch):
    path, kept = tmp_path / "a", []
    try:
        make(path, Fail(epoch, error), on_interrupt="raise").fit(*make_data())
    except (ValueError, SystemExit, KeyboardInterrupt) as failure:
        kept.append(failure)  # with its frames, so that nothing is collected
    assert is_free(path)
    assert names(tmp_path) == ["a"][: epoch > 1]
    whole = make(tmp_path / "b", Fail(99, error)).fit(*make_data())
    assert_same_bits(
        end_of(make(path, Fail(99, error)).fit(*make_data())), end_of(whole)
    )


def test_the_file_is_free_after_a_refusal(tmp_path):
    path = tmp_path / "a"
    make(path, max_epochs=2).fit(*make_data())
    for _ in range(2):
        with pytest.raises(ValueError, match="differs in"):
            make(path, alpha=3.0).fit(*make_data())
        assert is_free(path)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="was not written by TrainingCheckpoint"):
        make(path).fit(*make_data())
    assert names(tmp_path) == ["a"]


def test_a_second_fit_is_refused_and_does_not_disturb(tmp_path):
    """One in the same thread, or in another one."""
    path, found = tmp_path / "a", []

    def try_second(net=None):
        second = make(path, At(1, never))
        with pytest.raises(ValueError, match=r"path=.* in use: another process"):
            second.fit(*make_data())
        found.append(names(tmp_path))

    def try_in_thread(net):
        thread = threading.Thread(target=try_second)
        thread.start()
        thread.join()

    first = make(path, At(2, try_second), At(3, try_in_thread)).fit(*make_data())
    assert found == [["a", "a.lock"]] * 2
    whole = make(tmp_path / "b", At(99, never), At(99, never)).fit(*make_data())
    assert_same_bits(end_of(first), end_of(whole))


def test_what_is_copied_during_a_fit_owns_nothing(tmp_path):
    copies = []

    def copy_all(net):
        stored = pickle.dumps(dict(net.callbacks_)["TrainingCheckpoint"])
        copies.extend([clone(model), copy.deepcopy(net), pickle.loads(stored)])

    model = make(tmp_path / "a", At(2, copy_all))
    model.fit(*make_data())
    assert len(copies) == 3
    assert is_free(tmp_path / "a")
    model.set_params(callbacks=[TrainingCheckpoint(tmp_path / "a")], max_epochs=7)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(clone(model)))):
        assert twin.fit(*make_data()).n_iter_ == 7


def test_a_callback_may_change_the_working_folder(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    make("fit", At(2, lambda net: os.chdir("../b"))).fit(*make_data())
    assert (names(tmp_path / "a"), names(tmp_path / "b")) == (["fit"], [])
    assert len(torch.load(tmp_path / "a" / "fit", weights_only=True)["history"]) == 5


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_candidates_of_a_search_are_refused(tmp_path, n_jobs):
    """They share a path: another one trains with it, or has left its state there."""
    model, (X, Y, _) = make(tmp_path / "a", max_epochs=9), make_data()
    search = GridSearchCV(
        model, {"alpha": [1.0, 2.0]}, cv=2, refit=False, n_jobs=n_jobs
    )
    with (
        parallel_config("threading"),
        pytest.warns(UserWarning, match="non-finite"),
        pytest.warns(FitFailedWarning) as caught,
    ):
        search.fit(X, Y)
    said = str(caught[0].message)
    assert "3 fits failed out of a total of 4" in said
    assert said.count("\nValueError: path=") == said.count("\nTraceback")
    assert names(tmp_path) == ["a"]


@pytest.mark.slow
def test_restarted_jobs_take_turns(processes, tmp_path):
    """Of two at once one is refused, if not late; a third may read at any time."""
    path, ends, reads = tmp_path / "fit.ckpt", [], 0
    expected = end_of(guarded(tmp_path / "whole", "slack").fit(*make_data()))
    for number in range(5):
        path.unlink(missing_ok=True)
        results = [tmp_path / f"end{number}{name}" for name in "ab"]
        fits = [
            processes.Process(target=killed.fit_or_say, args=(path, result, "slack"))
            for result in results
        ]
        for fit in fits:
            fit.start()
        while any(fit.is_alive() for fit in fits):
            if path.exists():
                torch.load(path, weights_only=True)
                reads += 1
        for result in results:
            ends.append(pickle.loads(result.read_bytes()))
    assert reads > 5
    refusals = [end for end in ends if isinstance(end, str)]
    assert 0 < len(refusals) <= 5
    assert all("in use: another process" in refusal for refusal in refusals)
    for end in ends:
        if not isinstance(end, str):
            assert_same_bits(end, expected)
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob("*.lock"))
