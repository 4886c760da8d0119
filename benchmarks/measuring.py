"""Interleaved timings and their medians, and the peak memory of a fresh process."""

import gc
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field


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


def interleave(runs: dict, repeats: int) -> dict[str, Timing]:
    """Time each of some functions once a round, for some rounds.

    A burst of other work on the machine thus hits all of them alike.
    """
    timings = {name: Timing() for name in runs}
    for run in runs.values():
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


PEAK = """
def kilobytes(field):
    with open("/proc/self/status") as status:
        return next(int(row.split()[1]) for row in status if row.startswith(field))
{setup}
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")  # forget the peak so far
before = kilobytes("VmRSS")
{work}
print((kilobytes("VmHWM") - before) / 1024)
"""


def extra_memory(setup: str, work: str) -> float:
    """Megabytes that `work` needs above what `setup` holds; on Linux, a new process."""
    script = PEAK.format(setup=setup, work=work)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return float(done.stdout)
