"""Fits that are killed: what goes on ends as if it had never stopped."""

import os
import pickle
import signal
import subprocess
import sys
import time

import killed
import numpy as np
import pytest
import torch
from killed import end_of, guarded, make_data
from properties import assert_same_bits, training_state
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback, Freezer

from sklpos import MLP, PositiveOutputRegressor, TrainingCheckpoint

KILLS = 10

can_kill = pytest.mark.skipif(
    not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL"
)


class Fit:
    """A fit in a process of its own, as often as it takes."""

    def __init__(self, processes, folder, strategy):
        self.context, self.strategy = processes, strategy
        self.path, self.result = folder / "fit.ckpt", folder / "end.pkl"

    def start(self, **params):
        process = self.context.Process(
            target=killed.fit,
            args=(self.path, self.result, self.strategy),
            kwargs=params,
        )
        process.start()
        return process

    def kill_after(self, seconds) -> bool:
        """Say whether the kill found it at work."""
        process = self.start()
        time.sleep(seconds)
        process.kill()
        process.join()
        return process.exitcode == -signal.SIGKILL

    def end(self) -> dict:
        process = self.start()
        process.join()
        assert process.exitcode == 0
        return pickle.loads(self.result.read_bytes())

    def begin_anew(self):
        self.path.unlink(missing_ok=True)


def undisturbed(tmp_path, strategy) -> dict:
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    model = guarded(folder / "fit.ckpt", strategy).fit(*make_data())
    return end_of(model)


def n_epochs(path) -> int:
    return len(torch.load(path, weights_only=True)["history"])


@can_kill
@pytest.mark.parametrize("where", ["write", "rename"])
def test_a_kill_while_the_file_is_written_leaves_the_one_before(
    processes, tmp_path, where
):
    fit = Fit(processes, tmp_path, "augmented_lagrangian")
    for number in (1, 4):  # the second process begins where the first one ended
        process = fit.start(death=(where, number))
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert len(list(tmp_path.glob("*.part"))) == 1
        assert fit.path.exists() == (number > 1)
    assert n_epochs(fit.path) == 2 * 3
    assert_same_bits(fit.end(), undisturbed(tmp_path, "augmented_lagrangian"))
    fit.result.unlink()
    (tmp_path / "undisturbed" / "fit.ckpt").unlink()
    assert [path.name for path in tmp_path.rglob("*.*")] == ["fit.ckpt"]


@can_kill
@pytest.mark.slow
def test_a_fit_killed_at_random_moments_ends_as_if_it_was_not(
    processes, tmp_path, strategy
):
    expected, kills, found = undisturbed(tmp_path, strategy), 0, set()
    rng, fit = np.random.default_rng(), Fit(processes, tmp_path, strategy)
    while kills < KILLS:
        if fit.kill_after(rng.uniform(0.02, 0.3)):
            kills += 1
            found.add(n_epochs(fit.path) if fit.path.exists() else 0)
        if fit.result.exists():  # too late: once more from the start
            assert_same_bits(fit.end(), expected)
            fit.begin_anew()
    assert_same_bits(fit.end(), expected)
    assert len(found) > 1


def interrupt(processes, result, strategy, seconds) -> dict | None:
    """Press Ctrl-C; return what that leaves, None if it came before an epoch ended."""
    process = processes.Process(
        target=killed.fit_until_interrupted, args=(result, strategy)
    )
    process.start()
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    return pickle.loads(result.read_bytes()) if result.exists() else None


def check_interrupts(processes, folder, strategy, number):
    rng, result = np.random.default_rng(), folder / "end.pkl"
    while number:
        left = interrupt(processes, result, strategy, rng.uniform(0.2, 0.6))
        if left is not None:
            number -= 1
            result.unlink()
            model = killed.unguarded(strategy, left["n_iter"]).fit(*make_data())
            assert_same_bits(left, end_of(model))


@can_kill
def test_ctrl_c_at_a_random_moment_leaves_the_last_finished_epoch(processes, tmp_path):
    check_interrupts(processes, tmp_path, "augmented_lagrangian", 2)


@can_kill
@pytest.mark.slow
def test_ctrl_c_at_many_moments(processes, tmp_path, strategy):
    check_interrupts(processes, tmp_path, strategy, KILLS)


# What a file is good for


class Stop(Exception):
    pass


