"""A report says what holds, and what it says is what was measured."""

import copy
import pickle
import re
from dataclasses import replace
from html import escape

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklpos import report
from sklpos.estimator.report import Report
from sklpos.estimator.row_summary import RowSummary, predict_twice
from sklpos.nets.bounds import Bounds
from sklpos.repair import head


def rmse(y, predictions):
    return np.sqrt(np.mean((predictions - y) ** 2, axis=0))


@pytest.fixture(scope="module")
def raw_and_repaired(small, data):
    options = {"strategy": "unconstrained", "max_epochs": 30, "lower_bound": 0.1}
    options["on_violated_y"] = "ignore"
    return [
        small(repair=repair, **options).fit(data.X, data.Y) for repair in (None, "head")
    ]


def test_training_rows_as_trained_and_repaired(raw_and_repaired, data):
    raw, repaired = (model.predict(data.X) for model in raw_and_repaired)
    found = report(raw_and_repaired[1])
    for summary, predictions in zip(found.training_, (raw, repaired), strict=True):
        assert summary.n_samples == 40
        assert summary.violation_rate == np.mean((predictions < 0.1).any(axis=1))
        largest = np.maximum(0.1 - predictions, 0).max(axis=0)
        np.testing.assert_allclose(summary.max_violation, largest, atol=1e-15)
        np.testing.assert_allclose(summary.rmse, rmse(data.Y, predictions))
    assert found.training_[0].violation_rate > 0 == found.training_[1].violation_rate
    assert report(raw_and_repaired[0]).training_[1] is None


def test_repair_cost(raw_and_repaired, data):
    found = report(raw_and_repaired[1])
    raw, repaired = (
        torch.cat([part.ravel() for part in model.module_.head.state_dict().values()])
        for model in raw_and_repaired
    )
    share = float((repaired - raw).norm() / raw.norm())
    assert found.head_change_ == pytest.approx(share)
    change = rmse(*(model.predict(data.X) for model in raw_and_repaired))
    np.testing.assert_allclose(np.sqrt(found.repair_.cost_), change, rtol=1e-4)
    text = str(found)
    assert f"{change[0]:.3g}"[:4] in text
    assert "multipliers_" not in repr(found.repair_)
    assert "mean prediction is the mean target" in text
    assert f"{share:.2%}" in text


def test_weights_are_in_the_errors_of_training(small, data):
    model = small().fit(data.X, data.y, sample_weight=data.weight)
    squares = (model.predict(data.X) - data.y) ** 2
    expected = np.sqrt(np.average(squares, weights=data.weight))
    assert report(model).training_[1].rmse == pytest.approx(expected)


def test_further_rows_through_pipeline_and_search(small, data):
    model = make_pipeline(StandardScaler(), small(max_epochs=30))
    search = GridSearchCV(model, {"positiveoutputregressor__alpha": [1.0]}, cv=2)
    search.fit(data.X, data.Y)
    predictions = search.predict(data.X_new)
    as_trained, repaired = report(search, data.X_new).rows_
    assert repaired.violation_rate == np.mean((predictions < 0).any(axis=1)) > 0
    assert repaired.rmse is None
    assert as_trained.n_samples == 20
    with_targets = report(search, data.X, data.Y).rows_[1]
    np.testing.assert_allclose(with_targets.rmse, rmse(data.Y, search.predict(data.X)))
    before, after = predict_twice(search, data.X_new)
    np.testing.assert_array_equal(after, predictions)
    assert not np.array_equal(before, after)


@pytest.mark.parametrize(
    ("params", "promise"),
    [
        ({"strategy": "activation"}, "any input up to a size of "),
        ({"strategy": "nonnegative_weights"}, "any input up to a size of "),
        ({"strategy": "penalty"}, "the training rows, by the repair"),
        ({"strategy": "lagrangian", "repair": None}, "nothing exact, without a repair"),
        ({"strategy": "certified"}, "any input of Box(3 features: "),
        (
            {"strategy": "certified", "repair": None, "max_epochs": 1},
            "nothing exact, without a repair",
        ),
    ],
)
def test_what_is_promised(small, data, params, promise):
    model = small(**params).fit(data.X, data.y)
    found = report(model)
    assert found.promise_.startswith(promise)
    assert found.guarantee_ == model.strategy_.guarantee
    assert found.certificate_ is model.certificate_
    assert promise in str(found)
    assert f"{found.kkt_.stationarity:.3g}" in str(found)


