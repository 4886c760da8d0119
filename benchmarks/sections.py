"""The parts of the benchmark: which problems, how many rounds, beside whom.

Each function measures small problems if it is told to be `quick`, prints its tables and
returns them.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.competitors import bare, competitors, installed, mdmm, ours
from benchmarks.estimators import (
    defaults,
    fits,
    predictions,
    repair,
    repaired,
    wide_head,
)
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

# problem, rounds, beside whom (None: all). A step takes as long in a longer epoch: more
# rows are of use only where a table shows that.
STEPS = [
    (Problem(20_000, DEEP, 256), 5, None),
    (Problem(20_000, LARGE, 256), 3, CORE),
    (Problem(1_000, SMALL, 128), 15, None),
    (Problem(10_240, WIDE, 256), 5, None),
    (Problem(20_000, DEEP, 20_000), 5, CORE),
    (Problem(200_000, DEEP, 256), 3, CORE),
]
# epochs, problem, rounds, beside whom
FITS = [
    (20, Problem(20_000, DEEP, 256), 5, fits),
    (20, Problem(20_000, SMALL, 128), 5, fits),
    (20, Problem(20_000, WIDE, 256), 3, repaired),
    (100, Problem(20_000, DEEP, 256), 3, repaired),
    (100, Problem(20_000, SMALL, 128), 3, repaired),
    (100, Problem(20_000, WIDE, 256), 2, repaired),
]
SIZES = [
    *[(n, 1, "float32") for n in (10_000, 100_000, 1_000_000)],
    (100_000, 10, "float32"),
    (1_000_000, 1, "float64"),
    (1_000_000, 1, "float32", "Stack"),
]


def steps(quick: bool) -> list[dict]:
    """Time an epoch, for each of its steps."""
    cases = [(Problem(512, SMALL, 128), 3, None)] if quick else STEPS
    return [*(_steps(*case) for case in cases), *_scalar_constraints(quick)]


def _steps(problem, rounds, only) -> dict:
    runs = competitors(problem, only)
    timings = interleave(runs, rounds)
    return table(
        "one epoch",
        problem,
        timings,
        ("µs per step", 1e6 / problem.n_batches),
        [r for r in (*CORE[:3], "skorch", "cooper-optim") if r in timings],
    )


def _scalar_constraints(quick) -> list[dict]:
    """Of mdmm, on a problem of its own: it takes as long as all others together."""
    if not installed("mdmm"):
        print("left out, not installed: mdmm")
        return []
    problem = Problem(256, SMALL, 128)
    runs = competitors(problem, ["bare loop"]) | {"mdmm": mdmm(problem)}
    unit = ("µs per step", 1e6 / problem.n_batches)
    timings = interleave(runs, 1 if quick else 3)
    return [table("one epoch, mdmm", problem, timings, unit, ["bare loop"])]


def whole_fits(quick: bool) -> list[dict]:
    """Time fits, from arrays to a repaired estimator: short ones, and long ones."""
    cases = [(2, Problem(256, SMALL, 128), 3, fits)] if quick else FITS
    own = _defaults(256, 1) if quick else _defaults(20_000, 2)
    return [*(_fits(*case) for case in cases), own]


def _fits(n_epochs, problem, rounds, runs) -> dict:
    timings = interleave(runs(problem, n_epochs), rounds, warm_up=False)
    title = f"fit of {n_epochs} epochs"
    return table(title, problem, timings, ("ms", 1e3), ["MLPRegressor"])


def _defaults(n_rows, rounds) -> dict:
    runs = defaults(Problem(n_rows, SMALL, 1))
    timings = interleave(runs, rounds, warm_up=False)
    where, references = f"{n_rows:,} rows of 10", [next(iter(runs))]
    return table("defaults", where, timings, ("ms", 1e3), references)


def whole_predictions(quick: bool) -> list[dict]:
    """Time predictions of one row and of many."""
    tables = []
    for n_rows in (1, 1_000) if quick else (1, 100_000):
        problem = Problem(max(n_rows, 500), DEEP, 256)
        timings = interleave(predictions(problem, n_rows), 101 if n_rows == 1 else 11)
        title = f"predict {n_rows:,} {'row' if n_rows == 1 else 'rows'}"
        references = ["bare module", "MLPRegressor"]
        tables.append(table(title, problem, timings, ("ms", 1e3), references))
    return tables


def whole_repair(quick: bool) -> list[dict]:
    """Time the repair beside an epoch, and that of wide heads."""
    problem = Problem(1_000 if quick else 100_000, (100, 100, 1), 128)
    timings = interleave(repair(problem), 5)
    beside = table("repair", problem, timings, ("ms", 1e3), ["one epoch"])
    return [beside, _wide_repair(quick)]


def _wide_repair(quick) -> dict:
    """Heads of many features, most of which hold a row up."""
    n_rows, widths = (500, (20,)) if quick else (10_000, (100, 500, 1_000, 2_000))
    runs = {f"{width:,} features": wide_head(n_rows, width) for width in widths}
    timings = interleave(runs, 1 if quick else 3, warm_up=False)
    title, problem = "repair of a wide head", f"{n_rows:,} rows, 28 % violated"
    return table(title, problem, timings, ("ms", 1e3), [])


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
    unit = ("µs per step", 1e6 / problem.n_batches)
    return table("compiled", problem, interleave(runs, rounds), unit, ["bare loop"])


def sizes(quick: bool) -> list[dict]:
    """Measure time and memory against the rows and the outputs."""
    return [growth([(1_000, 1, "float32")] if quick else SIZES)]


def out_of_core(quick: bool) -> list[dict]:
    """Measure a fit on a file, in a process of its own, whose memory is its own."""
    module = "benchmarks.out_of_core"
    print(f"\n{module}")
    rows = {}
    for name in ("MLP", "Stack"):
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "result.json"
            command = [sys.executable, "-m", module, "--output", str(output)]
            command += ["--module", name]
            command += ["--rows", "20000", "--chunk", "5000"] if quick else []
            subprocess.run(command, check=True)
            result = json.loads(output.read_text())
        rows[f"{result.pop('rows'):,} rows of 10, {name}"] = result
    return [{"title": "out of core", "rows": rows}]
