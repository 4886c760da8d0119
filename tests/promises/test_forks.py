"""A process may be forked at any moment: the child can work at once."""

import multiprocessing
import os
import signal
import threading
import time
from functools import partial
from typing import ClassVar

import joblib
import numpy as np
import pytest
import torch
from properties import assert_same_bits
from sklearn.base import clone
from skorch.callbacks import Callback

from sklpos import MLP
from sklpos.nets.lazy import lazy
from sklpos.training import randomness
from sklpos.training.randomness import borrowed_generator

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    # From Python 3.12 on: of forks in a process that has several threads.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]
LONGEST = 60.0


def code_of_child(work) -> int | None:
    """Fork, work in the child, and return its exit code; None if it hangs."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            # The child is a copy of the whole test run, which must not go on.
            os._exit(code)
    limit = time.monotonic() + LONGEST
    while time.monotonic() < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


class Held:
    """Work of another thread, which stays in the middle of it until it may go on."""

    def __init__(self, work):
        self.inside, self.may_go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=work, args=(self,))

    def stay(self):
        self.inside.set()
        assert self.may_go.wait(LONGEST)

    def __enter__(self):
        self.thread.start()
        assert self.inside.wait(LONGEST)

    def __exit__(self, *error):
        self.may_go.set()
        self.thread.join()


@pytest.fixture
def working(small, data):
    """Fit and predict in a child, and draw a number there."""
    params = {"module__dropout": 0.3, "max_epochs": 2}
    model = small(**params).fit(data.X, data.Y)
    expected = model.predict(data.X_new)
    state = torch.get_rng_state()

    def work():
        found = small(**params).fit(data.X, data.Y).predict(data.X_new)
        same = np.array_equal(found, expected)
        return same and torch.equal(torch.get_rng_state(), state)

    return work


def borrow_and_stay(held):
    with borrowed_generator(1):
        held.stay()


def test_a_fork_takes_back_what_another_thread_has_borrowed(working, monkeypatch):
    """Even if that thread does not give it back in time."""
    monkeypatch.setattr(randomness, "_PATIENCE", 0.01)
    before = torch.get_rng_state()
    with Held(borrow_and_stay):
        assert code_of_child(working) == 0
    assert torch.equal(torch.get_rng_state(), before)
    assert working()


def test_a_fork_waits_for_the_end_of_a_step(working):
    def borrow_for_a_while(held):
        with borrowed_generator(1):
            held.inside.set()
            # Not for ever, as it is the fork that waits.
            held.may_go.wait(0.05)

    with Held(borrow_for_a_while):
        assert code_of_child(working) == 0
    assert working()


class ForkingModule(MLP):
    """Forks in its first training step, in which the generator is borrowed."""

    codes: ClassVar[list] = []

    def forward(self, X):
        outputs = super().forward(X)
        if self.training and torch.is_grad_enabled() and not self.codes:
            self.codes.append(None)
            state = torch.get_rng_state()
            same = partial(torch.equal, state)
            self.codes.append(code_of_child(lambda: same(torch.get_rng_state())))
        return outputs


def test_a_fork_in_a_loan_of_the_same_thread(small, data, working):
    """A child that comes from a training step goes on with that step."""
    params = {"module__dropout": 0.3, "max_epochs": 1}
    model = small(module=ForkingModule, **params).fit(data.X, data.Y)
    assert ForkingModule.codes == [None, 0]
    expected = small(module=MLP, **params).fit(data.X, data.Y)
    assert_same_bits(model.predict(data.X_new), expected.predict(data.X_new))
    assert working()


class Staying(Callback):
    held = None

    def on_epoch_end(self, net, **kwargs):
        self.held.stay()


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
def test_a_fork_in_the_fit_of_another_thread(small, data, call):
    """The child can go on with the very model that is fitted in its parent."""
    model = small(callbacks=[Staying()], max_epochs=1, warm_start=True)

    def train(held):
        Staying.held = held
        getattr(model, call)(data.X, data.Y)

    def work():
        Staying.stay = Callback.on_epoch_end
        Staying.on_epoch_end = Callback.on_epoch_end
        untouched = not hasattr(model, "fitted_")
        model.partial_fit(data.X, data.Y).enforce(data.X_new)
        return untouched and len(model.history_) == 1

    with Held(train):
        assert code_of_child(work) == 0
    assert len(model.history_) == 1


def test_a_fork_by_another_thread_while_the_main_thread_fits(small, data):
    """In the child, Ctrl-C is heard as it was before."""
    codes = []

    class Forking(Callback):
        def on_epoch_end(self, net, **kwargs):
            thread = threading.Thread(target=lambda: codes.append(code_of_child(work)))
            thread.start()
            thread.join()

    def work():
        return signal.getsignal(signal.SIGINT) is signal.default_int_handler

    small(callbacks=[Forking()], max_epochs=1).fit(data.X, data.Y)
    assert codes == [0]


def test_lazy_attributes_have_no_lock():
    class Late:
        held = None

        @lazy
        def value(self):
            if self.held is not None:
                self.held.stay()
            return object()

    slow, quick = Late(), Late()

    def read(held):
        slow.held = held
        slow.value  # noqa: B018

    with Held(read):
        assert code_of_child(lambda: quick.value is quick.value) == 0


def fit_one(model, X, Y, seed):
    model = clone(model).set_params(random_state=seed).fit(X, Y)
    return float(model.multipliers_.sum())


@pytest.mark.slow
def test_forks_under_load(small, data, working):
    """By hand, by a pool and by joblib, while two threads fit without a pause."""
    over = threading.Event()

    def fit_on(seed):
        while not over.is_set():
            small(module__dropout=0.3, random_state=seed).fit(data.X, data.Y)

    one = partial(fit_one, small(module__dropout=0.3), data.X, data.Y)
    expected = [one(seed) for seed in range(4)]
    threads = [threading.Thread(target=fit_on, args=(seed,)) for seed in (5, 6)]
    for thread in threads:
        thread.start()
    try:
        pause = np.random.default_rng(0).uniform(0, 0.01, 10)
        codes = [time.sleep(wait) or code_of_child(working) for wait in pause]
        tasks = [joblib.delayed(one)(seed) for seed in range(4)]
        with joblib.parallel_config("multiprocessing", n_jobs=2):
            assert joblib.Parallel()(tasks) == expected
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert codes == [0] * len(pause)


@pytest.mark.slow
def test_a_pool_of_forked_processes(small, data):
    one = partial(fit_one, small(module__dropout=0.3), data.X, data.Y)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(one, range(4)).get(LONGEST)
    assert found == list(map(one, range(4)))
