"""`partial_fit` over the chunks of a file, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="memory is read from /proc"
)

# The file grows chunk by chunk under its map: to read past its end is to be killed.
STREAM = """
import os, sys
import numpy as np, torch
from benchmarks.out_of_core import anonymous_memory
from sklpos import MLP, PositiveOutputRegressor

torch.set_num_threads(1)
n_chunks, chunk, width = 90, 16_384, 10
path = sys.argv[1]
X = np.memmap(path, np.float32, "w+", shape=(n_chunks * chunk, width))
os.truncate(path, 0)
rng = np.random.default_rng(0)
model = PositiveOutputRegressor(
    module=MLP, module__hidden_layer_sizes=(8,), batch_size=4_096, random_state=0
)
held = []
for end in range(chunk, len(X) + 1, chunk):
    os.truncate(path, end * width * 4)
    rows = slice(end - chunk, end)
    X[rows] = rng.standard_normal((chunk, width))
    model.partial_fit(X[rows], np.maximum(X[rows, 0], 0))
    held.append(anonymous_memory() * 2**20)
assert len(model.loss_curve_) == n_chunks
assert model.multipliers_.shape == (chunk, 1)
print((held[-1] - held[59]) / X[:chunk].nbytes)
"""


@pytest.mark.slow
@on_linux
def test_a_chunk_is_forgotten_and_no_other_row_is_read(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", STREAM, str(tmp_path / "X")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 6  # of the 30 chunks since; the heap has settled


@on_linux
@pytest.mark.slow
def test_the_benchmark_stays_within_its_memory(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.out_of_core", "--rows", "300000"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines())
    found = {name.strip(): float(v.replace(",", "")) for name, v in found.items()}
    assert found["rows"] == 300_000
    assert found["MB at most, training"] < 200
    assert found["lowest prediction"] >= 0


@pytest.mark.parametrize("batch_size", [5, -1])
def test_over_chunks_the_augmented_lagrangian_is_a_penalty(small, data, batch_size):
    """One dual step of a row, of 0.05 c: its term has the slope of 1.05 times alpha."""
    pair = [
        small(strategy="augmented_lagrangian", alpha=1.0, batch_size=batch_size),
        small(strategy="penalty", alpha=1.05, batch_size=batch_size),
    ]
    for _ in range(2):
        for rows in (slice(0, 15), slice(15, 40)):
            for model in pair:
                model.partial_fit(data.X[rows], data.Y[rows])
    predictions = [model.predict(data.X) for model in pair]
    assert predictions[0].min() < 0
    np.testing.assert_allclose(*predictions, rtol=1e-9)
