"""``python -m benchmarks.out_of_core``: a fit on a file that need not fit in memory.

`partial_fit` goes through a memory-mapped file in chunks, and `enforce` repairs the
head of an `MLP` on all of its rows; the default module, `Stack`, needs no repair. What
is measured is the anonymous memory of the process (of Linux), above what it held before
the first chunk: pages of the file are a cache, which the system drops when it needs the
memory.
"""

import argparse
import gc
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from sklearn.base import clone

from sklpos import MLP, PositiveOutputRegressor, Stack

N_FEATURES = 10
WRITTEN = 100_000  # rows at once
MODULES = {
    "MLP": {"module": MLP, "batch_size": 1_000},
    "Stack": {"module": Stack},
}


class Peak:
    """The largest anonymous memory while the context lasts, above that at its start."""

    def __enter__(self):
        self.start = self.largest = anonymous_memory()
        self.over = threading.Event()
        self.watch = threading.Thread(target=self.look)
        self.watch.start()
        return self

    def __exit__(self, *error):
        self.over.set()
        self.watch.join()

    def look(self):
        while not self.over.wait(0.002):
            self.largest = max(self.largest, anonymous_memory())

    @property
    def extra(self) -> float:
        return self.largest - self.start


def anonymous_memory() -> float:
    """Of this process, in MB."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def write_rows(folder: Path, n_samples: int) -> None:
    """Write X.npy and y.npy, chunk by chunk."""
    X = open_memmap(folder / "X.npy", "w+", np.float32, (n_samples, N_FEATURES))
    y = open_memmap(folder / "y.npy", "w+", np.float32, (n_samples,))
    rng = np.random.default_rng(0)
    for start in range(0, n_samples, WRITTEN):
        rows = slice(start, min(start + WRITTEN, n_samples))
        X[rows] = rng.standard_normal((rows.stop - start, N_FEATURES), dtype=np.float32)
        signal = X[rows, 0] + X[rows, 1] * X[rows, 2]
        noise = 0.3 * rng.standard_normal(rows.stop - start, dtype=np.float32)
        y[rows] = np.maximum(signal + noise, 0)


def in_chunks(n_samples: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, n_samples, size)]


def measure(folder: Path, chunk: int, module: str) -> dict:
    """Train once on each chunk, then repair on all rows."""
    # "c": writeable, as torch wants it, but what is written never reaches the file
    X, y = (np.load(folder / f"{name}.npy", mmap_mode="c") for name in "Xy")
    params = {"max_epochs": 1, "random_state": 0, **MODULES[module]}
    model = PositiveOutputRegressor(**params)
    clone(model).fit(X[:1_000], y[:1_000])  # loads what is loaded at the first use
    gc.collect()
    held, start = [], time.perf_counter()
    with Peak() as training:
        for rows in in_chunks(len(X), chunk):
            model.partial_fit(X[rows], y[rows])
            held.append(anonymous_memory() - training.start)
    trained = time.perf_counter()
    with Peak() as repair:
        model.enforce(X)
    repaired = time.perf_counter()
    lowest = min(model.predict(X[rows]).min() for rows in in_chunks(len(X), chunk))
    return {
        "rows": len(X),
        "MB of X": X.nbytes / 2**20,
        "MB of a chunk": X[:chunk].nbytes / 2**20,
        "MB held after the first chunk": held[0],
        "MB held after the tenth": held[min(9, len(held) - 1)],
        "MB held after the last": held[-1],
        "MB at most, training": training.extra,
        "MB at most, repair": repair.extra,
        "s, training": trained - start,
        "s, repair": repaired - trained,
        "lowest prediction": float(lowest),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.out_of_core", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--chunk", type=int, default=100_000)
    parser.add_argument("--module", choices=MODULES, default="MLP")
    parser.add_argument("--output", type=Path, help="JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), arguments.rows)
        result = measure(Path(folder), arguments.chunk, arguments.module)
    for name, value in result.items():
        print(f"{name:30s}{value:14,.5g}")
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
