"""Fits that are killed: what goes on ends as if it had never stopped."""

import multiprocessing
import pickle
import signal
import time

import killed
import numpy as np
import pytest
import torch
from killed import end_of, guarded, make_data
from properties import assert_same_bits

KILLS = 20

can_kill = pytest.mark.skipif(
    not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL"
)


@pytest.fixture(scope="module")
def processes():
    """Start processes in milliseconds, each with torch loaded and one thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed"])
    return context


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
        assert (tmp_path / "fit.ckpt.part").exists()
        assert fit.path.exists() == (number > 1)
    assert n_epochs(fit.path) == 2 * 3
    assert_same_bits(fit.end(), undisturbed(tmp_path, "augmented_lagrangian"))


@can_kill
@pytest.mark.slow
def test_a_fit_killed_at_random_moments_ends_as_if_it_was_not(
    processes, tmp_path, strategy
):
    expected, fit, kills, seen = undisturbed(tmp_path, strategy), None, 0, set()
    rng = np.random.default_rng()
    fit = Fit(processes, tmp_path, strategy)
    while kills < KILLS:
        if fit.kill_after(rng.uniform(0.05, 0.5)):
            kills += 1
            seen.add(n_epochs(fit.path) if fit.path.exists() else 0)
        if fit.result.exists():  # too late: once more from the start
            assert_same_bits(fit.end(), expected)
            fit.result.unlink()
            fit.begin_anew()
    assert_same_bits(fit.end(), expected)
    assert len(seen) > 1
