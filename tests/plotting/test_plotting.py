"""The displays draw what the data say; without matplotlib they say what is missing."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sklpos.plotting
from sklpos.metrics import SCORERS, best_feasible
from sklpos.plotting import (
    ConstraintHistoryDisplay,
    PositivityDisplay,
    StrategyComparisonDisplay,
)

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted(small, data):
    """A pipeline whose head the repair had to move."""
    model = small(strategy="unconstrained", max_epochs=30)
    return make_pipeline(StandardScaler(), model).fit(data.X, data.Y)


def xy(line):
    return np.array(line.get_data(), dtype=float)


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_history_is_that_of_the_fit(fitted):
    display = ConstraintHistoryDisplay.from_estimator(fitted)
    history = fitted[-1].history_
    assert list(display.axes_) == ["objective", "violation", "multipliers", "alpha"]
    columns = ["objective", "max_violation", "max_multiplier", "alpha"]
    for panel, column in zip(display.axes_.values(), columns, strict=True):
        epochs, values = xy(panel.lines[0])
        assert epochs.tolist() == list(range(1, 31))
        assert values.tolist() == history[:, column]
    assert (
        display.axes_["violation"].lines[1].get_ydata()[-1]
        == (history[-1, "violation_rate"])
    )
    assert display.figure_ is display.ax_.figure


def test_history_shows_what_was_held_out_and_a_growing_alpha(small, data):
    model = small(early_stopping=True, alpha=0.1, validation_fraction=0.3)
    model.fit(data.X, data.y)
    axes = ConstraintHistoryDisplay.from_history(model.history_).axes_
    assert labels(axes["objective"]) == ["training", "held out"]
    assert xy(axes["objective"].lines[1])[1].tolist() == model.history_[:, "valid_loss"]
    rows = [{"alpha": 2.0**epoch, "max_violation": 0.0} for epoch in range(9)]
    axes = ConstraintHistoryDisplay(rows).plot().axes_
    assert axes["alpha"].get_yscale() == "log"
    assert axes["violation"].get_yscale() == "symlog"
    assert axes["violation"].get_ylim()[0] == 0


def test_history_divides_the_axes_it_is_given(fitted):
    import matplotlib.pyplot as plt

    figure, (ax, other) = plt.subplots(1, 2)
    display = ConstraintHistoryDisplay.from_estimator(fitted, ax=ax, lw=3)
    assert (display.ax_, display.figure_) == (ax, figure)
    assert not other.lines
    assert display.axes_["alpha"].lines[0].get_linewidth() == 3
    with pytest.raises(ValueError, match="ax must be a subplot"):
        ConstraintHistoryDisplay.from_estimator(
            fitted, ax=figure.add_axes([0, 0, 1, 1])
        )
    middle = other.get_position().x0
    assert all(panel.get_position().x1 < middle for panel in display.axes_.values())


@pytest.mark.parametrize("output", [0, 1])
def test_positivity_before_and_after_the_repair(fitted, data, output):
    display = PositivityDisplay.from_estimator(fitted, data.X, output=output)
    raw = make_pipeline(StandardScaler(), fitted[-1].__sklearn_clone__())
    raw[-1].set_params(repair=None)
    before = raw.fit(data.X, data.Y).predict(data.X)[:, output]
    after = fitted.predict(data.X)[:, output]
    rank, drawn = xy(display.before_)
    np.testing.assert_allclose(drawn[np.argsort(rank)], np.sort(before))
    np.testing.assert_allclose(xy(display.points_)[1], after)
    assert (before < 0).any()
    assert display.outside_ is None
    assert labels(display.ax_) == [
        f"as trained: {np.sum(before < 0)} of 40 rows below 0",
        "repaired: 0 of 40 rows below 0",
    ]


def test_rows_outside_the_bound_are_marked():
    y_pred = np.array([3.0, 0.5, np.nan, 1.0, -2.0])
    display = PositivityDisplay.from_predictions(y_pred, lower_bound=1.0)
    rank, marked = xy(display.outside_)
    np.testing.assert_array_equal(marked, [0.5, np.nan, -2.0])
    assert rank.tolist() == [1, 4, 0]
    assert repr(display) == "PositivityDisplay(3 of 5 rows below 1)"
    assert "3 of 5 rows below 1" in labels(display.ax_)


def shaded(display):
    """Return the ends of what is shaded, along the predictions."""
    across = display.ax_.get_ylabel() != "prediction"
    return [
        (patch.get_x(), patch.get_x() + patch.get_width())
        if across
        else (patch.get_y(), patch.get_y() + patch.get_height())
        for patch in display.ax_.patches
    ]


def test_what_is_outside_the_bound_is_shaded():
    low = PositivityDisplay.from_predictions([-1.0, 3.0], lower_bound=0.5)
    assert shaded(low) == [(low.ax_.get_ylim()[0], 0.5)]
    low = PositivityDisplay.from_predictions(
        [-1.0, 3.0], y_true=[0.0, 9.0], lower_bound=0.5
    )
    assert shaded(low) == [(low.ax_.get_xlim()[0], 0.5)]
    for bound in (-np.inf, -100.0):  # far from all rows: nothing to see
        display = PositivityDisplay.from_predictions([1.0, 3.0], lower_bound=bound)
        assert shaded(display) == []
        assert display.ax_.get_ylim()[0] > 0


@pytest.mark.parametrize("vertical", [False, True])
def test_both_sides_are_shaded_and_counted(vertical):
    y_pred = np.array([-1.0, 0.5, np.nan, 1.0, 2.0, 4.0])
    display = PositivityDisplay.from_predictions(
        y_pred, y_true=np.arange(6.0) if vertical else None, upper_bound=2.0
    )
    low, high = display.ax_.get_xlim() if vertical else display.ax_.get_ylim()
    assert shaded(display) == [(low, 0.0), (2.0, high)]
    assert repr(display) == "PositivityDisplay(3 of 6 rows outside [0, 2])"
    marked = xy(display.outside_)[0 if vertical else 1]
    np.testing.assert_array_equal(marked, [-1.0, np.nan, 4.0])


@pytest.mark.parametrize("lower_bound", [None, -np.inf])
def test_an_upper_bound_alone(lower_bound):
    display = PositivityDisplay.from_predictions(
        [-1.0, 0.5, 3.0], lower_bound=lower_bound, upper_bound=1.0
    )
    assert shaded(display) == [(1.0, display.ax_.get_ylim()[1])]
    assert "1 of 3 rows above 1" in labels(display.ax_)


def test_without_bounds_no_row_is_outside():
    display = PositivityDisplay.from_predictions([-1.0, 3.0], lower_bound=None)
    assert shaded(display) == []
    assert repr(display) == "PositivityDisplay(0 of 2 rows outside, without bounds)"


def test_positivity_of_a_model_with_both_bounds(small, data):
    model = small(upper_bound=[0.4, np.inf], on_violated_y="ignore", repair=None)
    model.fit(data.X, data.Y)
    predictions = model.predict(data.X)
    display = PositivityDisplay.from_estimator(model, data.X)
    assert (display.lower_bound, display.upper_bound) == (0.0, 0.4)
    outside = (predictions[:, 0] < 0) | (predictions[:, 0] > 0.4)
    assert 0 < outside.sum() < 40
    assert f"{outside.sum()} of 40 rows outside [0, 0.4]" in repr(display)
    free = PositivityDisplay.from_estimator(model, data.X, output=1)
    assert repr(free).endswith("rows below 0)")


@pytest.mark.parametrize(("output", "ends"), [(0, [0.1]), (1, [])])
def test_the_bound_is_that_of_the_output(small, data, output, ends):
    model = small(lower_bound=[0.1, -np.inf], on_violated_y="ignore", repair=None)
    model.fit(data.X, data.Y)
    display = PositivityDisplay.from_estimator(model, data.X, output=output)
    assert [end for _, end in shaded(display)] == pytest.approx(ends)


def test_targets_against_predictions():
    y_true, y_pred = np.array([0.0, 1.0, 2.0]), np.array([-1.0, 1.5, 2.0])
    display = PositivityDisplay.from_predictions(y_pred, y_true=y_true, color="k")
    np.testing.assert_array_equal(xy(display.points_), [y_pred, y_true])
    np.testing.assert_array_equal(xy(display.outside_), [[-1.0], [0.0]])
    assert (display.points_.get_color(), display.before_) == ("k", None)
    ranked = display.plot(kind="sorted")
    np.testing.assert_array_equal(xy(ranked.points_), [[0, 1, 2], y_pred])


def test_a_model_that_was_not_repaired_is_drawn_once(small, data):
    model = small(strategy="activation").fit(data.X, data.y)
    display = PositivityDisplay.from_estimator(model, data.X, data.y)
    assert display.before_ is None
    np.testing.assert_array_equal(xy(display.points_), [model.predict(data.X), data.y])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "pie"}, "kind='pie' is unknown; choose one of"),
        ({"kind": "actual_vs_predicted"}, "needs targets, y or y_true"),
        ({"y_true": [1.0]}, r"y_true has shape \(1,\), .* \(2,\) is needed"),
    ],
)
def test_what_positivity_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        PositivityDisplay.from_predictions([1.0, 2.0], **options)


def test_other_models_are_refused(data):
    with pytest.raises(ValueError, match="must be a PositiveOutputRegressor"):
        PositivityDisplay.from_estimator(StandardScaler().fit(data.X), data.X)


def test_strategies_of_a_search(small, data):
    search = GridSearchCV(
        make_pipeline(StandardScaler(), small()),
        [
            {"positiveoutputregressor__strategy": ["penalty"]}
            | {"positiveoutputregressor__alpha": [0.5, 2.0]},
            {"positiveoutputregressor__strategy": ["activation"]},
        ],
        scoring=SCORERS,
        refit=best_feasible(),
        cv=2,
    ).fit(data.X, data.y)
    display = StrategyComparisonDisplay.from_estimator(search)
    results = search.cv_results_
    rate = -results["mean_test_violation_rate"]
    rmse = -results["mean_test_rmse"]
    assert list(display.points_) == ["penalty", "activation"]
    np.testing.assert_array_equal(xy(display.points_["penalty"]), [rate[:2], rmse[:2]])
    best = search.best_index_
    np.testing.assert_array_equal(xy(display.best_), [[rate[best]], [rmse[best]]])
    mean = StrategyComparisonDisplay.from_estimator(search, violation="mean_violation")
    assert mean.ax_.get_xlabel().startswith("mean violation")
    with pytest.raises(ValueError, match="no scorer named 'mae'"):
        StrategyComparisonDisplay.from_estimator(search, score="mae")


def results(violation, params):
    return {
        "params": params,
        "mean_test_rmse": -np.ones(len(params)),
        "mean_test_violation_rate": -np.array(violation),
    }


ODD_NAMES = {
    r"$\frac{x}$": r"\$\frac{x}\$",  # mathematics that matplotlib cannot read
    "$a$": r"\$a\$",
    "_x": " _x",
    "": " ",
    "a\nb\0": r"a\nb\x00",
    "\x1b[31m": r"\x1b[31m",
    "\ud800": r"\ud800",
    "{0} %s <b>": "{0} %s <b>",
    "x" * 5000: "x" * 18 + "..." + "x" * 18,
}


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_names_are_shown_letter_by_letter(name):
    """Warnings are errors here, such as those of a letter that no font has."""
    shown = ODD_NAMES[name]
    params = [{"strategy": name}, {"strategy": "slack"}]
    odd = {f"mean_test_{name}": -np.ones(2), **results([0.0, 0.1], params)}
    display = StrategyComparisonDisplay.from_cv_results(odd, score=name, best_index=0)
    display.figure_.canvas.draw()
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend == [shown, "slack", "chosen"]
    label = display.ax_.get_ylabel().removesuffix(", held-out rows")
    assert label.strip() == shown.replace("_", " ").strip()


@pytest.mark.parametrize("violation", [[0.0, 0.2], [0.0, 0.0], [np.nan, 0.1]])
def test_the_feasible_set_is_seen_and_shaded_up_to_the_tolerance(violation):
    params = [{"strategy": "penalty"}, {"strategy": "slack"}]
    display = StrategyComparisonDisplay.from_cv_results(
        results(violation, params), tolerance=0.05
    )
    (shade,) = display.ax_.patches
    left, right = display.ax_.get_xlim()
    assert left < 0
    assert right > np.nanmax(violation)
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (left, 0.05)
    assert display.best_ is None


def test_candidates_without_a_strategy_are_named_by_their_parameters(small):
    params = [{"alpha": 1.0, "lr": 0.1}, {"strategy": small()}]
    display = StrategyComparisonDisplay.from_cv_results(results([0, 0], params))
    assert list(display.points_) == ["alpha=1.0, lr=0.1", "PositiveOutputRegressor"]


def test_without_matplotlib_one_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"need matplotlib; .* 'sklpos\[plot\]'\."):
        PositivityDisplay.from_predictions([1.0])


def test_matplotlib_is_imported_by_those_who_draw_only():
    for path in Path(sklpos.plotting.__file__).parent.glob("*.py"):
        assert not re.search(r"^(import|from) matplotlib", path.read_text(), re.M)


def test_lines_take_any_name_of_a_property(fitted, data):
    display = ConstraintHistoryDisplay.from_estimator(fitted, linestyle=":", c="k")
    line = display.axes_["alpha"].lines[0]
    assert (line.get_linestyle(), line.get_color()) == (":", "k")
    rows = PositivityDisplay.from_estimator(fitted, data.X, markersize=9).points_
    assert rows.get_markersize() == 9


def test_unfitted_models_are_refused(small, data):
    with pytest.raises(NotFittedError):
        ConstraintHistoryDisplay.from_estimator(small())
