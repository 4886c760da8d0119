"""``python -m benchmarks.two_bounds``: shares, by two bounds and by their rivals.

Six real data sets whose targets lie between 0 and 1. Of each set, 70 % are trained on,
and the rest is the test. Inputs are standardised, and every model has its own defaults.
The default is that of `PositiveOutputRegressor`; all other nets are `MLP`, with one
hidden layer of 100 units. The logit of y and beta regression cannot take targets of
exactly 0 or 1: they get `(y (n - 1) + 1/2) / n` instead, as Smithson and Verkuilen
(2006) advise. Beta regression is that of statsmodels, which is in none of the
dependency groups; if it is not installed, beta regression is left out.

"Outside" is the share of the test predictions below 0 or above 1, and "mean ratio" the
mean prediction divided by the mean target.

``benchmarks/TWO_BOUNDS.md`` is written anew; ``--quick`` prints a small part only.
"""

import argparse
import time
import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from scipy import special
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from benchmarks import datasets
from benchmarks.tables import markdown
from sklpos import MLP, PositiveOutputRegressor

FREE = {"lower_bound": None, "strategy": "unconstrained", "repair": None}
UNIT = partial(nn.Hardtanh, 0.0, 1.0)  # features in [0, 1]


def inside(y):
    """Move shares a little away from 0 and 1."""
    return (y * (len(y) - 1) + 0.5) / len(y)


class ShareByClassifier(RegressorMixin, BaseEstimator):
    """Cross-entropy: a row is of class 1 with weight y, and of class 0 with 1 - y."""

    def __init__(self, classifier):
        self.classifier = classifier

    def fit(self, X, y):
        labels, weights = np.repeat([1, 0], len(y)), np.concatenate([y, 1 - y])
        self.classifier_ = clone(self.classifier)
        self.classifier_.fit(np.vstack([X, X]), labels, sample_weight=weights)
        return self

    def predict(self, X):
        return self.classifier_.predict_proba(X)[:, 1]


class BetaRegression(RegressorMixin, BaseEstimator):
    """Beta regression of statsmodels, with a logit link and one precision."""

    def fit(self, X, y):
        from statsmodels.othermod.betareg import BetaModel
        from statsmodels.tools import add_constant

        self.add_constant = partial(add_constant, has_constant="add")
        model = BetaModel(inside(y), self.add_constant(X))
        self.result_ = model.fit(disp=0, maxiter=1000)
        return self

    def predict(self, X):
        return self.result_.predict(self.add_constant(X))


def two_bounds(seed, **params):
    params = {"upper_bound": 1.0, "random_state": seed, **params}
    return PositiveOutputRegressor(**params)


def of_mlp(seed, **params):
    return two_bounds(seed, module=MLP, **params)


def free_net(seed):
    return of_mlp(seed, upper_bound=None, **FREE)


# name: a factory that takes a seed
MODELS = {
    "free net": free_net,
    "free net, clipped": free_net,
    "two bounds, the default": two_bounds,
    "two bounds, `MLP`, repaired": of_mlp,
    "two bounds, `MLP`, repaired, no balance": partial(of_mlp, balance=False),
    "two bounds, `MLP`, `nonnegative_weights`": partial(
        of_mlp, strategy="nonnegative_weights", module__activation=UNIT
    ),
    "two bounds, `MLP`, `nonnegative_weights`, 300 epochs": partial(
        of_mlp,
        strategy="nonnegative_weights",
        module__activation=UNIT,
        max_epochs=300,
    ),
    "two bounds, `MLP`, `activation` (sigmoid)": partial(of_mlp, strategy="activation"),
    "free net on the logit of y": lambda seed: TransformedTargetRegressor(
        free_net(seed),
        func=lambda y: special.logit(inside(y)),
        # Not `special.expit` itself, a ufunc that no worker process finds by its name.
        inverse_func=lambda z: special.expit(z),
        check_inverse=False,
    ),
    "softmax net, cross-entropy": lambda seed: ShareByClassifier(
        MLPClassifier(random_state=seed)
    ),
    "fractional logit": lambda seed: ShareByClassifier(LogisticRegression(C=np.inf)),
    "beta regression": lambda seed: BetaRegression(),
}


