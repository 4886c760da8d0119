"""Memory of a fit, measured as the peak of a process of its own."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import numpy as np
from sklpos import MLP, PositiveOutputRegressor

def kilobytes(field):
    with open("/proc/self/status") as status:
        return next(int(row.split()[1]) for row in status if row.startswith(field))

def data(n):
    X = np.random.default_rng(0).standard_normal((n, {n_features}), dtype="float32")
    return X, np.maximum(X[:, 0], 0)

model = PositiveOutputRegressor(
    batch_size=1024, max_epochs=1, random_state=0, {params}
)
model.fit(*data(1000))
X, y = data({n_samples})
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")
before = kilobytes("VmRSS")
model.fit(X, y)
print((kilobytes("VmHWM") - before) * 1024 / {n_samples})
"""
MLP = "module=MLP, module__hidden_layer_sizes=(16,)"
STACK = "module__kinds=((8, 0.001),), module__width=8"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]


def bytes_per_row(params, n_samples, n_features):
    """Peak of a fit above X and y.

    Large arrays are given back as soon as they are no longer used, so that what is
    measured is not how the C library keeps freed memory.
    """
    script = SCRIPT.format(params=params, n_samples=n_samples, n_features=n_features)
    command = [sys.executable, "-W", "ignore", "-c", script]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    )
    return float(done.stdout)


@pytest.mark.parametrize("params", [MLP, STACK], ids=["MLP", "Stack"])
def test_a_row_takes_few_bytes(params):
    # Targets in float64 and as the net sees them, the order of an epoch, and the
    # multiplier of the row.
    assert bytes_per_row(params, 1_000_000, 3) < 60


def test_a_fit_makes_no_copy_of_X():
    # A row of X has 160 bytes.
    assert bytes_per_row(STACK, 200_000, 40) < 160
