"""What a step costs if several processes make it: measured for two, computed for more.

``python -m benchmarks.scaling_out`` prints both tables, and ``--quick`` small ones.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.distributed as dist
from skorch.callbacks import Callback

from benchmarks.measuring import Timing
from benchmarks.problem import LARGE, SMALL, Problem
from sklpos.distributed import fit_data_parallel

# The batch is that of all processes together; rounds; epochs of each.
CASES = [
    (Problem(2_560, SMALL, 128), 5, 4),
    (Problem(65_536, SMALL, 16_384), 5, 4),
    (Problem(1_024, LARGE, 256), 3, 2),
    (Problem(8_192, LARGE, 4_096), 3, 2),
]
SIZES = (8, 64)


@dataclass(frozen=True)
class Network:
    """A network between processes that average gradients in a ring.

    Each process sends all gradients twice, but for its own part, in 2 (p - 1) messages
    that wait for one another.
    """

    gigabits: float  # per second
    microseconds: float  # until a message arrives

    def __str__(self):
        return f"{self.gigabits:g} Gbit/s, {self.microseconds:g} us"

    def exchange(self, n_bytes: int, size: int) -> float:
        """Seconds in which `size` processes average gradients."""
        sent = 2 * (size - 1) / size * n_bytes
        waits = 2 * (size - 1)
        return 8e-9 * sent / self.gigabits + 1e-6 * waits * self.microseconds


NETWORKS = (Network(10, 50), Network(100, 5))


def scaling_out(quick: bool) -> list[dict]:
    """Time a step of one process and of two, and compute it for many."""
    cases = [(Problem(512, SMALL, 128), 1, 2)] if quick else CASES
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as workers:
        timings = {case[0]: _measure(workers, *case) for case in cases}
    return [measured(timings), computed(timings)]


def _measure(workers, problem: Problem, rounds: int, epochs: int) -> list[Timing]:
    """Seconds of a step of one process, and of two."""
    timings = [Timing(), Timing()]
    for _ in range(rounds):
        for size, timing in enumerate(timings, start=1):
            with tempfile.TemporaryDirectory() as folder:
                tasks = [
                    workers.submit(_train, problem, epochs, rank, size, folder)
                    for rank in range(size)
                ]
                seconds = [task.result() for task in tasks]
            timing.wall += [wall / problem.n_batches for wall, _ in seconds[0]]
            timing.cpu += [cpu / problem.n_batches for _, cpu in seconds[0]]
    return timings


def _train(problem, epochs, rank, size, folder) -> list[tuple[float, float]]:
    """Fit in one process of a group: seconds and CPU seconds of each epoch."""
    torch.set_num_threads(1)
    clock = Clock()
    # The first epoch allocates what the others use.
    model = problem.estimator(max_epochs=epochs + 1, callbacks=[clock])
    own = slice(rank, None, size)
    if size == 1:
        model.fit(problem.X, problem.y)
    else:
        with _group(rank, size, folder):
            fit_data_parallel(model, problem.X[own], problem.y[own])
    return clock.epochs[1:]


@contextmanager
def _group(rank, size, folder) -> Iterator[None]:
    store = (Path(folder) / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


class Clock(Callback):
    """Measures epochs, since a callback that looks at batches slows the steps down."""

    def __init__(self):
        self.epochs = []

    def on_epoch_begin(self, net, **kwargs):
        self.start = time.perf_counter(), time.process_time()

    def on_epoch_end(self, net, **kwargs):
        wall, cpu = self.start
        took = time.perf_counter() - wall, time.process_time() - cpu
        self.epochs.append(took)


def measured(timings: dict[Problem, list[Timing]]) -> dict:
    """Times of a step of one process and of two."""
    rows = {
        _name(problem): {
            "1 process, ms": 1e3 * one.median,
            "2 processes, ms": 1e3 * two.median,
            "speed-up": one.median / two.median,
            "CPU of 1, ms": 1e3 * one.median_cpu,
            "CPU of each of 2, ms": 1e3 * two.median_cpu,
        }
        for problem, (one, two) in timings.items()
    }
    title = f"time of a step, measured on {os.cpu_count()} cores"
    return _printed({"title": title, "rows": rows})


def computed(timings: dict[Problem, list[Timing]]) -> dict:
    """Speed-ups if the work of a step is shared equally and the exchange adds to it."""
    rows = {}
    for problem, (one, _) in timings.items():
        # CPU time, which other work on the machine changes least.
        alone = one.median_cpu
        for network in NETWORKS:
            row = {"MB": 1e-6 * n_bytes(problem), "1 process, ms": 1e3 * alone}
            for size in SIZES:
                exchange = network.exchange(n_bytes(problem), size)
                speed_up = alone / (alone / size + exchange)
                row[f"exchange of {size}, ms"] = 1e3 * exchange
                row[f"speed-up of {size}"] = speed_up
            rows[f"{_name(problem)}; {network}"] = row
    title = "time of a step on many machines, computed"
    return _printed({"title": title, "rows": rows})


def n_bytes(problem: Problem) -> int:
    """Bytes of all gradients."""
    return sum(4 * weight.numel() for weight in problem.module().parameters())


def _name(problem: Problem) -> str:
    net = "-".join(map(str, problem.widths))
    return f"{net}, batch {problem.batch_size:,}"


def _printed(table: dict) -> dict:
    print(f"\n{table['title']}")
    heads = list(next(iter(table["rows"].values())))
    print(f"{'':46s}", *(f"{head:>{len(head) + 2}s}" for head in heads), sep="")
    for name, row in table["rows"].items():
        cells = (f"{value:{len(head) + 2}.2f}" for head, value in row.items())
        print(f"{name:46s}", *cells, sep="", flush=True)
    return table


if __name__ == "__main__":
    scaling_out("--quick" in sys.argv)
