"""Memory of a fit, measured as the peak of a process of its own."""

import subprocess
import sys

import pytest

N_SAMPLES = 300_000
SCRIPT = """
import numpy as np
from sklpos import MLP, PositiveOutputRegressor

def kilobytes(field):
    with open("/proc/self/status") as status:
        return next(int(row.split()[1]) for row in status if row.startswith(field))

def data(n):
    X = np.random.default_rng(0).standard_normal((n, 80)).astype("float32")
    return X, np.maximum(X[:, 0], 0)

model = PositiveOutputRegressor(
    module=MLP,
    module__hidden_layer_sizes=(64,),
    batch_size=1024,
    max_epochs=2,
    random_state=0,
)
model.fit(*data(1000))
X, y = data({n_samples})
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")
before = kilobytes("VmRSS")
model.fit(X, y)
print((kilobytes("VmHWM") - before) * 1024 / {n_samples})
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_fit_makes_no_copy_of_X():
    """A row of X has 320 bytes.

    Its order, target, weight, multiplier and the record of an epoch take about 150, and
    sometimes 100 more are holes in the heap.
    """
    script = SCRIPT.format(n_samples=N_SAMPLES)
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 320
