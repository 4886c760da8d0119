"""Fits of few rows: beside others, what they do once, the first edition, the import.

The code of the first edition comes from the history of the repository. Without it, as
in an archive of the sources, that table is left out.
"""

import io
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.estimators import defaults, fits
from benchmarks.measuring import Timing, interleave, table
from benchmarks.problem import SMALL, Problem
from sklpos import MLP, PositiveOutputRegressor, Stack

ROOT = Path(__file__).parents[1]
FIRST_EDITION = "4fd4f7c"  # its last commit
MANY = 20  # epochs more: what a fit does once is what does not grow with them


def small_fits(quick: bool) -> list[dict]:
    """Time small fits and the import."""
    rounds = 1 if quick else 7
    n_epochs = (2,) if quick else (20, 100)
    sizes = (200,) if quick else (200, 1_000, 2_000)
    return [
        *(_beside(n, rounds) for n in n_epochs),
        _once(rounds),
        *(_defaults(n, 1 if quick else 3) for n in sizes),
        *_editions(sizes, 1 if quick else 3),
        _imports(1 if quick else 5),
    ]


def _beside(n_epochs, rounds) -> dict:
    problem = Problem(1_000, SMALL, 128)
    timings = interleave(fits(problem, n_epochs), rounds)
    title = f"fit of {n_epochs} epochs"
    return table(title, problem, timings, ("ms", 1e3), ["MLPRegressor"])


def _defaults(n_rows, rounds) -> dict:
    runs = defaults(Problem(n_rows, SMALL, 1))
    timings = interleave(runs, rounds, warm_up=rounds > 1)
    references = list(runs)[:2]
    where = f"{n_rows:,} rows of 10"
    return table("small fits, defaults", where, timings, ("ms", 1e3), references)


def _once(rounds) -> dict:
    """Milliseconds of CPU time before and after the epochs, and of an epoch."""
    problem = Problem(1_000, SMALL, 1_000)
    print("\nonce: 1,000 rows of 10, an epoch has one step")
    rows = {}
    for name, module in (("sklpos, MLP", MLP), ("sklpos, Stack", Stack)):
        times = [_once_and_again(problem, module) for _ in range(rounds + 1)][1:]
        once, epoch = map(statistics.median, zip(*times, strict=True))
        rows[name] = {"once, ms": 1e3 * once, "per epoch, ms": 1e3 * epoch}
        print(f"{name:34s}{1e3 * once:12.1f}{1e3 * epoch:12.1f}", flush=True)
    return {"title": "once", "problem": "1,000 rows of 10", "rows": rows}


def _once_and_again(problem, module) -> tuple[float, float]:
    X, y = problem.X, problem.y.squeeze()

    def seconds(n_epochs):
        own = {"max_epochs": n_epochs, "random_state": 0}
        start = time.process_time()
        PositiveOutputRegressor(module, **own).fit(X, y)
        return time.process_time() - start

    one, many = seconds(1), seconds(1 + MANY)
    epoch = (many - one) / MANY
    return one - epoch, epoch


FITS = """
import sys, time, warnings
import numpy as np, torch
from sklpos import PositiveOutputRegressor
warnings.simplefilter("ignore")
torch.set_num_threads(1)
for path in sys.argv[1:]:
    data = np.load(path)
    for _ in range(2):  # the first one warms up
        wall, cpu = time.perf_counter(), time.process_time()
        PositiveOutputRegressor(random_state=0).fit(data["X"], data["y"])
        print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def _editions(sizes, rounds) -> list[dict]:
    """Defaults of both editions, which take turns in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        if not _unpack(FIRST_EDITION, Path(folder)):
            print(f"left out, no commit {FIRST_EDITION}: the first edition")
            return []
        paths = {"first edition": Path(folder), "this one": ROOT}
        data = [_save(Path(folder), n_rows) for n_rows in sizes]
        timings = [{name: Timing() for name in paths} for _ in sizes]
        for _ in range(rounds):
            for name, path in paths.items():
                found = _printed(FITS, path, *data)[1::2]
                for own, (wall, cpu) in zip(timings, found, strict=True):
                    own[name].wall.append(wall)
                    own[name].cpu.append(cpu)
    title, unit, references = "default, two editions", ("ms", 1e3), ["first edition"]
    return [
        table(title, f"{n_rows:,} rows of 10", own, unit, references)
        for n_rows, own in zip(sizes, timings, strict=True)
    ]


def _save(folder: Path, n_rows: int) -> str:
    problem, path = Problem(n_rows, SMALL, 1), folder / f"{n_rows}.npz"
    np.savez(path, X=problem.X, y=problem.y.squeeze())
    return str(path)


def _unpack(commit: str, folder: Path) -> bool:
    """Write the package as it was; False where its history is not at hand."""
    if shutil.which("git") is None:
        return False
    command = ["git", "archive", commit, "sklpos"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        return False
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return True


IMPORT = """
import time
import torch, sklearn.neural_network, skorch
start = time.process_time()
import sklpos
first = time.process_time()
sklpos.PositiveOutputRegressor
print(first - start, time.process_time() - start)
"""


def _imports(rounds) -> dict:
    """CPU seconds above those of torch, scikit-learn and skorch, in new processes."""
    found = [_printed(IMPORT, ROOT)[-1] for _ in range(rounds)]
    times = map(statistics.median, zip(*found, strict=True))
    names = "import sklpos", "import sklpos, and its estimator"
    rows = {name: {"s": seconds} for name, seconds in zip(names, times, strict=True)}
    print("\nimport", *(f"{name:34s}{row['s']:12.2f}" for name, row in rows.items()))
    where = "above torch, scikit-learn, skorch"
    return {"title": "import", "problem": where, "rows": rows}


def _printed(code: str, path: Path, *arguments: str) -> list[list[float]]:
    """The numbers that a new process prints, by line; it imports from a path."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=path,  # which Python's own path begins with
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return [[*map(float, line.split())] for line in done.stdout.splitlines()]
