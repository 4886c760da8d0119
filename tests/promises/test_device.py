"""On an imitated device everything is where it belongs, and equal to the CPU."""

import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from device_checks import (
    BOTH_BOUNDS,
    CHECKS,
    MONITORS,
    WITH_MULTIPLIERS,
    CtrlC,
    X,
    assert_on_device,
    assert_same_model,
    check_checkpoint,
    check_early_stopping,
    check_infeasible,
    check_multiplier_left_behind,
    check_strategy,
    pair,
    regressor,
    y,
)
from device_uses import MAKERS, USES, check_default_device, check_stack, check_use
from fake_device import AVAILABLE, DeviceTensor, fork, runs_on_fake_device
from marks import mostly_slow
from skorch.callbacks import EarlyStopping
from skorch.exceptions import DeviceWarning
from torch import nn

from sklpos.strategies import STRATEGIES


@pytest.mark.parametrize("name", STRATEGIES)
@runs_on_fake_device
def test_strategy(device, name):
    check_strategy(device, name)


@pytest.mark.parametrize("name", CHECKS)
@runs_on_fake_device
def test_equals_the_cpu(device, name):
    CHECKS[name](device)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
@runs_on_fake_device
def test_strategy_of_the_default_module(device, name):
    check_stack(device, name)


@pytest.mark.parametrize("module", mostly_slow(MAKERS, "MLP"))
@pytest.mark.parametrize("use", mostly_slow(USES, "resumed"))
@runs_on_fake_device
def test_use(device, use, module):
    check_use(device, use, module)


@runs_on_fake_device
def test_default_device_of_the_caller(device):
    check_default_device(device)


@runs_on_fake_device
def test_a_forked_process_is_told_so(device):
    torch.ones(1, device=device)
    there, here = os.pipe()
    child = fork()
    if child == 0:
        try:
            regressor(device).fit(X, y)
        except ValueError as error:
            os.write(here, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(here)
    with os.fdopen(there) as said:
        assert (
            "forked after CUDA had started; start processes by 'spawn'" in said.read()
        )


@pytest.mark.parametrize("monitor", MONITORS)
@runs_on_fake_device
def test_early_stopping(device, monitor):
    check_early_stopping(device, monitor)


@runs_on_fake_device
def test_checkpoint(device, tmp_path):
    check_checkpoint(device, tmp_path)


@pytest.mark.parametrize("name", WITH_MULTIPLIERS)
@runs_on_fake_device
def test_multiplier_left_behind_raises(device, name):
    check_multiplier_left_behind(device, name)


@runs_on_fake_device
def test_accelerator_without_double_precision(device, mostly_slow_strategy):
    """Some have none: what needs it is moved to the CPU first."""
    new = DeviceTensor.__new__

    def refuse(cls, hidden):
        if hidden.dtype == torch.float64:
            raise TypeError("this device has no float64")
        return new(cls, hidden)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeviceTensor, "__new__", staticmethod(refuse))
        with pytest.raises(TypeError, match="no float64"):
            torch.zeros(1, dtype=torch.float64).to(device)
        params = {"strategy": mostly_slow_strategy, "dtype": "auto"}
        model = regressor(device, **params).fit(X, y)
        assert model.certify("box", time_limit=0.1).proved_min_.shape == (2,)
        assert model.enforce(3 * X).predict(3 * X).min() >= 0
        assert model.enforce(domain="box", time_limit=0.1).certificate_
        both = regressor(device, **params, **BOTH_BOUNDS).fit(X, np.minimum(y, 0.5))
        assert both.predict(X).max() <= 1
        if mostly_slow_strategy == "augmented_lagrangian":
            check_infeasible(device, dtype="float32")


@runs_on_fake_device
def test_dropout(device):
    there, here = pair(device, lambda m: m.fit(X, y), module__dropout=0.3)
    assert_same_model(device, there, here, X)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"early_stopping": True, "max_epochs": 20},
        {"callbacks": [CtrlC]},
        {"callbacks": [EarlyStopping(monitor="train_loss", load_best=True), CtrlC]},
        {"strategy": "slack", "callbacks__multiplier_ascent__window": 1},
        {"criterion": nn.HuberLoss, "strategy": "nonnegative_weights"},
    ],
)
@runs_on_fake_device
def test_a_pickle_holds_no_tensor_of_the_device(device, params):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "training was interrupted")
        model = regressor(device, **params).fit(X, y)
    stored = pickle.dumps(model)
    assert b"_rebuild_device_tensor" not in stored
    assert b"torch._utils" not in stored
    assert_on_device(device, pickle.loads(stored))


@runs_on_fake_device
def store(device, file):
    model = regressor(device, warm_start=True).fit(X, y)
    file.write_bytes(pickle.dumps((model, X, y, model.predict(X))))


@pytest.mark.skipif(not AVAILABLE, reason="this torch has no such devices")
@pytest.mark.filterwarnings("ignore:the model was stored on device='fakegpu'")
def test_a_pickle_of_a_missing_device_loads_on_the_cpu(tmp_path):
    file = tmp_path / "model.pkl"
    store(file)
    model, X, y, predicted = pickle.loads(file.read_bytes())
    assert_on_device("cpu", model)
    np.testing.assert_array_equal(model.predict(X), predicted)
    here = regressor("cpu", warm_start=True).fit(X, y).fit(X, y)
    assert_same_model("cpu", model.fit(X, y), here, X)


@pytest.mark.skipif(not AVAILABLE, reason="this torch has no such devices")
def test_a_missing_device_is_said(tmp_path):
    file = tmp_path / "model.pkl"
    store(file)
    with pytest.warns(DeviceWarning, match="'fakegpu', which cannot be used on this m"):
        pickle.loads(file.read_bytes())
