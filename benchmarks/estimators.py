"""Whole estimators: fit, predict, repair."""

from dataclasses import replace

import numpy as np
import torch
from sklearn.neural_network import MLPRegressor
from sklearn.utils.validation import validate_data

from benchmarks.problem import Problem
from sklpos import MLP, PositiveOutputRegressor
from sklpos.nets.bounds import Bounds
from sklpos.repair import HeadObjective, nearest_feasible_head


def fits(problem: Problem, n_epochs: int) -> dict:
    """Everything from arrays to a fitted estimator, for a given number of epochs."""
    X, y = problem.X, problem.y.squeeze()

    def sklpos(**params):
        return lambda: problem.estimator(max_epochs=n_epochs, **params).fit(X, y)

    def scikit_learn(**params):
        whole = {"max_iter": n_epochs, "n_iter_no_change": n_epochs}
        return lambda: problem.mlp(**whole, **params).fit(X, y)

    return {
        "MLPRegressor": scikit_learn(),
        "MLPRegressor, poisson": scikit_learn(loss="poisson"),
        "sklpos, unconstrained, no repair": sklpos(strategy="unconstrained"),
        "sklpos, augmented_lagrangian, no repair": sklpos(),
        "sklpos, augmented_lagrangian": sklpos(repair="head"),
    }


def repaired(problem: Problem, n_epochs: int) -> dict:
    """Two of the fits: where all would take long."""
    names = "MLPRegressor", "sklpos, augmented_lagrangian"
    runs = fits(problem, n_epochs)
    return {name: runs[name] for name in names}


def defaults(problem: Problem) -> dict:
    """Estimators as they come, but for the epochs of scikit-learn's."""
    X, y = problem.X, problem.y.squeeze()
    epochs = {"max_iter": 100, "n_iter_no_change": 100}
    return {
        "MLPRegressor, 100 epochs": lambda: MLPRegressor(**epochs, random_state=0).fit(
            X, y
        ),
        "sklpos, MLP": lambda: PositiveOutputRegressor(MLP, random_state=0).fit(X, y),
        "sklpos, Stack": lambda: PositiveOutputRegressor(random_state=0).fit(X, y),
    }


def predictions(problem: Problem, n_rows: int) -> dict:
    """Predictions, of the bare module after the same validation, too."""
    X, y = problem.X[:n_rows], problem.y.squeeze()
    some = slice(500)
    model = problem.estimator().fit(problem.X[some], y[some])
    mlp = problem.mlp(max_iter=1).fit(problem.X[some], y[some])

    @torch.inference_mode()
    def bare():
        inputs = validate_data(model, X, reset=False, dtype=[np.float64, np.float32])
        return model.module_(torch.from_numpy(inputs)).numpy().ravel()

    return {
        "bare module": bare,
        "MLPRegressor": lambda: mlp.predict(X),
        "sklpos": lambda: model.predict(X),
    }


def repair(problem: Problem) -> dict:
    """Against one epoch; a twentieth of the predictions violates the bound."""
    model = problem.estimator(strategy="unconstrained", max_epochs=2)
    model.fit(problem.X, problem.y.squeeze())
    lowest = np.quantile(model.predict(problem.X), 0.05)
    bounds = Bounds.read(lowest, None, 1)
    model.net_.targets = replace(model.net_.targets, bounds=bounds)
    rows = model.net_.get_dataset(problem.X, torch.as_tensor(problem.scaled))
    return {
        "one epoch": lambda: model.net_.partial_fit(rows, epochs=1),
        "repair": lambda: model.enforce(problem.X),
    }


def wide_head(n_rows: int, width: int):
    """Repair of a random head on ReLU features; 28 % of its predictions are below 0.

    The Gram matrix of the rows and the passes over them are part of it.
    """
    rng = np.random.default_rng(0)
    X, weight = rng.normal(size=(n_rows, 60)), rng.normal(size=(60, width)) / 60**0.5
    features = np.column_stack([np.maximum(X @ weight, 0), np.ones(n_rows)])
    coef = rng.normal(size=(1, width + 1)) / width**0.5
    coef[0, -1] -= np.quantile(features @ coef[0], 0.28)
    y = np.maximum(features @ coef.T, 0)

    def run():
        return nearest_feasible_head(
            coef,
            HeadObjective.from_rows([features], y),
            lambda: [features],
            lower_bound=0.0,
            margin=1e-9 * y.std(),
            scale=y.std(),
        )

    return run
