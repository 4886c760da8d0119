"""Warnings point at the line of the user's code."""

import pickle
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
