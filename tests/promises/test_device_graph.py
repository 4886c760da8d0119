"""Recorded steps on the imitated device, where a record that needs an answer raises."""

import numpy as np
from device_checks import COLUMNS, X, assert_on_device, regressor, y
from fake_device import runs_on_fake_device
from recorded import recording

from sklpos import PositiveOutputRegressor

SHARED = {
    "max_epochs": 6,
    "batch_size": 16,
    "upper_bound": [np.inf, 3.0],
    "on_violated_y": "ignore",
}


def small_stack(device, **params):
    small = {"width": 4, "n_folds": 2, "kinds": [(0, 1.0), (4, 1.0)]}
    return PositiveOutputRegressor(
        device=device,
        dtype="float64",
        random_state=0,
        optimizer__fused=False,
        **{f"module__{name}": value for name, value in small.items()},
        **params,
    )


def check(device, make, **params):
    with recording(device) as recorder:
        there = make(device, cuda_graph=True, **SHARED, **params).fit(X, y)
    assert recorder.n_records == 2
    assert recorder.n_replays > 6
    here = make("cpu", **SHARED, **params).fit(X, y)
    assert_on_device(device, there)
    # Where a step can be recorded, torch keeps the corrections of Adam in float32.
    close = {"rtol": 1e-6, "atol": 1e-6}
    for name in COLUMNS:
        columns = there.history_[:, name], here.history_[:, name]
        np.testing.assert_allclose(*columns, **close)
    np.testing.assert_allclose(there.predict(X), here.predict(X), **close)


@runs_on_fake_device
def test_recorded_strategy(device, mostly_slow_strategy):
    params = {"strategy": mostly_slow_strategy, "module__activation": "sigmoid"}
    check(device, regressor, **params)


@runs_on_fake_device
def test_recorded_stack(device):
    check(device, small_stack)
