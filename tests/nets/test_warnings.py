"""Warnings point at the line of the user's code."""

import functools
import pickle
import runpy
import warnings

import joblib
import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklpos import PositiveOutputRegressor
from sklpos.nets.warnings import warn_user
from sklpos.training.storage import VersionWarning

LOW = PositiveOutputRegressor(
    lower_bound=1.0, on_violated_y="ignore", max_epochs=2, random_state=0
)


@pytest.mark.parametrize(
    "model",
    [LOW, make_pipeline(StandardScaler(), LOW), GridSearchCV(LOW, {"lr": [0.01]})],
    ids=["alone", "pipeline", "search"],
)
def test_a_fit_of_an_estimator(model, monkeypatch):
    watched = PositiveOutputRegressor.fit  # by conftest.py, which is a user's file, too
    monkeypatch.setattr(PositiveOutputRegressor, "fit", watched.__wrapped__)
    X = np.linspace(-1, 1, 30).reshape(-1, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, X.ravel())
    files = {w.filename for w in caught if "balance was dropped" in str(w.message)}
    assert files == {__file__}


def test_a_function_behind_a_decorator_of_torch():
    with pytest.warns(RuntimeWarning, match="of mine") as caught:
        torch.no_grad()(warn_user)("of mine", RuntimeWarning)
    assert caught[0].filename == __file__


def test_a_function_behind_a_decorator_of_functools():
    """Such as those that read a model by its type."""
    with pytest.warns(RuntimeWarning, match="of mine") as caught:
        functools.singledispatch(warn_user)("of mine", RuntimeWarning)
    assert caught[0].filename == __file__


SCRIPT = """
import warnings
import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch.callbacks import EpochScoring
import sklpos

X = np.linspace(-1, 1, 40).reshape(-1, 1)
score = EpochScoring("r2")
model = sklpos.PositiveOutputRegressor(sklpos.MLP, max_epochs=1, callbacks=[score])
pipeline = make_pipeline(StandardScaler(), model)
outer = TransformedTargetRegressor(pipeline, transformer=FunctionTransformer())
found = []
for call in (
    lambda: pipeline.fit(X, X.ravel()),
    lambda: outer.fit(X, X.ravel()),
    lambda: GridSearchCV(outer, {"regressor__memory": [None]}, cv=2).fit(X, X.ravel()),
    lambda: cross_val_score(pipeline, X, X.ravel(), cv=2),
    lambda: sklpos.enforce(pipeline.fit(X, abs(X.ravel())), 100 * X),
    lambda: pipeline[-1].enforce(1000 * X),
    lambda: pipeline[-1].partial_fit(X, X.ravel()),
):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    found.append({w.filename for w in seen})
"""


def test_every_warning_of_a_script_points_at_its_lines(tmp_path, monkeypatch):
    for name in ("fit", "partial_fit", "enforce"):
        watched = getattr(PositiveOutputRegressor, name)
        monkeypatch.setattr(PositiveOutputRegressor, name, watched.__wrapped__)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    assert runpy.run_path(str(script))["found"] == [{str(script)}] * 7


@pytest.mark.parametrize("library", [pickle, joblib])
def test_a_model_of_another_version_that_is_loaded(library, monkeypatch, tmp_path):
    X = np.linspace(-1, 1, 30).reshape(-1, 1)
    model = PositiveOutputRegressor(max_epochs=2, random_state=0).fit(X, X.ravel() + 2)
    monkeypatch.setattr("sklpos.training.storage.__version__", "0.0.1")
    with (tmp_path / "model").open("wb") as file:
        library.dump(model, file)
    monkeypatch.undo()
    with (
        (tmp_path / "model").open("rb") as file,
        pytest.warns(VersionWarning, match=r"stored by sklpos 0\.0\.1") as caught,
    ):
        library.load(file)
    assert {w.filename for w in caught} == {__file__}
