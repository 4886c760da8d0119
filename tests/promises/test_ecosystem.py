"""The blocks of the pages that need further packages (fenced as ``py``) run, too."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"```py(?:thon)?\n(.*?)```", re.S)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of those packages
]


@pytest.fixture
def run_page(tmp_path, monkeypatch):
    """Run all code of a page, in order; return what it defines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")

    def run(name, *packages):
        for package in packages:
            pytest.importorskip(package)
        names = {"__name__": "page"}
        for code in BLOCK.findall((DOCS / name).read_text(encoding="utf-8")):
            exec(code, names)
        return names

    return run


def test_monitor(run_page, tmp_path, capsys):
    needed = "sklearn.callback", "rich", "tensorboard", "matplotlib"
    names = run_page("how-to/monitor.md", *needed)
    assert len(names["epochs"]) == 5 * (2 * 3 + 1)
    assert "PositiveOutputRegressor - fit" in capsys.readouterr().out
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "runs")).Reload()
    assert len(board.Scalars("max_violation")) == 5


def test_tune(run_page):
    study = run_page("how-to/tune.md", "optuna", "matplotlib")["study"]
    broken = {
        (trial.params["strategy"], trial.constraints["violation_rate"] > 0)
        for trial in study.trials
    }
    assert broken == {("penalty", True), ("activation", False)}
    assert study.best_params["strategy"] == "activation"
