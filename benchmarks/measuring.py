"""Interleaved timings and their medians, and the peak memory of a fresh process."""

import gc
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field


def table(title, problem, timings, unit, references) -> dict:
    """Print medians, and the ratios (of CPU time) to some of the rows; return them."""
    print(f"\n{title}: {problem}")
    widths = [max(len(reference) + 2, 8) for reference in references]
    heads = [f"{r:>{width}s}" for r, width in zip(references, widths, strict=True)]
    print(f"{'':34s}{unit[0]:>12s}{'cpu':>12s}", *heads, sep="")
    rows = {}
    for name, timing in timings.items():
        row = {
            "median": timing.median * unit[1],
            "cpu": timing.median_cpu * unit[1],
            "ratio": {r: timing.ratio(timings[r]) for r in references},
        }
        rows[name] = row
        ratios = zip(row["ratio"].values(), widths, strict=True)
        cells = [f"{ratio:{width}.2f}" for ratio, width in ratios]
        print(f"{name:34s}{row['median']:12.1f}{row['cpu']:12.1f}", *cells, sep="")
    sys.stdout.flush()
    return {"title": title, "problem": str(problem), "unit": unit[0], "rows": rows}


@dataclass
class Timing:
    """Seconds that one thing took, again and again."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.wall)

    @property
    def median_cpu(self) -> float:
        return statistics.median(self.cpu)

    def ratio(self, other: "Timing") -> float:
        """The median ratio of CPU times to those that were measured in the same round.

        Where others use the machine it is far steadier than the ratio of the medians,
        and than wall time.
        """
        pairs = zip(self.cpu, other.cpu, strict=True)
        return statistics.median(own / its for own, its in pairs)


def interleave(runs: dict, repeats: int, warm_up: bool = True) -> dict[str, Timing]:
    """Time each of some functions once a round, for some rounds.

    A burst of other work on the machine thus hits all of them alike.
    """
    timings = {name: Timing() for name in runs}
    for run in runs.values() if warm_up else ():
        run()  # caches, and buffers of the optimizers
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, run in runs.items():
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                timings[name].wall.append(time.perf_counter() - wall)
                timings[name].cpu.append(time.process_time() - cpu)
    finally:
        gc.enable()
    return timings


COST = """
import time
def kilobytes(field):
    with open("/proc/self/status") as status:
        return next(int(row.split()[1]) for row in status if row.startswith(field))
{setup}
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")  # forget the peak so far
before, start = kilobytes("VmRSS"), time.process_time()
{work}
print(time.process_time() - start, (kilobytes("VmHWM") - before) / 1024)
"""


def cost(setup: str, work: str) -> tuple[float, float]:
    """CPU seconds of `work`, and the megabytes it needs above what `setup` holds.

    In a new process, on Linux.
    """
    done = subprocess.run(
        [sys.executable, "-c", COST.format(setup=setup, work=work)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    seconds, megabytes = map(float, done.stdout.split()[-2:])
    return seconds, megabytes