class Crash(Callback):
    """Fails in the middle of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_batch_end(self, net, **kwargs):
        if len(net.history) == self.epoch:
            raise Stop


def crashed(path, strategy, epoch=12, **params):
    model = guarded(path, strategy, **params)
    model.callbacks.append(Crash(epoch))
    with pytest.raises(Stop):
        model.fit(*make_data())
    return model


@pytest.mark.parametrize(
    "params",
    [
        {},
        pytest.param(
            {"optimizer": torch.optim.SGD, "lr": 0.01}, marks=pytest.mark.slow
        ),
        pytest.param({"optimizer": torch.optim.NAdam}, marks=pytest.mark.slow),
    ],
)
def test_a_failed_fit_goes_on(tmp_path, mostly_slow_strategy, params):
    strategy, params = mostly_slow_strategy, {"max_epochs": 16, **params}
    crashed(tmp_path / "a", strategy, **params)
    assert n_epochs(tmp_path / "a") == 10
    models = [
        guarded(tmp_path / name, strategy, **params).set_params(
            callbacks=[*guarded(tmp_path / name, strategy).callbacks, Crash(99)]
        )
        for name in "ab"
    ]
    ends = [end_of(model.fit(*make_data())) for model in models]
    assert_same_bits(*ends)


ANEW = """
import sys
from killed import fit

