"""``python -m benchmarks.gpu``: tests, guarantees and times on a GPU, in six minutes.

Writes ``benchmarks/GPU.md`` after each section, with what was measured by then. The
sections share one deadline: what does not fit in is named on the page.

``--device cpu --quick`` runs every part without a GPU, and so does ``--device fakegpu``
for the device that the tests imitate. Neither measures anything.
"""

import argparse
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.gpu_guarantee import guarantee
from benchmarks.gpu_tests import cuda_tests
from benchmarks.gpu_times import times
from benchmarks.gpu_waits import graphs, waits

ROOT = Path(__file__).parents[1]
SECTIONS = {
    "tests": cuda_tests,
    "waits": waits,
    "guarantee": guarantee,
    "graphs": graphs,
    "times": times,
}
# Seconds until the last section begins nothing new, of the six minutes.
LIMIT = 330


@dataclass
class Run:
    """What the sections know: the device, how large, and how long."""

    device: str
    quick: bool
    limit: float = LIMIT
    start: float = field(default_factory=time.perf_counter)

    @property
    def is_cuda(self) -> bool:
        return torch.device(self.device).type == "cuda"

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.start + self.limit - time.perf_counter()

    def wait(self) -> None:
        """Wait until the device has done everything that it was asked for."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)


def environment(run: Run) -> dict[str, str]:
    """The machine and the versions that the figures belong to."""
    found = {"device": run.device}
    if run.is_cuda:
        properties = torch.cuda.get_device_properties(run.device)
        found["GPU"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        found["CUDA"] = str(torch.version.cuda)
    found["processor"] = f"{platform.machine()}, {os.cpu_count()} cores"
    found["Python"] = platform.python_version()
    packages = ("sklpos", "torch", "scikit-learn", "skorch", "numpy")
    return found | {name: version(name) for name in packages}


@contextmanager
def usable(device: str) -> Iterator[None]:
    """Make the imitated device known, if that is asked for."""
    if device != "fakegpu":
        yield
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from fake_device import fake_device

    with fake_device():
        yield


def page(run: Run, parts: dict[str, str]) -> str:
    """The page, of the sections that have ended."""
    settings = ", ".join(f"{name} {value}" for name, value in environment(run).items())
    head = [
        "# On a GPU",
        f"By `python -m benchmarks.gpu`: {settings}; one CPU thread, float32 unless a "
        "row says otherwise.",
    ]
    if run.quick or not run.is_cuda:
        head.append("**A trial run, which measures nothing.**")
    missing = [name for name in SECTIONS if name not in parts]
    if missing:
        head.append(f"Not run: {', '.join(missing)}.")
    return "\n\n".join([*head, *parts.values()]) + "\n"


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu, fakegpu")
    parser.add_argument("--quick", action="store_true", help="small, to see it run")
    parser.add_argument("--section", choices=SECTIONS, nargs="+", default=[*SECTIONS])
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/GPU.md"))
    return parser.parse_args(words)


def attempt(section, run: Run) -> str:
    """What a section found; a page with an error says more than no page."""
    with warnings.catch_warnings():
        # Fits of a few epochs end early and far from their bounds.
        warnings.simplefilter("ignore")
        try:
            return section(run)
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            return f"## {section.__name__}\n\nFailed: `{message}`"


def main(words: list[str] | None = None) -> None:
    """Run the sections, and write the page after each of them."""
    arguments = read_arguments(words)
    torch.set_num_threads(1)
    with usable(arguments.device):
        run = Run(arguments.device, arguments.quick, arguments.limit)
        # The first tensor says whether the device exists.
        torch.ones(1, device=run.device)
        parts: dict[str, str] = {}
        for name in arguments.section:
            parts[name] = attempt(SECTIONS[name], run)
            arguments.output.write_text(page(run, parts), encoding="utf-8")
            print(f"{parts[name]}\n\n[{name}: {run.left:.0f} s left]\n", flush=True)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
