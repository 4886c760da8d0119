"""Fixtures: one torch thread, every strategy, small data on which the bound bites."""

import copy
import functools
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from properties import (
    assert_same_bits,
    global_state,
    training_state,
    untouched_random_state,
)

from sklpos import MLP, STRATEGIES, PositiveOutputRegressor

HERE = Path(__file__).parent
# helpers have no doctests, and one of them fits when it is imported
collect_ignore = [
    str(path) for path in HERE.rglob("*.py") if not path.name.startswith("test_")
]

EVERYWHERE = sorted(n for n, s in STRATEGIES.items() if s.guarantee == "everywhere")
REPAIRED = sorted(set(STRATEGIES) - set(EVERYWHERE))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small nets are slower, and less repeatable, with more."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_is_heard():
    """A shell starts what runs in the background deaf to it."""
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if main and before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)
    else:
        yield


CALLS = ("fit", "partial_fit", "predict", "score", "enforce", "certify")


@pytest.fixture(autouse=True, scope="session")
def calls_leave_no_trace():
    """No call of the suite changes the process; a test may draw numbers by itself."""

    inside = []  # a call that another one makes is watched with it

    def watched(method):
        @functools.wraps(method)
        def call(*args, **kwargs):
            main = threading.current_thread() is threading.main_thread()
            if inside or not main:  # others may be at work
                return method(*args, **kwargs)
            inside.append(method)
            try:
                with untouched_random_state():
                    return method(*args, **kwargs)
            finally:
                inside.clear()

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            method = getattr(PositiveOutputRegressor, name)
            patch.setattr(PositiveOutputRegressor, name, watched(method))
        yield


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Assert that no test changes the process, but for those that are marked."""
    before = global_state()
    result = yield
    if pyfuncitem.get_closest_marker("global_state") is None:
        assert_same_bits(global_state(), before)
    return result


@pytest.fixture(params=sorted(STRATEGIES))
def strategy(request) -> str:
    """Every strategy's name."""
    return request.param


# One of each guarantee, and one with more state than the others.
QUICK = {"activation", "augmented_lagrangian", "certified", "slack"}


@pytest.fixture(
    params=[
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in sorted(STRATEGIES)
    ]
)
def mostly_slow_strategy(request) -> str:
    """Every strategy's name; the slow tests try those that resemble others."""
    return request.param


@pytest.fixture(params=REPAIRED)
def repaired_strategy(request) -> str:
    """The names of the strategies whose head is repaired."""
    return request.param


@pytest.fixture(params=EVERYWHERE)
def everywhere_strategy(request) -> str:
    """The names of the strategies that are positive by construction."""
    return request.param


@dataclass(frozen=True)
class Data:
    """Rows whose targets are often 0, so that a net without constraint goes below.

    `Y` has two outputs, `y` is the first; `weight` holds 1, 2 and 3; `X_new` are
    other inputs, wider apart.
    """

    X: np.ndarray
    Y: np.ndarray
    weight: np.ndarray
    X_new: np.ndarray

    @property
    def y(self) -> np.ndarray:
        return self.Y[:, 0]


@pytest.fixture(scope="session")
def data() -> Data:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    slope = np.array([[1.0, -0.5], [-0.7, 0.6], [0.4, 0.9]])
    raw = X @ slope + 0.4 * rng.normal(size=(40, 2)) - 0.2
    weight = rng.integers(1, 4, size=40).astype(float)
    parts = X, np.maximum(raw, 0), weight, 2 * rng.normal(size=(20, 3))
    for part in parts:
        part.setflags(write=False)
    return Data(*parts)


@pytest.fixture(scope="session")
def small():
    """Make a regressor that fits in milliseconds."""

    def make(**params) -> PositiveOutputRegressor:
        defaults = {"lr": 0.1, "max_epochs": 5, "batch_size": -1, "random_state": 0}
        defaults["weight_decay"] = 0.0  # bounds bite where nothing shrinks
        defaults["lr_schedule"] = None  # so that slices of training equal the whole
        if "module" not in params:
            defaults["module"] = MLP
            defaults["module__hidden_layer_sizes"] = (8,)
        return PositiveOutputRegressor(**(defaults | params))

    return make


@pytest.fixture(scope="session")
def fitted(small, data):
    """Models that tests share: to look at, or to copy, but not to change."""
    models = []

    @functools.cache
    def fit(strategy="augmented_lagrangian", **params) -> PositiveOutputRegressor:
        model = small(strategy=strategy, **params).fit(data.X, data.Y)
        state = copy.deepcopy(training_state(model)), model.predict(data.X_new)
        models.append((model, state))
        return model

    yield fit
    for model, state in models:
        assert_same_bits((training_state(model), model.predict(data.X_new)), state)