fit(*sys.argv[1:3], "slack", max_epochs=int(sys.argv[3]))
"""


@pytest.mark.slow
def test_another_process_goes_on(tmp_path):
    """One that was not forked: its hashes of strings are others, as they always are."""
    path, result = tmp_path / "fit.ckpt", tmp_path / "end.pkl"
    for seed, epochs in ("1", 4), ("2", 8):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        env["PYTHONPATH"] = os.pathsep.join(sys.path)
        arguments = [str(path), str(result), str(epochs)]
        subprocess.run([sys.executable, "-c", ANEW, *arguments], env=env, check=True)
    whole = guarded(tmp_path / "whole", "slack", max_epochs=8).fit(*make_data())
    assert_same_bits(pickle.loads(result.read_bytes()), end_of(whole))


class Weighing(torch.nn.MSELoss):
    """Weighs the loss by the number of its calls."""

    def __init__(self, reduction):
        super().__init__(reduction=reduction)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, y_pred, y_true):
        self.calls += 1
        return super().forward(y_pred, y_true) / self.calls


def test_a_criterion_with_a_state_goes_on(tmp_path):
    ends, params = [], {"criterion": Weighing, "max_epochs": 16}
    for name in "ab":
        if name == "b":
            crashed(tmp_path / name, "slack", **params)
        model = guarded(tmp_path / name, "slack", **params)
        model.callbacks.append(Crash(99))
        ends.append(end_of(model.fit(*make_data())))
    assert_same_bits(*ends)


def test_early_stopping_goes_on(tmp_path):
    """It counts on, and returns to a best epoch before the crash."""
    params = {"n_iter_no_change": 4, "lr": 0.2, "max_epochs": 200, "tol": 0.05}
    whole = guarded(tmp_path / "whole", "slack", **params).fit(*make_data())
    best = dict(whole.callbacks_)["early_stopping"].best_epoch_
    assert best < whole.n_iter_ < 200
    crashed(tmp_path / "cut", "slack", epoch=whole.n_iter_, **params)
    assert n_epochs(tmp_path / "cut") >= best
    model = guarded(tmp_path / "cut", "slack", **params)
    model.callbacks.append(Crash(999))
    model.fit(*make_data())
    state, expected = end_of(model), end_of(whole)
    for each in (state, expected):
        del each["history"]  # sums in another order, since a callback looks on
    assert_same_bits(state, expected)


def test_frozen_weights_and_infeasible_rows_go_on(tmp_path):
    """Callbacks of the net, with arrays, and one that acts in the first epoch alone."""
    X, y = np.array([[1.0], [-1.0], [1e-3]]), [2.0, 1.0, 1.0]

    def make(name, *callbacks):
        return PositiveOutputRegressor(
            module=MLP,
            module__hidden_layer_sizes=(),
            module__bias=False,
            lower_bound=1.0,
            callbacks=[TrainingCheckpoint(tmp_path / name), *callbacks],
            callbacks__multiplier_ascent__window=5,
            repair=None,
            max_epochs=40,
            random_state=0,
        )

    with pytest.raises(Stop):
        make("a", Crash(13)).fit(X, y)
    models = []
    for name in "ab":
        model = make(name, Crash(99))
        with pytest.warns(ConvergenceWarning, match="no head without bias"):
            models.append(model.fit(X, y))
    first, second = (dict(m.callbacks_)["multiplier_ascent"] for m in models)
    assert first.infeasible_rows_ == second.infeasible_rows_ != []
    assert_same_bits(first.looks_, second.looks_)
    assert_same_bits(*map(training_state, models))

    freeze = Freezer("features.*")
    params = {"module__dropout": 0.0, "early_stopping": False}
    model = guarded(tmp_path / "c", "penalty", max_epochs=2, **params)
    model.callbacks.append(freeze)
    before = model.fit(*make_data()).net_.module_.features[0].weight.clone()
    model.set_params(max_epochs=4).fit(*make_data())
    assert len(model.history_) == 4
    assert torch.equal(model.net_.module_.features[0].weight, before)


def test_more_epochs_are_added(tmp_path):
    short = guarded(tmp_path / "a", "slack", max_epochs=6, early_stopping=False)
    short.fit(*make_data())
    longer = short.set_params(max_epochs=10).fit(*make_data())
    whole = guarded(tmp_path / "b", "slack", max_epochs=10, early_stopping=False)
    assert_same_bits(end_of(longer), end_of(whole.fit(*make_data())))
    assert longer.n_iter_ == 10
    with pytest.raises(ValueError, match="10 epochs, more than max_epochs=6"):
        short.set_params(max_epochs=6).fit(*make_data())


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"alpha": 2.0}, "alpha"),
        ({"lr": 0.5}, "lr"),
        ({"strategy": "lagrangian"}, "strategy"),
        ({"random_state": 1}, "random_state"),
        ({"module__hidden_layer_sizes": (9,)}, "module"),
        ({"lower_bound": -1.0}, "data"),
        ({"upper_bound": 1e3}, "data"),
        ({"criterion": torch.nn.L1Loss}, "criterion"),
    ],
)
def test_a_file_of_another_fit_is_refused(tmp_path, change, name):
    crashed(tmp_path / "a", "slack", 5, module__dropout=0.0)
    kept = (tmp_path / "a").read_bytes()
    model = guarded(tmp_path / "a", "slack", module__dropout=0.0).set_params(**change)
    with pytest.raises(ValueError, match=f"another fit, which differs in .*{name}"):
        model.fit(*make_data())
    X, Y, weight = make_data()
    model = guarded(tmp_path / "a", "slack", module__dropout=0.0)
    with pytest.raises(ValueError, match=r"differs in data;"):
        model.fit(X, Y, weight[::-1])
    assert (tmp_path / "a").read_bytes() == kept
    assert not hasattr(model, "net_")


def test_files_that_are_something_else_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "made"),))

    contents = {"text": b"abc", "empty": b"", "pickle": pickle.dumps(Evil())}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    torch.save(Evil(), tmp_path / "torch")
    torch.save([1, 2], tmp_path / "list")
    for name in (*contents, "torch", "list"):
        with pytest.raises(ValueError, match="not written by TrainingCheckpoint"):
            guarded(tmp_path / name, "slack").fit(*make_data())
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"random_state": None}, "pass an integer"),
        ({"callbacks": [TrainingCheckpoint("a", every=0)]}, "every=0"),
    ],
)
def test_what_could_not_go_on_is_refused_at_once(tmp_path, change, words):
    model = guarded(tmp_path / "a", "slack").set_params(**change)
    with pytest.raises(ValueError, match=words):
        model.fit(*make_data())


def test_it_guards_one_fit(tmp_path):
    params = {"early_stopping": False, "max_epochs": 2}
    model = guarded(tmp_path / "a", "slack", warm_start=True, **params)
    model.fit(*make_data())
    predictions = model.predict(make_data()[0])
    for method in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match="guards one fit"):
            method(*make_data())
    assert_same_bits(model.predict(make_data()[0]), predictions)
    assert isinstance(
        pickle.loads(pickle.dumps(model)).callbacks[0], TrainingCheckpoint
    )


def test_what_a_callback_cannot_store_is_no_reason_to_fail(tmp_path):
    class Writer(Callback):
        state_attributes_ = ("file_", "seen_", "array_")

        def on_train_begin(self, net, **kwargs):
            self.file_, self.seen_ = open(os.devnull), []  # noqa: SIM115
            self.array_ = np.arange(3.0)

        def on_epoch_end(self, net, **kwargs):
            self.seen_.append(np.float64(len(net.history)))

        def on_train_end(self, net, **kwargs):
            self.file_.close()
            self.file_ = None

    callbacks = [Writer(), TrainingCheckpoint(tmp_path / "a")]
    params = {"early_stopping": False, "callbacks": callbacks}
    for epochs in (4, 6):
        model = guarded(tmp_path / "a", "slack", **params, max_epochs=epochs)
        model.fit(*make_data())
    writer = dict(model.callbacks_)["Writer"]
    assert writer.seen_ == [1, 2, 3, 4, 5, 6]
    assert_same_bits(writer.array_, np.arange(3.0))
