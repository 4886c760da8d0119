"""The benchmarks run; what they measure is asserted nowhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_quick_run_prints_tables_and_writes_json(tmp_path):
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
    tables = [table for section in report.values() for table in section["tables"]]
    titles = [table["title"] for table in tables]
    for title in ("one epoch", "fit", "predict 1 rows", "repair", "growth"):
        assert title in titles
    steps = report["steps"]["tables"][0]["rows"]
    assert {"bare loop", "skorch", "MLPRegressor"} <= steps.keys()
    assert all(row["median"] > 0 and row["cpu"] > 0 for row in steps.values())
    assert "one epoch" in done.stdout


@pytest.mark.slow
def test_a_section_keeps_the_others(tmp_path):
    output = tmp_path / "results.json"
    output.write_text('{"memory": {"tables": []}}')
    command = [sys.executable, "-m", "benchmarks", "--quick", "--section", "predict"]
    subprocess.run([*command, "--output", str(output)], cwd=ROOT, check=True)
    assert json.loads(output.read_text()).keys() == {"memory", "predict"}
