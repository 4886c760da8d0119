"""``python -m benchmarks``: prints tables, writes the figures to a JSON file.

A run that is not quick makes ``RESULTS.md`` of all that the file has, beside it.
"""

import argparse
import json
import os
import platform
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.report import markdown
from benchmarks.sections import SECTIONS

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


def run(name: str, quick: bool) -> dict:
    """Measure one section."""
    start, load = time.perf_counter(), round(os.getloadavg()[0], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that stop after a few epochs
        tables = SECTIONS[name](quick)
    print(f"\n[{name}: {time.perf_counter() - start:.0f} s]", flush=True)
    return {"environment": environment(), "load": load, "tables": tables}


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


def main() -> None:
    """Run the sections asked for, and write each when it is done."""
    arguments = read_arguments()
    torch.set_num_threads(1)
    print(", ".join(f"{key} {value}" for key, value in environment().items()))
    print("1 thread, float32 unless it says otherwise")
    path = arguments.output
    report = json.loads(path.read_text()) if path.exists() else {}
    for name in arguments.section:
        report[name] = run(name, arguments.quick)
        path.write_text(json.dumps(report, indent=1) + "\n")
    if not arguments.quick:
        path.with_name("RESULTS.md").write_text(markdown(report) + "\n")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