def available():
    """Return the names of the models that can be fitted here."""
    if find_spec("statsmodels"):
        return list(MODELS)
    print("left out, statsmodels is not installed: beta regression")
    return [name for name in MODELS if name != "beta regression"]


def entry(load, name, seed):
    """Fit one model on one split; return its row of figures."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X, X_test, y, y_test = train_test_split(*load(), test_size=0.3, random_state=seed)
    model = make_pipeline(StandardScaler(), MODELS[name](seed))
    start = time.process_time()
    model.fit(X, y)
    seconds = time.process_time() - start
    train, test = model.predict(X), model.predict(X_test)
    if name.endswith("clipped"):
        train, test = np.clip(train, 0, 1), np.clip(test, 0, 1)
    return {
        "data": load.__name__,
        "model": name,
        "seed": seed,
        "r2": r2_score(y_test, test),
        "outside, train": np.mean((train < 0) | (train > 1)),
        "outside": np.mean((test < 0) | (test > 1)),
        "ratio, train": train.mean() / y.mean(),
        "ratio": test.mean() / y_test.mean(),
        "seconds": seconds,
    }


def play(loads, names, seeds, n_jobs):
    """Return the figures of all fits, one row each."""
    fits = [(load, name, seed) for load in loads for name in names for seed in seeds]
    return pd.DataFrame(Parallel(n_jobs)(delayed(entry)(*fit) for fit in fits))


def summary(results):
    """Return means over splits and sets; ratios as their mean distance from 1."""
    distances = {name: (results[name] - 1).abs() for name in ("ratio, train", "ratio")}
    means = results.assign(**distances).groupby("model", sort=False)
    columns = {
        "r2": "test R2",
        "outside, train": "outside, train, %",
        "outside": "outside, test, %",
        "ratio, train": "mean off by, train, %",
        "ratio": "mean off by, test, %",
        "seconds": "seconds of a fit",
    }
    table = means[[*columns]].mean().rename(columns=columns)
    percent = [name for name in table if name.endswith("%")]
    return table.assign(**100 * table[percent])


def targets(loads):
    """Return the shares of targets at the two bounds."""
    rows = {}
    for load in loads:
        X, y = load()
        name = f"{load.__name__}, {len(y):,} rows, {X.shape[1]} features"
        rows[name] = {"exactly 0": np.mean(y == 0), "exactly 1": np.mean(y == 1)}
    return pd.DataFrame(rows).T


def report(results, loads):
    """Return the whole text."""
    notes = "\n\n".join(__doc__.split("\n\n")[1:-1])
    splits = results["seed"].nunique()
    parts = ["# Two bounds", "", notes, "", f"Here: {splits} splits.", ""]
    parts += ["## The data", "", markdown(targets(loads), 2), ""]
    parts += ["## Means over all sets", "", markdown(summary(results), 3), ""]
    tables = {"r2": "Test R2", "outside": "Share of test predictions outside"}
    tables |= {"ratio, train": "Mean ratio, train", "ratio": "Mean ratio, test"}
    for column, title in tables.items():
        means = results.pivot_table(column, "model", "data", "mean", sort=False)
        parts += [f"## {title}", "", markdown(means, 3), ""]
    return "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(prog="benchmarks.two_bounds")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    loads = datasets.SHARES[2:3] if arguments.quick else datasets.SHARES
    splits = range(1 if arguments.quick else arguments.splits)
    results = play(loads, available(), splits, arguments.jobs)
    text = report(results, loads)
    if arguments.quick:
        print(text)
    else:
        Path("benchmarks/TWO_BOUNDS.md").write_text(text)


if __name__ == "__main__":
    main()