def test_a_promise_is_no_longer_that_of_training_after_enforce(small, data):
    model = small(strategy="unconstrained", max_epochs=30).fit(data.X, data.y)
    as_trained = report(model).training_[0]
    model.enforce(data.X_new)
    found = report(model, data.X_new)
    assert found.promise_ == "the 20 rows that enforce was given last"
    assert found.training_[0] is as_trained
    assert np.isnan(found.training_[1].violation_rate)
    assert "not measured" in str(found)
    assert found.rows_[1].violation_rate == 0
    promise = report(model.enforce(domain="box")).promise_
    assert re.fullmatch(r"any input of Box\(3 features: .*\), proved", promise)
    model.partial_fit(data.X, data.y)
    assert report(model).training_ is None
    assert report(model).promise_ == "nothing exact, without a repair"


@pytest.mark.parametrize("domain", ["box", ([-0.5] * 3, [0.5] * 3), None])
def test_the_training_error_is_exact_after_enforce(small, data, domain):
    model = small(strategy="unconstrained", max_epochs=30)
    model.fit(data.X, data.Y, data.weight).enforce(data.X, domain=domain)
    error = model.predict(data.X) - data.Y
    expected = np.sqrt(np.average(error**2, axis=0, weights=data.weight))
    repaired = report(model).training_[1]
    np.testing.assert_allclose(repaired.rmse, expected, rtol=1e-9)
    # Only a domain with all training rows says something of their violations.
    assert repaired.violation_rate == 0 or domain != "box"
    assert domain == "box" or np.isnan(repaired.violation_rate)


def test_a_share_of_a_population_is_not_all_of_it(small, data):
    model = small(strategy="unconstrained").fit(data.X, data.y)
    X = np.random.default_rng(5).normal(size=(200, 3))
    model.enforce(X, adjust="bias", risk_level=0.1, confidence=0.9)
    found = report(model, X)
    assert found.promise_ == "all but 0.1 of a population, with confidence 0.9"
    assert 0 < found.rows_[1].violation_rate <= 0.1
    model.enforce(X, adjust="bias")
    assert report(model).promise_ == "the 200 rows that enforce was given last"


def test_enforce_changes_nothing_that_holds_everywhere(fitted, data):
    model = copy.deepcopy(fitted("activation")).enforce(data.X_new)
    assert report(model).training_[0].violation_rate == 0


def test_outputs_that_no_head_can_hold_are_named(small):
    X, Y = np.array([[-1.0], [1.0]]), np.array([[1.0, 1.0], [1.0, 1.0]])
    model = small(
        module__hidden_layer_sizes=(),
        module__bias=False,
        lower_bound=[1.0, -np.inf],
        balance=False,
    )
    with pytest.warns(UserWarning, match="no head without bias"):
        model.fit(X, Y)
    assert report(model).promise_ == "nothing, no head does for outputs [0]"


def test_nothing_is_promised_that_was_not_measured(small, data, monkeypatch):
    """A repair that misses the bound, and does not look."""
    monkeypatch.setattr(head, "rounding_margin", lambda *_, **__: np.full(1, -0.1))
    monkeypatch.setattr(head, "obeys", lambda *_, **__: True)
    monkeypatch.setattr(head, "_typical_rounding", lambda *_: np.full(1, -0.1))
    found = report(small(strategy="unconstrained").fit(data.X, data.y))
    assert found.training_[1].violation_rate > 0
    assert found.promise_ == "nothing exact, the repair was lost to rounding"


def test_the_first_of_many_outputs_are_shown():
    shown = str(Report("model", np.arange(9.0), np.full(9, np.inf), "none", "nothing"))
    assert "7, ..." in shown


def test_a_line_has_room_for_the_first_of_many_outputs(small, data):
    model = small(max_epochs=1).fit(data.X, np.repeat(data.Y, 10, axis=1))
    assert max(map(len, str(report(model)).splitlines())) < 250
    assert re.search(r"mean target +(yes, ){8}\.\.\.\n", str(report(model)))


def test_a_rare_violation_is_not_rounded_to_none(raw_and_repaired):
    predictions = np.ones((10_000, 1))
    predictions[7] = -1e-9
    summary = RowSummary.from_predictions(predictions, Bounds())
    found = replace(report(raw_and_repaired[1]), rows_=(summary, None))
    assert "1 (0.0%)" in str(found)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_errors_in_any_unit(unit):
    y = unit * np.array([[3.0], [5.0]])
    summary = RowSummary.from_predictions(y - unit, Bounds(np.full(1, 4 * unit)), y)
    assert summary.rmse == pytest.approx(unit, rel=1e-12, abs=0)
    assert summary.max_violation == pytest.approx(2 * unit, rel=1e-12, abs=0)


@pytest.fixture(scope="module")
def two_sided(small, data):
    """A model that would leave both bounds."""
    model = small(
        strategy="unconstrained",
        max_epochs=30,
        upper_bound=[0.6, 2.0],
        on_violated_y="ignore",
        balance=False,
    )
    return model.fit(data.X, data.Y)


