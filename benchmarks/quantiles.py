"""Quantiles that do not cross, by bounds on the steps between them: their coverage."""

import warnings

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn

from benchmarks import datasets
from sklpos import MLP, PositiveOutputRegressor

NOTES = """\
The quantiles 10, 50 and 90 % of the targets, by the recipe of *choose a strategy*: the
outputs are the first quantile and the steps to the next ones, which have a lower bound
of 0. Each set is split as above. "Below" is the share of the test targets below each
quantile, "inside" the share between the outer ones, which should be .8, and "crossing"
the share of steps below 0. The recipe stops early and has a weight decay of 1; the last
two columns are of nets without either."""
SETS = (
    datasets.concrete,
    datasets.deliveries,
    datasets.carseats,
    datasets.cars,
    datasets.diabetes,
)
LEVELS = torch.tensor([0.1, 0.5, 0.9])


class Pinball(nn.L1Loss):
    def forward(self, steps, y):
        error = y - steps.cumsum(1)
        return torch.maximum(LEVELS * error, (LEVELS - 1) * error)


def quantiles(X, y, X_test, seed, **params):
    """Return the quantiles of test rows."""
    model = PositiveOutputRegressor(
        MLP,
        lower_bound=[None, 0, 0],
        strategy="activation",
        criterion=Pinball,
        scale_y=False,
        on_violated_y="ignore",
        random_state=seed,
        **params,
    )
    model.fit(X, np.column_stack([y, y, y]))
    return model.predict(X_test).cumsum(axis=1)


def entry(load, seed):
    """Return the figures of one split."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X, X_test, y, y_test = train_test_split(*load(), test_size=0.3, random_state=seed)
    of_X, of_y = StandardScaler().fit(X), StandardScaler().fit(y[:, None])
    X, X_test = of_X.transform(X), of_X.transform(X_test)
    y, y_test = (of_y.transform(part[:, None]) for part in (y, y_test))
    figures = {"data": load.__name__, "training rows": len(y)}
    for title, params in {
        "": {"early_stopping": True, "weight_decay": 1.0},
        ", no stopping or decay": {},
    }.items():
        found = quantiles(X, y, X_test, seed, **params)
        below = (y_test <= found).mean(axis=0)
        if not title:
            names = (f"below {level:.0%}" for level in LEVELS.tolist())
            figures |= dict(zip(names, below, strict=True))
        figures[f"inside{title}"] = below[-1] - below[0]
        figures[f"crossing{title}"] = np.mean(np.diff(found, axis=1) < 0)
    return figures


def coverage(seeds, n_jobs):
    """Return the means over splits, one row per set."""
    fits = [(load, seed) for load in SETS for seed in seeds]
    rows = Parallel(n_jobs)(delayed(entry)(*fit) for fit in fits)
    table = pd.DataFrame(rows).groupby("data", sort=False).mean()
    size = table.pop("training rows")
    table.index = [f"{name}, {size[name]:,.0f} training rows" for name in table.index]
    return table
