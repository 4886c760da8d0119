"""Ctrl-C at any line: the process is as it was, and the model the old one or a new one.

Real signals are raised from a trace function, which stops at lines of the package and
of the contexts of torch and Python that it opens: also where such a context opens or
closes, and in what follows the last line of a ``with``.
"""

import contextlib
import copy
import os
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from properties import (
    assert_same_bits,
    global_random_state,
    global_state,
    training_state,
)
from torch.amp import autocast_mode
from torch.autograd import grad_mode

import sklpos
from sklpos import PositiveOutputRegressor
from sklpos.nets.precision import autocast_state
from sklpos.nets.process import leaves_no_trace, uninterrupted
from sklpos.training.randomness import borrowed_generator

ROOT = str(Path(sklpos.__file__).parent)
PARTS = autocast_mode, contextlib, grad_mode, threading, warnings
CONTEXTS = {part.__file__ for part in PARTS}

pytestmark = pytest.mark.filterwarnings("ignore:training was interrupted")

DROPOUT = {"module__dropout": 0.3, "max_epochs": 2, "batch_size": 20}
#: How a model is made, and what is interrupted.
WORK = {
    "fit": (DROPOUT, lambda model, data: model.fit(data.X, data.Y)),
    "fit in bfloat16": (
        DROPOUT | {"dtype": "bfloat16-mixed", "strategy": "slack", "max_epochs": 1},
        lambda model, data: model.fit(data.X, data.Y),
    ),
    "warm start": (
        DROPOUT | {"warm_start": True, "strategy": "penalty"},
        lambda model, data: model.fit(data.X, data.Y),
    ),
    "partial_fit": (DROPOUT, lambda model, data: model.partial_fit(data.X, data.Y)),
    "enforce": ({}, lambda model, data: model.enforce(data.X_new)),
    "enforce on a domain": (
        {"strategy": "certified", "max_epochs": 1},
        lambda model, data: model.enforce(domain="box"),
    ),
    "certify": ({}, lambda model, data: model.certify(method="crown")),
    "predict": ({}, lambda model, data: model.predict(data.X_new.tolist())),
    "copy": ({}, lambda model, data: copy.deepcopy(model)),
}


class Strike:
    """Press Ctrl-C at the n-th line that is traced; count all of them without n."""

    def __init__(self, n: int = 0):
        self.n = n
        self.count = 0

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, *error):
        sys.settrace(self.before)

    def _enter(self, frame, event, arg):
        name = frame.f_code.co_filename
        return self._trace if name.startswith(ROOT) or name in CONTEXTS else None

    def _trace(self, frame, event, arg):
        if event == "line":
            self.count += 1
            if self.count == self.n:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return self._trace


def process_state() -> list:
    """All that a call could leave behind in the process, or in its thread."""
    return [
        global_state(),
        global_random_state(),
        autocast_state(),
        torch.is_inference_mode_enabled(),
        list(warnings.filters),
    ]


def borrow():
    with borrowed_generator(0):
        return True


@pytest.fixture(scope="module")
def elsewhere():
    """Another thread, for which locks must be free."""
    with ThreadPoolExecutor(1) as threads:
        yield threads