def lines_of(found):
    """The names in a report, each with the cells of its line; the last one counts."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in str(found).splitlines()]
    return {name: cells for name, *cells in rows}


def test_with_both_bounds_the_report_says_which_side_was_active(two_sided, data):
    found = report(two_sided)
    np.testing.assert_array_equal(found.lower_bound_, [0.0, 0.0])
    np.testing.assert_array_equal(found.upper_bound_, [0.6, 2.0])
    lines = lines_of(found)
    assert lines["lower bound"] == ["0, 0"]
    assert lines["upper bound"] == ["0.6, 2"]
    before = two_sided.fitted_.as_trained.predict(data.X.copy())
    for name, rows in [
        ("rows outside the bounds", (before < 0) | (before > [0.6, 2.0])),
        ("rows below the lower bound", before < 0),
        ("rows above the upper bound", before > [0.6, 2.0]),
    ]:
        count = rows.any(axis=1).sum()
        assert lines[name] == [f"{count} ({count / 40:.1%})", "0 (0.0%)"]
        assert count > 0
    pushes = two_sided.repair_.multipliers_
    for name, signs in [("up", pushes > 0), ("down", pushes < 0)]:
        held = ", ".join(map(str, signs.sum(axis=0)))
        assert lines[f"rows that hold it {name}"] == [held]
    total = ", ".join(map(str, two_sided.repair_.n_cuts_))
    assert lines["rows that hold it up or down"] == [total]


@pytest.mark.parametrize(
    ("bounds", "held", "absent"),
    [
        ({"lower_bound": 0.0}, "up", "upper"),
        ({"lower_bound": None, "upper_bound": 3.0}, "down", "lower"),
    ],
)
def test_with_one_bound_the_report_does_not_ask_which(
    small, data, bounds, held, absent
):
    found = lines_of(report(small(**bounds).fit(data.X, data.Y)))
    assert f"rows that hold it {held}" in found
    assert f"{absent} bound" not in found
    assert not any(name.startswith(("rows below", "rows above")) for name in found)


def test_a_domain_that_costs_much_warns_and_has_no_active_side(two_sided, data):
    model = copy.deepcopy(two_sided)
    with pytest.warns(UserWarning, match=r"raised the training error .* for any input"):
        found = lines_of(report(model.enforce(domain="box")))
    as_trained, repaired = report(model).training_
    assert (repaired.rmse > 2 * as_trained.rmse).any()
    assert repaired.violation_rate == 0
    assert "rows that hold it up or down" in found
    assert "rows that hold it up" not in found


def test_rows_may_be_out_on_both_sides():
    bounds = Bounds(np.zeros(2), np.ones(2))
    predictions = np.array([[-1.0, 3.0], [0.5, 1.5], [0.0, 1.0], [np.nan, 0.0]])
    summary = RowSummary.from_predictions(predictions, bounds)
    assert summary.violation_rate == 0.75  # NaN is outside, on neither side
    assert (summary.below_rate, summary.above_rate) == (0.25, 0.5)
    np.testing.assert_array_equal(summary.max_violation, [np.nan, 2.0])


def test_text_is_aligned_and_html_says_the_same(raw_and_repaired, data):
    found = report(raw_and_repaired[1], data.X_new)
    blocks = re.split(r"\n(?=\S)", str(found))
    for block in blocks:
        lines = block.splitlines()[1:]
        assert len({len(line) for line in lines}) == 1
    html = found._repr_html_()
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", html)
    words = str(found).split()
    assert [w for cell in cells for w in cell.split()] == [escape(w) for w in words]


def test_html_escapes(small, data):
    model = small(strategy="certified").fit(data.X, data.y)
    found = replace(report(model), model_="<script>")
    assert "<script>" not in found._repr_html_()
    assert "Certificate: verified" in found._repr_html_()


def test_what_is_refused(raw_and_repaired, data):
    model = raw_and_repaired[1]
    with pytest.raises(ValueError, match="must be a PositiveOutputRegressor"):
        report(LinearRegression().fit(data.X, data.y))
    with pytest.raises(ValueError, match="y needs X"):
        report(model, y=data.Y)
    with pytest.raises(ValueError, match=r"y has shape \(40,\).* shape \(40, 2\)"):
        report(model, data.X, data.y)


def test_a_report_survives_pickling(raw_and_repaired):
    model = raw_and_repaired[1]
    assert str(report(pickle.loads(pickle.dumps(model)))) == str(report(model))
    assert str(pickle.loads(pickle.dumps(report(model)))) == str(report(model))
