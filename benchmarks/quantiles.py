"""``python -m benchmarks.quantiles``: several quantiles of a target, their coverage.

The quantiles 10, 50 and 90 % of five real data sets. Of each set, 70 % are trained on,
and the rest is the test; inputs are standardised. Nets of `PositiveOutputRegressor`
have ``criterion=PinballLoss([0.1, 0.5, 0.9])``. HGB, `HistGradientBoostingRegressor` of
scikit-learn, and its linear `QuantileRegressor` need one model per quantile, and have
their own defaults, but for ``alpha=0`` of the latter.

"Below" is the share of the test targets below each quantile, "inside" the share between
the outer ones, which should be .8, and "crossing" the share of steps between quantiles
below 0. "D2" is the explained share of the pinball loss, as
``sklearn.metrics.d2_pinball_score``, averaged over the quantiles.

``benchmarks/QUANTILES.md`` is written anew; ``--quick`` prints a small part only.
"""

import argparse
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import QuantileRegressor
from sklearn.metrics import d2_pinball_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks import datasets
from benchmarks.tables import markdown
from sklpos import MLP, PositiveOutputRegressor
from sklpos.criteria import PinballLoss

LEVELS = (0.1, 0.5, 0.9)
SETS = (
    datasets.concrete,
    datasets.deliveries,
    datasets.carseats,
    datasets.cars,
    datasets.diabetes,
)


class OnePerQuantile(RegressorMixin, BaseEstimator):
    """One copy of a regressor for each quantile."""

    def __init__(self, regressor):
        self.regressor = regressor

    def fit(self, X, y):
        copies = [clone(self.regressor).set_params(quantile=level) for level in LEVELS]
        self.regressors_ = [copy.fit(X, y) for copy in copies]
        return self

    def predict(self, X):
        return np.column_stack([model.predict(X) for model in self.regressors_])


def ours(seed, **params):
    criterion = PinballLoss(LEVELS)
    return PositiveOutputRegressor(criterion=criterion, random_state=seed, **params)


# name: a factory that takes a seed
MODELS = {
    "default": ours,
    "default, early stopping": partial(ours, early_stopping=True),
    "`MLP`, `nonnegative_weights`": partial(
        ours, module=MLP, strategy="nonnegative_weights"
    ),
    "`MLP`, `activation`": partial(ours, module=MLP, strategy="activation"),
    "`MLP`, default strategy": partial(ours, module=MLP),
    "HGB": lambda seed: OnePerQuantile(
        HistGradientBoostingRegressor(loss="quantile", random_state=seed)
    ),
    "linear": lambda seed: OnePerQuantile(QuantileRegressor(alpha=0)),
}


def entry(load, name, seed):
    """Fit one model on one split; return its row of figures."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X, X_test, y, y_test = train_test_split(*load(), test_size=0.3, random_state=seed)
    model = make_pipeline(StandardScaler(), MODELS[name](seed))
    start = time.process_time()
    found = model.fit(X, y).predict(X_test)
    seconds = time.process_time() - start
    below = (y_test[:, None] <= found).mean(axis=0)
    scores = [
        d2_pinball_score(y_test, own, alpha=level)
        for own, level in zip(found.T, LEVELS, strict=True)
    ]
    return {
        "data": load.__name__,
        "model": name,
        **{f"below {level:.0%}": s for level, s in zip(LEVELS, below, strict=True)},
        "inside": below[-1] - below[0],
        "crossing": np.mean(np.diff(found, axis=1) < 0),
        "D2": np.mean(scores),
        "seconds": seconds,
    }


def play(loads, seeds, n_jobs):
    """Return the figures of all fits, one row each."""
    fits = [(load, name, seed) for load in loads for name in MODELS for seed in seeds]
    return pd.DataFrame(Parallel(n_jobs)(delayed(entry)(*fit) for fit in fits))


def report(results, splits):
    """Return the whole text."""
    notes = "\n\n".join(__doc__.split("\n\n")[1:-1])
    parts = ["# Quantiles", "", notes, "", f"Here: {splits} splits.", ""]
    means = results.drop(columns="data").groupby("model", sort=False).mean()
    parts += ["## Means over the sets", "", markdown(means, 3), ""]
    for column in ("D2", "inside"):
        table = results.pivot_table(column, "model", "data", "mean", sort=False)
        parts += [f"## {column} of each set", "", markdown(table, 3), ""]
    return "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(prog="benchmarks.quantiles")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    loads = SETS[2:3] if arguments.quick else SETS
    splits = range(1 if arguments.quick else arguments.splits)
    text = report(play(loads, splits, arguments.jobs), len(splits))
    if arguments.quick:
        print(text)
    else:
        Path("benchmarks/QUANTILES.md").write_text(text)


if __name__ == "__main__":
    main()
