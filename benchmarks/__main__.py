"""``python -m benchmarks``: prints tables, writes the figures to a JSON file."""

import argparse
import json
import platform
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.competitors import Problem, all_competitors, installed, mdmm
from benchmarks.estimators import fits, memory, predictions, repair
from benchmarks.measuring import interleave

PACKAGES = ("sklpos", "torch", "scikit-learn", "skorch", "numpy")
PEERS = ("cooper-optim", "mdmm", "humancompatible-train")
SMALL, DEEP = (10, 100, 1), (10, 64, 64, 1)
LARGE = (784, 784, 784, 2)

# (problem, rounds); an epoch is many steps, so that what comes once an epoch is small
STEPS = [
    (Problem(10_240, SMALL, 128), 15),
    (Problem(20_480, DEEP, 256), 15),
    (Problem(10_240, (10, 256, 256, 1), 256), 7),
    (Problem(2_560, LARGE, 256), 5),
    (Problem(10_240, DEEP, 10_240), 15),
]
FITS = [
    (Problem(1_000, SMALL, 128), 5),
    (Problem(20_000, SMALL, 128), 3),
    (Problem(20_000, DEEP, 256), 3),
    (Problem(20_000, (10, 256, 256, 1), 256), 3),
]
MEMORY = [(n, k) for n in (1_000, 10_000, 100_000, 1_000_000) for k in (1, 10)]
QUICK_MEMORY = [(1_000, 1)]
QUICK_STEPS = [(Problem(512, SMALL, 128), 3)]
QUICK_FITS = [(Problem(256, SMALL, 128), 3)]


def table(title, problem, timings, unit, references):
    """Print medians, and the ratios (of CPU time) to some of the rows; return them."""
    print(f"\n{title}: {problem}")
    print(
        f"{'':42s}{unit[0]:>10s}{'cpu':>10s}" + "".join(f"{r:>22s}" for r in references)
    )
    rows = {}
    for name, timing in timings.items():
        row = {
            "median": timing.median * unit[1],
            "cpu": timing.median_cpu * unit[1],
            "ratio": {r: timing.ratio(timings[r]) for r in references},
        }
        rows[name] = row
        ratios = "".join(f"{row['ratio'][r]:{len(r) + 4}.2f}" for r in references)
        print(f"{name:34s}{row['median']:12.1f}{row['cpu']:12.1f}{ratios}")
    sys.stdout.flush()
    return {"title": title, "problem": str(problem), "unit": unit[0], "rows": rows}


def steps(problem, rounds):
    timings = interleave(all_competitors(problem), rounds)
    unit = ("us a step", 1e6 / problem.n_batches)
    references = ["bare loop", "bare loop + penalty", "MLPRegressor", "skorch"]
    if "cooper-optim" in timings:
        references.append("cooper-optim")
    return table("one epoch", problem, timings, unit, references)


def scalar_constraints(problem):
    """mdmm, on a problem of its own: it takes as long as all others together."""
    runs = {"bare loop": all_competitors(problem)["bare loop"], "mdmm": mdmm(problem)}
    unit = ("us a step", 1e6 / problem.n_batches)
    return table("one epoch", problem, interleave(runs, 3), unit, ["bare loop"])


def run(quick: bool) -> list[dict]:
    results = [steps(*case) for case in (QUICK_STEPS if quick else STEPS)]
    if installed("mdmm"):
        results.append(scalar_constraints(Problem(256, SMALL, 128)))
    else:
        print("left out, not installed: mdmm")
    for problem, rounds in QUICK_FITS if quick else FITS:
        timings = interleave(fits(problem, n_epochs=2 if quick else 20), rounds)
        results.append(table("fit", problem, timings, ("ms", 1e3), ["MLPRegressor"]))
    sizes = (1, 1_000) if quick else (1, 100_000)
    for n_rows in sizes:
        problem = Problem(max(n_rows, 500), DEEP, 256)
        timings = interleave(predictions(problem, n_rows), 21)
        title, references = f"predict {n_rows:,} rows", ["bare module", "MLPRegressor"]
        results.append(table(title, problem, timings, ("ms", 1e3), references))
    problem = Problem(1_000 if quick else 100_000, (100, 100, 1), 128)
    timings = interleave(repair(problem), 3)
    results.append(table("repair", problem, timings, ("ms", 1e3), ["one epoch"]))
    results.append(memory(QUICK_MEMORY if quick else MEMORY))
    return results


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *PEERS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, to see it run")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    print(f"{machine}, 1 thread, float32")
    print(", ".join(f"{name} {number}" for name, number in versions().items()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that stop after a few epochs
        results = run(arguments.quick)
    report = {"machine": machine, "versions": versions(), "results": results}
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
