"""``python -m benchmarks.counts``: squared error and deviances, for counts and amounts.

Real data sets in three groups: counts, amounts that may be exactly 0, and positive
amounts. The deviance is that of Poisson (power 1), Tweedie (1.5) and gamma (2). Of each
set, 70 % are trained on, and the rest is the test; inputs are standardised, and every
model has its own defaults. `Stack` and `MLP` are modules of `PositiveOutputRegressor`:
under "deviance" with ``criterion=TweedieDeviance(power)``, and otherwise with the
squared error. The linear model is scikit-learn's `TweedieRegressor` with a logarithm as
link. HGB (`HistGradientBoostingRegressor`) and `MLPRegressor` have no Tweedie
deviance, and the latter none of gamma: they get the Poisson one instead.

"D2" is the share of the test deviance that is explained (1 at best, 0 for the mean of
the test targets). Predictions below 1 % of the mean target count as that much, because
the deviance of a 0 is infinite. "MAE" is in units of the mean target. The differences
are paired: deviance minus squared error of the same module on the same splits, as the
mean over the sets, plus or minus its standard error. Models that end in an exponential
function, the linear one and `MLPRegressor`, can be off by factors of thousands in
single rows, which then decide their means.

``benchmarks/COUNTS.md`` is written anew; ``--quick`` prints a small part only.
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
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import TweedieRegressor
from sklearn.metrics import d2_tweedie_score, mean_absolute_error, r2_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks import datasets
from benchmarks.tables import markdown
from sklpos import MLP, PositiveOutputRegressor, Stack
from sklpos.criteria import TweedieDeviance

COUNTS = (
    datasets.recreation,
    datasets.visits,
    datasets.outpatient,
    datasets.skips,
    datasets.ticks,
    datasets.citations,
    datasets.stays,
    datasets.murders,
    datasets.spells,
    datasets.stations,
)
WITH_ZEROS = (
    datasets.rain,
    datasets.alps,
    datasets.medical,
    datasets.spending,
    datasets.earnings,
)
POSITIVE = (
    datasets.cars,
    datasets.concrete,
    datasets.deliveries,
    datasets.diamonds,
    datasets.checks,
)
# title: power of the variance and the sets
GROUPS = {
    "Counts": (1, COUNTS),
    "Amounts that may be 0": (1.5, WITH_ZEROS),
    "Positive amounts": (2, POSITIVE),
}
LEAST = 0.01  # of the mean target


def ours(power, seed, module, deviance=False):
    params = {"criterion": TweedieDeviance(power)} if deviance else {}
    return PositiveOutputRegressor(module, random_state=seed, **params)


def boosted(power, seed):
    loss = "gamma" if power == 2 else "poisson"
    return HistGradientBoostingRegressor(loss=loss, random_state=seed)


# name: a factory that takes a power and a seed
MODELS = {
    "Stack": partial(ours, module=Stack),
    "Stack, deviance": partial(ours, module=Stack, deviance=True),
    "MLP": partial(ours, module=MLP),
    "MLP, deviance": partial(ours, module=MLP, deviance=True),
    "linear, deviance": lambda power, seed: TweedieRegressor(
        power=power, alpha=0.01, link="log", max_iter=1000
    ),
    "HGB, deviance": boosted,
    "MLPRegressor, poisson": lambda power, seed: MLPRegressor(
        loss="poisson", random_state=seed
    ),
}


def entry(load, power, name, seed):
    """Fit one model on one split; return its row of figures."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X, X_test, y, y_test = train_test_split(*load(), test_size=0.3, random_state=seed)
    model = make_pipeline(StandardScaler(), MODELS[name](power, seed))
    start = time.process_time()
    model.fit(X, y)
    seconds = time.process_time() - start
    found = np.asarray(model.predict(X_test), dtype=float)
    above_zero = np.maximum(found, LEAST * y.mean())
    return {
        "data": load.__name__,
        "model": name,
        "seed": seed,
        "D2": d2_tweedie_score(y_test, above_zero, power=power),
        "R2": r2_score(y_test, found),
        "MAE": mean_absolute_error(y_test, found) / y_test.mean(),
        "seconds": seconds,
    }


def play(loads, power, seeds, n_jobs):
    """Return the figures of all fits of a group, one row each."""
    fits = [(load, power, name, s) for load in loads for name in MODELS for s in seeds]
    return pd.DataFrame(Parallel(n_jobs)(delayed(entry)(*fit) for fit in fits))


def differences(results):
    """Return deviance minus squared error: over sets, with the number of gains."""
    means = results.groupby(["model", "data"], sort=False)[["D2", "R2", "MAE"]].mean()
    rows = {}
    for module in ("Stack", "MLP"):
        change = means.loc[f"{module}, deviance"] - means.loc[module]
        for metric, values in change.items():
            gains = values < 0 if metric == "MAE" else values > 0
            rows[f"{module}, {metric}"] = {
                "difference": values.mean(),
                "+-": values.std() / np.sqrt(len(values)) if len(values) > 1 else 0.0,
                "smallest": values.min(),
                "largest": values.max(),
                "sets with a gain": gains.sum(),
                "sets": len(values),
            }
    return pd.DataFrame(rows).T


def section(title, power, results):
    """Return the text of one group."""
    columns = ["D2", "R2", "MAE", "seconds"]
    means = results.groupby("model", sort=False)[columns].mean()
    digits = {"sets with a gain": 0, "sets": 0}
    change = differences(results)
    digits = {name: digits.get(name, 3) for name in change}
    parts = [f"## {title}: power {power:g}", ""]
    parts += [f"### {title}: means over the sets", "", markdown(means, 3), ""]
    parts += [f"### {title}: deviance minus squared error", ""]
    parts += [markdown(change, digits), ""]
    for metric in ("D2", "R2"):
        table = results.pivot_table(metric, "model", "data", "mean", sort=False)
        parts += [f"### {title}: {metric} of each set", "", markdown(table, 3), ""]
    return parts


def report(results, splits):
    """Return the whole text; `results` by title."""
    notes = "\n\n".join(__doc__.split("\n\n")[1:-1])
    parts = ["# Counts and amounts", "", notes, "", f"Here: {splits} splits.", ""]
    for title, found in results.items():
        parts += section(title, GROUPS[title][0], found)
    return "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(prog="benchmarks.counts")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--splits", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    splits = range(1 if arguments.quick else arguments.splits)
    results = {
        title: play(
            loads[:1] if arguments.quick else loads, power, splits, arguments.jobs
        )
        for title, (power, loads) in GROUPS.items()
    }
    text = report(results, len(splits))
    if arguments.quick:
        print(text)
    else:
        Path("benchmarks/COUNTS.md").write_text(text)


if __name__ == "__main__":
    main()
