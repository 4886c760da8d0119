"""``python -m benchmarks``: prints tables, and writes figures and pages.

The figures go to a JSON file. A run that is not quick makes ``RESULTS.md`` beside it,
and the pages in ``results``, of all that the file has.
"""

import argparse
import json
import os
import platform
import sys
import time
import traceback
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.registry import SECTIONS
from benchmarks.report import pages

PACKAGES = ("sklpos", "torch", "scikit-learn", "skorch", "numpy")
PEERS = ("cooper-optim", "mdmm", "humancompatible-train")


def environment() -> dict[str, str]:
    """Return the processor and the versions that figures belong to."""
    capability = torch.backends.cpu.get_cpu_capability()
    found = {
        "machine": f"{platform.machine()}, {capability}",
        "python": platform.python_version(),
    }
    for name in (*PACKAGES, *PEERS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def cpu_time() -> float:
    """Seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def run(name: str, quick: bool) -> dict:
    """Measure one section; if it fails, its error stands for its tables."""
    result = {"environment": environment(), "load": os.getloadavg()[0]}
    wall, cpu = time.perf_counter(), cpu_time()
    tables, error = [], None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that stop after a few epochs
            text = json.dumps(SECTIONS[name].measure(quick), default=float)
            tables = json.loads(text)
    except Exception as failure:  # the other sections still run
        traceback.print_exc()
        error = f"{type(failure).__name__}: {failure}"
    wall, cpu = time.perf_counter() - wall, cpu_time() - cpu
    print(f"\n[{name}: {wall:.0f} s, {cpu:.0f} s of CPU]", flush=True)
    return result | {"wall": wall, "cpu": cpu, "tables": tables, "error": error}


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, to see it run")
    parser.add_argument(
        "--section",
        choices=SECTIONS,
        nargs="+",
        default=list(SECTIONS),
        help="measure these only; the file keeps what it has of the others",
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results.json"))
    return parser.parse_args()


def write_pages(report: dict, folder: Path) -> None:
    """Write the pages of a report."""
    for name, text in pages(report).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def main() -> None:
    """Run the sections asked for, and write each when it is done."""
    arguments = read_arguments()
    torch.set_num_threads(1)
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print("1 thread, float32 unless it says otherwise")
    path, start = arguments.output, time.perf_counter()
    partial = len(set(arguments.section)) < len(SECTIONS)
    report = json.loads(path.read_text()) if partial and path.exists() else {}
    for name in arguments.section:
        report[name] = run(name, arguments.quick)
        path.write_text(json.dumps(report, indent=1) + "\n")
    if not arguments.quick:
        write_pages(report, path.parent)
    minutes = (time.perf_counter() - start) / 60
    print(f"\nwritten to {path}, after {minutes:.1f} minutes")
    if failed := [name for name in arguments.section if report[name]["error"]]:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
