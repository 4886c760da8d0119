"""``make bench``: its runner, its pages, and what is committed of them."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    names = "__main__", "registry", "report", "targets"
    main, *others = (importlib.import_module(f"benchmarks.{name}") for name in names)
    return {"main": main} | dict(zip(names[1:], others, strict=True))


def test_the_page_of_results_is_short_and_has_every_target(bench):
    page = (PAGES / "RESULTS.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) <= 120
    rows = [line.strip("|").split(" | ") for line in page.splitlines()]
    written = [(row[0].strip(), row[2:4]) for row in rows if len(row) == 6]
    promised = [
        (target.what, [target.reference, f"{target.limit:,g} {target.unit}".strip()])
        for target in bench["targets"].TARGETS
    ]
    assert [entry for entry in promised if entry not in written] == []
    assert len(written) == len(promised) + 1  # the head
    assert "failed" not in page


def test_every_section_has_its_pages(bench):
    names = sorted(bench["registry"].SECTIONS)
    for folder in (PAGES / "results", ROOT / "docs/benchmarks/results"):
        assert sorted(path.stem for path in folder.iterdir()) == names
    for name in names:
        page = ROOT / f"docs/benchmarks/results/{name}.md"
        assert f"benchmarks/results/{name}.md" in page.read_text(encoding="utf-8")


def timing(cpu, **ratio):
    return {"median": cpu, "cpu": cpu, "ratio": ratio}


def section(*tables, error=None):
    times = {"load": 1.0, "wall": 2.0, "cpu": 3.0}
    own = {"environment": {"python": "3"}, "tables": list(tables), "error": error}
    return times | own


def test_targets_are_read_from_the_tables(bench, monkeypatch):
    targets = bench["targets"]
    limits = {"met": 1.5, "missed": 1.4}
    ratios = [
        targets.Ratio(name, "race", "n 1", "own", "other", limit)
        for name, limit in limits.items()
    ]
    memory = "memory", "growth", "", "n 10, float32", ("fit", "repair"), 60, "B"
    unknown = targets.Ratio("unknown", "race", "n 2", "own", "other", 1)
    every = [*ratios, targets.Figure(*memory), unknown]
    monkeypatch.setattr(bench["report"], "TARGETS", every)
    race = {"title": "race", "problem": "n 1, net", "unit": "ms"}
    race["rows"] = {"own": timing(3.0), "other": timing(2.0)}
    figures = {"n 10, float32": {"fit": 40.0, "repair": 61.0}}
    growth = {"title": "growth", "rows": figures}
    page = bench["report"].pages({"steps": section(race, growth)})["RESULTS.md"]
    for line in (
        "| met | n 1, net | other | 1.5 | 1.50 | met |",
        "| missed | n 1, net | other | 1.4 | 1.50 | **MISSED** |",
        "| memory | n 10, float32 |  | 60 B | 61 B | **MISSED** |",
        "| unknown | n 2 | other | 1 |  | not measured |",
    ):
        assert line in page


def test_a_table_of_few_rows_is_turned(bench):
    table = {"title": "t", "rows": {"one": {"a": 1.0, "b": 1234.5, "c": "no"}}}
    page = bench["report"].pages({"file": section(table)})["results/file.md"]
    for line in ("|  | one |", "| a | 1 |", "| b | 1,234 |", "| c | no |"):
        assert line in page


def test_a_section_that_fails_leaves_the_others(bench, tmp_path, monkeypatch, capsys):
    main, registry = bench["main"], bench["registry"]
    rows = {"one": {"MB": np.float32(2)}}
    sections = {
        "steps": registry.Section("Steps", "benchmarks.nowhere:steps", ""),
        "fit": SimpleNamespace(measure=lambda quick: [{"title": "t", "rows": rows}]),
        "file": SimpleNamespace(measure=lambda quick: [main]),  # no JSON
    }
    monkeypatch.setattr(main, "SECTIONS", sections)
    output = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--output", str(output)])
    with pytest.raises(SystemExit, match="failed: steps, file"):
        main.main()
    report = json.loads(output.read_text())
    assert "No module named 'benchmarks.nowhere'" in report["steps"]["error"]
    assert report["fit"]["error"] is None
    assert "| one | 2 |" in (tmp_path / "results/fit.md").read_text()
    assert "[Training steps](results/steps.md): failed" in (
        (tmp_path / "RESULTS.md").read_text()
    )
    assert "This section failed" in (tmp_path / "results/steps.md").read_text()
    assert "No module named" in capsys.readouterr().err
