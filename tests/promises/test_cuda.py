"""On a real device everything is where it belongs, and nearly equal to the CPU."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from device_checks import (
    CHECKS,
    MONITORS,
    WITH_MULTIPLIERS,
    CtrlC,
    X,
    assert_on_device,
    check_checkpoint,
    check_early_stopping,
    check_loading_a_checkpoint,
    check_multiplier_left_behind,
    check_pickle,
    check_strategy,
    regressor,
    y,
)

from sklpos.strategies import STRATEGIES

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategy(name):
    check_strategy("cuda", name)


@pytest.mark.parametrize("name", CHECKS)
def test_equals_the_cpu(name):
    CHECKS[name]("cuda")


@pytest.mark.parametrize("monitor", MONITORS)
def test_early_stopping(monitor):
    check_early_stopping("cuda", monitor)


def test_checkpoint(tmp_path):
    check_checkpoint("cuda", tmp_path)
    check_loading_a_checkpoint("cuda", tmp_path)


def test_pickle():
    check_pickle("cuda")


@pytest.mark.parametrize("name", WITH_MULTIPLIERS)
def test_multiplier_left_behind_raises(name):
    check_multiplier_left_behind("cuda", name)


def test_auto_takes_the_gpu():
    assert_on_device("cuda", regressor("auto").fit(X, y))


def test_dropout_is_reproducible():
    before = torch.cuda.get_rng_state()
    fits = [regressor("cuda:0", module__dropout=0.3).fit(X, y) for _ in range(2)]
    np.testing.assert_array_equal(fits[0].predict(X), fits[1].predict(X))
    assert torch.equal(torch.cuda.get_rng_state(), before)


LOAD_ON_CPU = """
import pickle, sys, warnings
import numpy as np, torch
assert not torch.cuda.is_available()
warnings.simplefilter("ignore")  # it says that it is loaded on the CPU
with open(sys.argv[1], "rb") as file:
    model, X, y, expected, goes_on = pickle.load(file)
assert {p.device.type for p in model.module_.parameters()} == {"cpu"}
np.testing.assert_allclose(model.predict(X), expected, rtol=1e-6, atol=1e-6)
assert model.strategy_.state_ is model.net_.constraint_.state
if goes_on:
    before = len(model.history_)
    model.partial_fit(X, y)
    assert len(model.history_) == before + 1
else:
    model.set_params(early_stopping=False, callbacks=None).fit(X, y)
assert model.enforce(X).predict(X).min() >= 0
"""


@pytest.mark.filterwarnings("ignore:training was interrupted")
@pytest.mark.parametrize(
    "params", [{}, {"early_stopping": True, "max_epochs": 20}, {"callbacks": [CtrlC]}]
)
def test_pickle_of_a_cuda_model_loads_on_the_cpu(params, tmp_path):
    model = regressor("cuda", **params).fit(X, y)
    file = tmp_path / "model.pkl"
    # Early stopping and callbacks are a part of the net.
    parts = model, X, y, model.predict(X), not params
    file.write_bytes(pickle.dumps(parts))
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    subprocess.run(
        [sys.executable, "-c", LOAD_ON_CPU, str(file)], env=environment, check=True
    )
