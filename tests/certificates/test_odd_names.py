"""Names of columns that a stranger chose, in what is printed."""

import numpy as np
import pytest

import sklpos
from sklpos import certify
from sklpos.certificates import Box

pandas = pytest.importorskip("pandas")

NAMES = {
    "line\nbreak": r"line\nbreak",
    "\x1b[31mred": r"\x1b[31mred",
    "nul\0": r"nul\x00",
    "\u202eright to left": r"\u202eright to left",
    "\ud800": r"\ud800",
    "<script>": "<script>",
    "{0} %s $x$": "{0} %s $x$",
    "x" * 5000: "x" * 18 + "..." + "x" * 18,
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_odd_names_are_printed_in_one_short_line(name):
    text = repr(Box([0.0], [1.0], names=(name,)))
    assert text == f"Box(1 features: {NAMES[name]} 0 to 1)"


def test_odd_names_in_certificates_and_reports(small, data):
    X = pandas.DataFrame(data.X, columns=["<script>", "\x1b[31m", "\ud800"])
    model = small(max_epochs=1).fit(X, data.Y).enforce(domain="box", X=X)
    found, report = certify(model, "box", X=X), sklpos.report(model)
    for shown in (found, report):
        assert r"<script> -" in repr(shown)
        assert "<script>" not in shown._repr_html_()
        for text in (repr(shown), shown._repr_html_()):
            assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_errors_name_long_columns_in_few_words(small, data):
    X = pandas.DataFrame(data.X, columns=["x" * 5000, "b", "c"])
    X.iloc[3, 0] = np.nan
    with pytest.raises(ValueError, match=r"column 'xxx.*\.\.\..*xxx', row 3") as raised:
        small().fit(X, data.Y)
    assert len(str(raised.value)) <= 300
