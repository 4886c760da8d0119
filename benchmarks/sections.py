"""The parts of the benchmark: which problems, how many rounds, beside whom.

Each function measures small problems if it shall be `quick`, prints its tables and
returns them.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import torch

from benchmarks.competitors import bare, competitors, installed, mdmm, ours
from benchmarks.estimators import fits, predictions, repair, wide_head
from benchmarks.measuring import interleave, table
from benchmarks.problem import DEEP, LARGE, SMALL, WIDE, Problem
from benchmarks.scaling import growth

DEFAULT = "sklpos, augmented_lagrangian"
CORE = (
    "bare loop",
    "bare loop + penalty",
    "MLPRegressor",
    "sklpos, unconstrained",
    "sklpos, penalty",
    DEFAULT,
)
FEW = ("bare loop", "MLPRegressor", DEFAULT)

# problem, rounds, beside whom (None: all). An epoch of the large net takes 22 s at
# n = 2e5, where its steps are those of n = 2e4: only one batch size, once.
STEPS = [
    *[(Problem(1_000, SMALL, batch), 15, None) for batch in (128, 256, 1_000)],
    *[(Problem(1_000, DEEP, batch), 15, None) for batch in (128, 256, 1_000)],
    *[(Problem(1_000, LARGE, batch), 3, None) for batch in (128, 256, 1_000)],
    *[(Problem(20_000, SMALL, batch), 5, None) for batch in (128, 256, 20_000)],
    *[(Problem(20_000, DEEP, batch), 5, None) for batch in (128, 256, 20_000)],
    (Problem(10_240, WIDE, 256), 5, None),
    *[(Problem(20_000, LARGE, batch), 2, FEW) for batch in (128, 20_000)],
    (Problem(20_000, LARGE, 256), 3, CORE),
    *[(Problem(200_000, SMALL, batch), 2, CORE) for batch in (128, 256, 200_000)],
    *[(Problem(200_000, DEEP, batch), 2, CORE) for batch in (128, 256, 200_000)],
    (Problem(200_000, LARGE, 256), 1, FEW),
]
FITS = [
    (Problem(1_000, SMALL, 128), 5),
    (Problem(20_000, SMALL, 128), 3),
    (Problem(20_000, DEEP, 256), 3),
    (Problem(20_000, WIDE, 256), 3),
]
SIZES = [
    *[(n, 1, "float32") for n in (1_000, 10_000, 100_000, 1_000_000)],
    *[(100_000, n_outputs, "float32") for n_outputs in (2, 10, 20)],
    (1_000_000, 1, "float64"),
]


def steps(quick: bool) -> list[dict]:
    """Time an epoch, for each of its steps."""
    cases = [(Problem(512, SMALL, 128), 3, None)] if quick else STEPS
    return [_steps(*case) for case in cases]


def _steps(problem, rounds, only) -> dict:
    runs = competitors(problem, only)
    timings = interleave(runs, rounds, warm_up=rounds > 1)
    return table(
        "one epoch",
        problem,
        timings,
        ("us a step", 1e6 / problem.n_batches),
        [r for r in (*CORE[:3], "skorch", "cooper-optim") if r in timings],
    )


def scalar_constraints(quick: bool) -> list[dict]:
    """Time mdmm, on a problem of its own: it takes as long as all others together."""
    if not installed("mdmm"):
        print("left out, not installed: mdmm")
        return []
    problem = Problem(256, SMALL, 128)
    runs = competitors(problem, ["bare loop"]) | {"mdmm": mdmm(problem)}
    unit = ("us a step", 1e6 / problem.n_batches)
    timings = interleave(runs, 1 if quick else 3)
    return [table("one epoch", problem, timings, unit, ["bare loop"])]


def whole_fits(quick: bool) -> list[dict]:
    """Time fits, from arrays to a repaired estimator: short ones, and the default."""
    cases = [(2, (Problem(256, SMALL, 128), 3))] if quick else product((20, 100), FITS)
    return [_fits(n_epochs, *case) for n_epochs, case in cases]


def _fits(n_epochs, problem, rounds) -> dict:
    timings = interleave(fits(problem, n_epochs), rounds, warm_up=n_epochs <= 20)
    title = f"fit of {n_epochs} epochs"
    return table(title, problem, timings, ("ms", 1e3), ["MLPRegressor"])


def whole_predictions(quick: bool) -> list[dict]:
    """Time predictions of one row and of many."""
    tables = []
    for n_rows in (1, 1_000) if quick else (1, 100_000):
        problem = Problem(max(n_rows, 500), DEEP, 256)
        timings = interleave(predictions(problem, n_rows), 101 if n_rows == 1 else 11)
        title, references = f"predict {n_rows:,} rows", ["bare module", "MLPRegressor"]
        tables.append(table(title, problem, timings, ("ms", 1e3), references))
    return tables


def whole_repair(quick: bool) -> list[dict]:
    """Time the repair, beside an epoch."""
    problem = Problem(1_000 if quick else 100_000, (100, 100, 1), 128)
    timings = interleave(repair(problem), 3)
    return [table("repair", problem, timings, ("ms", 1e3), ["one epoch"])]


def wide_repair(quick: bool) -> list[dict]:
    """Time the repair of heads of many features, most of which hold a row up."""
    n_rows, widths = (500, (20,)) if quick else (10_000, (100, 500, 1_000, 2_000))
    runs = {f"{width:,} features": wide_head(n_rows, width) for width in widths}
    timings = interleave(runs, 1 if quick else 3, warm_up=False)
    title, problem = "repair of a wide head", f"{n_rows:,} rows, 28 % violated"
    return [table(title, problem, timings, ("ms", 1e3), [])]


def compiled(quick: bool) -> list[dict]:
    """Time ``compile=True``, without the compilation."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        print(
            f"\nleft out, torch.compile needs a C++ compiler: compile=True ({compiler})"
        )
        return []
    cases = [(Problem(20_480, DEEP, 256), 5), (Problem(2_560, LARGE, 256), 3)]
    return [_compiled(*case) for case in ([] if quick else cases)]


def _compiled(problem, rounds) -> dict:
    runs = {
        "bare loop": bare(problem),
        "bare loop, compiled": bare(problem, compiler=torch.compile),
        "sklpos": ours(problem, "augmented_lagrangian"),
        "sklpos, compile=True": ours(problem, "augmented_lagrangian", compile=True),
    }
    unit = ("us a step", 1e6 / problem.n_batches)
    return table("compiled", problem, interleave(runs, rounds), unit, ["bare loop"])


def sizes(quick: bool) -> list[dict]:
    """Measure time and memory against the rows and the outputs."""
    return [growth([(1_000, 1, "float32")] if quick else SIZES)]


def out_of_core(quick: bool) -> list[dict]:
    """Measure a fit on a file, in a process of its own, whose memory is its own."""
    module = "benchmarks.out_of_core"
    print(f"\n{module}")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        command = [sys.executable, "-m", module, "--output", str(output)]
        command += ["--rows", "20000", "--chunk", "5000"] if quick else []
        subprocess.run(command, check=True)
        result = json.loads(output.read_text())
    name = f"{result.pop('rows'):,} rows of 10"
    return [{"title": "out of core", "rows": {name: result}}]


SECTIONS = {
    "steps": steps,
    "mdmm": scalar_constraints,
    "fit": whole_fits,
    "predict": whole_predictions,
    "repair": whole_repair,
    "wide": wide_repair,
    "compile": compiled,
    "memory": sizes,
    "file": out_of_core,
}