class Situation:
    """A fitted model, what is done to it, and all that it may be afterwards."""

    def __init__(self, small, data, name):
        params, self.work = WORK[name]
        self.data = data
        self.old = small(**params).fit(data.X, data.Y)
        self.model = self.twin()
        with Strike() as strike:
            self.work(self.model, data)
        self.n_lines = strike.count
        self.new = self.described(self.model)
        self.allowed = [self.described(self.old), self.new]
        if self.old.max_epochs == 2:
            # What an interrupted fit keeps: its first epoch, repaired as usual.
            shorter = self.twin().set_params(max_epochs=1)
            self.allowed.append(self.described(self.work(shorter, data)))

    def twin(self):
        # Shallow: it shares the fit, which no call may change.
        model = object.__new__(PositiveOutputRegressor)
        vars(model).update(vars(self.old))
        return model

    def described(self, model) -> list:
        return [
            {k: v for k, v in training_state(model).items() if k != "history"},
            model.predict(self.data.X_new),
            model.certificate_ is None,
        ]

    def strike(self, n, elsewhere) -> bool:
        """Interrupt the work; whether it ended with an exception."""
        model, before = self.twin(), process_state()
        cut = False
        try:
            with Strike(n):
                self.work(model, self.data)
        except KeyboardInterrupt:
            cut = True
        assert_same_bits(process_state(), before)
        assert elsewhere.submit(borrow).result(timeout=60)
        assert any(self.is_described(model, each) for each in self.allowed)
        return cut

    def is_described(self, model, expected) -> bool:
        try:
            assert_same_bits(self.described(model), expected)
        except AssertionError:
            return False
        return True

    def check_next(self):
        """What follows is as if nothing had been interrupted."""
        model = self.twin()
        self.work(model, self.data)
        assert_same_bits(self.described(model), self.new)


def check_strikes(small, data, elsewhere, name, number, seed=0):
    situation = Situation(small, data, name)
    lines = np.random.default_rng(seed).integers(1, situation.n_lines, number)
    cut = sum(situation.strike(int(n), elsewhere) for n in lines)
    situation.check_next()
    # A fit that has finished an epoch ends as usual.
    assert cut > number / 4


@pytest.mark.parametrize("name", ["fit", "partial_fit", "enforce", "predict"])
def test_ctrl_c_at_some_lines(small, data, elsewhere, name):
    check_strikes(small, data, elsewhere, name, 6)


#: Shares of the strikes: more of what takes milliseconds.
SHARES = {
    "fit": 0.06,
    "fit in bfloat16": 0.03,
    "warm start": 0.03,
    "partial_fit": 0.35,
    "enforce": 0.14,
    "enforce on a domain": 0.01,
    "certify": 0.09,
    "predict": 0.2,
    "copy": 0.09,
}
#: 2000 take one and a half minutes.
STRIKES = int(os.environ.get("SKLPOS_STRIKES", "500"))


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
def test_ctrl_c_at_many_lines(small, data, elsewhere, name):
    number = max(1, round(SHARES[name] * STRIKES))
    check_strikes(small, data, elsewhere, name, number, seed=1)


def lines_of(situation, *parts: str) -> list[int]:
    """Numbers of the lines of some files, the first and last times that they run."""
    places = {}

    class Listing(Strike):
        def _trace(self, frame, event, arg):
            if event == "line":
                self.count += 1
                if frame.f_code.co_filename.endswith(parts):
                    places.setdefault(frame.f_lineno, []).append(self.count)
            return self._trace

    with Listing():
        situation.work(situation.twin(), situation.data)
    return sorted({n for found in places.values() for n in (found[0], found[-1])})


def check_putting_back(small, data, elsewhere, name, *files):
    situation = Situation(small, data, name)
    lines = lines_of(situation, "process.py", "randomness.py", "turns.py", *files)
    for n in lines:
        situation.strike(n, elsewhere)
    assert len(lines) > 50
    situation.check_next()


@pytest.mark.slow
def test_ctrl_c_while_something_is_put_back(small, data, elsewhere):
    """At every line of the code that does so."""
    check_putting_back(small, data, elsewhere, "partial_fit")


@pytest.mark.slow
def test_ctrl_c_while_a_context_closes(small, data, elsewhere):
    """At every line of the contexts of torch and Python as well."""
    files = "grad_mode.py", "contextlib.py", "autocast_mode.py"
    check_putting_back(small, data, elsewhere, "enforce", *files)


def test_ctrl_c_waits_for_the_end_of_a_step_that_must_be_whole():
    seen = []

    @leaves_no_trace
    def work():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            seen.append("inside")
        seen.append("after")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == ["inside"]
    assert signal.getsignal(signal.SIGINT) is before
