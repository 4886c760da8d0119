"""The HTML of an estimator, which notebooks show, leads to the documentation."""

import re
from email.message import Message
from importlib.metadata import PackageNotFoundError

import pytest
import sklearn
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.fixes import parse_version

import sklpos.estimator.documentation
from sklpos.estimator.documentation import documentation_url

shows_attributes = pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.9"),
    reason="scikit-learn shows fitted attributes since 1.9",
)
SITE = "https://sklpos.example/stable"
PAGE = f"{SITE}/reference/generated/sklpos.PositiveOutputRegressor.html"


@pytest.fixture
def declared(monkeypatch):
    """The metadata of an installed package with a site."""
    found = Message()
    found["Project-URL"] = "Changelog, https://sklpos.example/changes"
    found["Project-URL"] = f"Documentation, {SITE}/"
    monkeypatch.setattr(sklpos.estimator.documentation, "metadata", lambda name: found)


def cells(html, name):
    """Type and value in the row of a fitted attribute."""
    row = re.search(rf"<tr[^>]*>(?:(?!</tr>).)*?>\s*{name}\b(.*?)</tr>", html, re.S)
    return [text.strip() for text in re.findall(r"<td[^>]*>(.*?)</td>", row[1], re.S)]


def test_the_estimator_links_to_its_page(small, data, declared):
    model = small()
    assert model._get_doc_link() == PAGE
    assert f'href="{PAGE}"' in model._repr_html_()
    pipeline = make_pipeline(StandardScaler(), model).fit(data.X, data.y)
    assert f'href="{PAGE}"' in pipeline._repr_html_()


def test_no_link_leads_nowhere(small, monkeypatch):
    monkeypatch.setattr(
        sklpos.estimator.documentation, "metadata", lambda name: Message()
    )
    assert documentation_url() == ""

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(sklpos.estimator.documentation, "metadata", missing)
    model = small()
    assert model._get_doc_link() == ""
    assert "href" not in model._repr_html_()


@shows_attributes
def test_fitted_attributes_are_shown_with_their_documentation(small, data, declared):
    model = small().fit(data.X, data.Y)
    assert "Fitted attributes" not in small()._repr_html_()
    html = model._repr_html_()
    assert cells(html, "n_outputs_") == ["int", "2"]
    assert cells(html, "multipliers_")[0] == "ndarray[float64](40, 2)"
    for name in dir(model):
        if name.endswith("_") and not name.startswith("_"):
            link = rf'href="{re.escape(PAGE)}#:~:text={name},[^"]*">\s*{name}\b'
            assert re.search(link, html), f"{name} has no entry of its own"
