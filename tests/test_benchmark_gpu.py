"""The benchmark of a GPU runs without one; nothing that it measures is asserted."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_device import AVAILABLE

ROOT = Path(__file__).parents[1]
SECTIONS = {
    "tests": "## Tests marked `cuda`",
    "waits": "## Kernels and waits",
    "guarantee": "## Guarantee",
    "graphs": "## The step as a CUDA graph",
    "times": "### 512 rows, 128 per step",
}


def page_of(tmp_path, *options) -> str:
    page = tmp_path / "GPU.md"
    command = [sys.executable, "-m", "benchmarks.gpu", "--output", str(page), *options]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_part_runs_on_the_cpu(tmp_path):
    page = page_of(tmp_path, "--device", "cpu", "--quick")
    assert "A trial run, which measures nothing." in page
    assert "Failed" not in page
    assert all(title in page for title in SECTIONS.values())
    assert re.search(r"\d+ passed, 0 failed, \d+ skipped", page)
    # all models that hold everywhere, by their own predict
    rows = re.findall(r"^\| (?:Stack|nonneg).* \| 0 of \d+ \| 0 of \d+ ", page, re.M)
    assert len(rows) == 12


@pytest.mark.slow
@pytest.mark.skipif(not AVAILABLE, reason="this torch has no such devices")
def test_every_part_runs_on_the_imitated_device(tmp_path):
    # torch's profiler has nothing to see there, and takes long
    sections = SECTIONS.keys() - {"tests", "waits"}
    page = page_of(tmp_path, "--device", "fakegpu", "--quick", "--section", *sections)
    assert "Not run: tests, waits." in page
    assert "Failed" not in page
    assert all(SECTIONS[name] in page for name in sections)
    assert "not on this device" in page


def test_what_the_time_does_not_allow_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import gpu_guarantee, gpu_times, gpu_waits
    from benchmarks.gpu import Run

    over = Run("cpu", quick=True, limit=-1.0)
    monkeypatch.setattr(gpu_times, "_warm_up", lambda *args: None)
    assert "Left out, as the time was up: 10-256-256-1" in gpu_times.times(over)
    assert "Left out, as the time was up: augm" in gpu_guarantee.guarantee(over)
    assert gpu_waits.waits(over).count("left out") == 3
    assert gpu_waits.graphs(over).count("left out") == 3


def test_a_failing_section_is_on_the_page(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.gpu import Run, attempt, page

    def times(run):
        raise RuntimeError("out of memory")

    run = Run("cpu", quick=False)
    found = page(run, {"times": attempt(times, run)})
    assert "Failed: `RuntimeError: out of memory`" in found
    assert "Not run: tests, waits, guarantee, graphs." in found
