"""Dates, masks, text and gaps are refused in one sentence that says where they are."""

import datetime
import decimal

import numpy as np
import pytest
from scipy import sparse

from sklpos import PositiveOutputRegressor
from sklpos.nets.values import as_plain, explaining

DATES = np.array(["2024-01-01", "NaT"], dtype="M8[s]")


def frame(**columns):
    return pytest.importorskip("pandas").DataFrame(columns)


def polars_frame(**columns):
    return pytest.importorskip("polars").DataFrame(columns)


def as_pandas(kind):
    pandas = pytest.importorskip("pandas")
    dates = pandas.Series(pandas.to_datetime(["2024-01-01", "2024-01-02"]))
    made = {
        "with a zone": dates.dt.tz_localize("UTC"),
        "durations": dates - dates[0],
        "periods": dates.dt.to_period("D"),
        "objects": dates.astype(object),
        "days": dates.dt.date,
    }
    return frame(a=[1.0, 2.0], day=made[kind])


FROM_NUMPY = {
    "array": lambda: DATES,
    "column": lambda: DATES[:, None],
    "durations": lambda: DATES - DATES,
    "objects": lambda: DATES.astype(object),
    "list": lambda: [[1.0, value] for value in DATES],
    "list of dates": lambda: [datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)],
    "numbers among objects": lambda: np.array([[1, DATES[0]]], dtype=object),
}
KINDS = ["with a zone", "durations", "periods", "objects", "days"]


@pytest.mark.parametrize("name", FROM_NUMPY)
def test_dates_are_no_numbers(name):
    with pytest.raises(ValueError, match=r"^y.* holds dates or durations") as error:
        as_plain(FROM_NUMPY[name](), "y")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_of_dates_is_named(kind):
    with pytest.raises(ValueError, match=r"^X: column 'day' holds dates or durations"):
        as_plain(as_pandas(kind), "X")


def test_a_column_of_dates_is_named_in_polars():
    days = [datetime.date(2024, 1, 1)] * 2
    with pytest.raises(ValueError, match=r"^X: column 'day' holds dates"):
        as_plain(polars_frame(a=[1.0, 2.0], day=days), "X")


def test_masked_entries_are_refused_and_masks_without_any_are_not():
    values = np.ma.array([[1.0, 2.0, 3.0]], mask=[[0, 1, 1]])
    with pytest.raises(ValueError, match="X has masked entries, 2 of 3; fill them"):
        as_plain(values, "X")
    plain = as_plain(np.ma.array([1.0, 2.0]), "X")
    assert type(plain) is np.ndarray
    assert plain.tolist() == [1.0, 2.0]


def test_half_precision_becomes_single():
    assert as_plain(np.ones(2, np.float16), "X").dtype == np.float32


@pytest.mark.parametrize(
    "values", [np.ones(2), [[1, 2.5]], ["1", "2"], None, sparse.eye_array(2)]
)
def test_other_values_are_passed_on(values):
    assert as_plain(values, "X") is values


def refused(values, name="X") -> str:
    """What is said of values that numpy cannot read as finite numbers."""
    with pytest.raises(ValueError, match=name) as error, explaining(values, name):
        raise ValueError("Input contains NaN or could not convert")
    return str(error.value)


UNREADABLE = {
    "text": (
        lambda: frame(a=[1, 2], city=["Rome", "Paris"]),
        "X: column 'city' holds text such as 'Rome'; encode it as numbers",
    ),
    "text behind numbers": (
        lambda: frame(a=[1, "two"]),
        "X: column 'a' holds text such as 'two'",
    ),
    "categories": (
        lambda: frame(a=np.array([1, 2]), city=as_categories(["Rome", "Paris"])),
        "X: column 'city' holds text such as 'Rome'",
    ),
    "text in polars": (
        lambda: polars_frame(city=["Rome", "Paris"]),
        "X: column 'city' holds text such as 'Rome'",
    ),
    "text in an array": (
        lambda: np.array([["1", "2"], ["3", "four"]]),
        "X: column 1 holds text such as 'four'",
    ),
    "long text": (lambda: [["a" * 1000]], f"text such as '{'a' * 39}...'; encode"),
    "NaN": (
        lambda: np.array([[1.0, 2.0], [3.0, np.nan]]),
        "X contains NaN in column 1, row 1; correct or fill",
    ),
    "infinity": (lambda: [[1.0, -np.inf]], "X contains infinity in column 1, row 0"),
    "NaN in a frame": (
        lambda: frame(a=[1.0, 2.0], age=[1.0, np.nan]),
        "X contains NaN in column 'age', row 1",
    ),
    "a missing whole number": (
        lambda: frame(age=as_nullable([1, None])),
        "X contains NaN in column 'age', row 1",
    ),
    "null in polars": (
        lambda: polars_frame(age=[None, 1.0]),
        "X contains NaN in column 'age', row 0",
    ),
    "None": (lambda: [[1.0, None]], "X contains NaN in column 1, row 0"),
    "NaN in a sparse matrix": (
        lambda: sparse.coo_array([[0.0, 1.0], [0.0, np.nan]]),
        "X contains NaN in column 1, row 1",
    ),
}


def as_categories(values):
    return pytest.importorskip("pandas").Categorical(values)


def as_nullable(values):
    return pytest.importorskip("pandas").array(values, dtype="Int64")


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_found(name):
    make, expected = UNREADABLE[name]
    message = refused(make())
    assert expected in message
    assert len(message) < 300


def test_targets_are_not_told_to_be_encoded_or_imputed():
    assert refused(["a", "b"], "y") == "y holds text such as 'a'; pass numbers."
    assert refused([1.0, np.nan], "y").startswith("y contains NaN in row 1; correct")


def test_columns_of_the_same_name_are_told_apart():
    values = frame(a=[1.0, 2.0], b=["x", "y"])
    values.columns = ["a", "a"]
    assert "column 'a' holds text such as 'x'" in refused(values)


def test_an_array_is_not_shown_as_a_whole():
    values = np.ones((100, 100), complex)
    with pytest.raises(ValueError, match="X") as error, explaining(values, "X"):
        raise ValueError(f"Complex data not supported\n{values}\n")
    assert str(error.value) == "X: Complex data not supported"


@pytest.mark.parametrize(
    ("value", "kind"), [([1, 2], "list"), ({"a": 1}, "dict"), (np.ones(2), "ndarray")]
)
def test_a_column_of_what_is_no_number_is_named(value, kind):
    values = frame(a=[1.0, 2.0], b=[value, value])
    with (
        pytest.raises((TypeError, ValueError)) as error,
        explaining(values, "X"),
    ):
        np.asarray(values, dtype=float)
    assert str(error.value).startswith(f"X: column 'b' holds values of type {kind}: ")


def test_a_gap_among_decimals_is_a_gap():
    values = frame(a=[decimal.Decimal("1.5"), decimal.Decimal("NaN")])
    with pytest.raises(ValueError, match="X contains NaN in column 'a', row 1"):
        PositiveOutputRegressor().fit(values, [1.0, 2.0])


def test_a_long_message_is_cut():
    with pytest.raises(TypeError, match=r"^y: Input should have") as error:
        PositiveOutputRegressor().fit([[1.0], [2.0]], {"y": np.arange(999.0)})
    assert len(str(error.value)) <= 300
