"""``python -m benchmarks.league``: our default and every strategy beside its rivals.

Real data, 70 % of each set to train on, the rest to test, inputs standardised, every
model with its own defaults; means over some splits. "Clipped" models have their
predictions raised to 0 afterwards; what counts as negative is what they said before.
Test R2 and mean ratio (of the sum of predictions to that of the targets) are of the
predictions a user would get.

``benchmarks/LEAGUE.md`` is written anew, after each set; ``--quick`` prints a small
part only.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import PoissonRegressor, RidgeCV, TweedieRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks import datasets
from sklpos import STRATEGIES, PositiveOutputRegressor


def log_target(seed):
    return TransformedTargetRegressor(
        MLPRegressor(random_state=seed), func=np.log1p, inverse_func=np.expm1
    )


# name: a factory that takes a seed
OWN = {
    "default": lambda seed: PositiveOutputRegressor(random_state=seed),
    "default, no balance": lambda seed: PositiveOutputRegressor(
        balance=False, random_state=seed
    ),
    "default, no repair": lambda seed: PositiveOutputRegressor(
        repair=None, random_state=seed
    ),
    "unconstrained, clipped": lambda seed: PositiveOutputRegressor(
        strategy="unconstrained", repair=None, random_state=seed
    ),
    **{
        name: lambda seed, name=name: PositiveOutputRegressor(
            strategy=name, random_state=seed
        )
        for name in STRATEGIES
        if name != PositiveOutputRegressor().strategy
    },
}
NETWORKS = {
    "MLP, clipped": lambda seed: MLPRegressor(random_state=seed),
    "MLP, early stopping, clipped": lambda seed: MLPRegressor(
        early_stopping=True, random_state=seed
    ),
    "MLP, poisson": lambda seed: MLPRegressor(loss="poisson", random_state=seed),
    "MLP, log1p": log_target,
}
OTHERS = {
    "ridge, clipped": lambda seed: RidgeCV(np.logspace(-3, 3, 13)),
    "poisson GLM": lambda seed: PoissonRegressor(max_iter=1000),
    "Tweedie GLM": lambda seed: TweedieRegressor(power=1.5, max_iter=1000),
    "boosting, clipped": lambda seed: HistGradientBoostingRegressor(random_state=seed),
    "boosting, poisson": lambda seed: HistGradientBoostingRegressor(
        loss="poisson", random_state=seed
    ),
}
MODELS = {**OWN, **NETWORKS, **OTHERS}


def entry(load, name, seed):
    """Fit one model on one split; return its row of figures."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X, X_test, y, y_test = train_test_split(*load(), test_size=0.3, random_state=seed)
    model = make_pipeline(StandardScaler(), MODELS[name](seed))
    start = time.process_time()
    model.fit(X, y)
    seconds = time.process_time() - start
    raw = model.predict(X_test)
    final = np.maximum(raw, 0) if name.endswith("clipped") else raw
    return {
        "data": load.__name__,
        "model": name,
        "seed": seed,
        "r2": r2_score(y_test, final),
        "negative": (raw < 0).mean(),
        "size": np.maximum(-raw, 0).sum() / y_test.sum(),
        "negative_train": (model.predict(X) < 0).mean(),
        "ratio": final.sum() / y_test.sum(),
        "seconds": seconds,
    }


def play(loads, names, seeds):
    """Return the figures of all games, one row each."""
    games = [(load, name, seed) for load in loads for name in names for seed in seeds]
    rows = Parallel(n_jobs=2)(delayed(entry)(*game) for game in games)
    return pd.DataFrame(rows)


def markdown(table, digits):
    """Return a data frame as a table of Markdown."""
    lines = [["", *table.columns], ["---"] + ["---:"] * len(table.columns)]
    lines += [
        [name, *(f"{value:.{digits}f}" for value in row)]
        for name, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def goals(results):
    """Return, for each data set, how the default stands to the other networks."""
    means = results.groupby(["data", "model"], sort=False).mean()
    nets = [name for name in {**OWN, **NETWORKS} if name != "default"]
    rivals = [name for name in NETWORKS if name in set(results["model"])]
    clipped = "unconstrained, clipped"
    rows = {}
    for data in results["data"].unique():
        own = means.loc[data].loc["default"]
        rival = means.loc[data].loc[rivals]["r2"]
        clip = means.loc[data].loc[clipped]
        known = [name for name in nets if name in means.loc[data].index]
        rows[data] = {
            "R2": own["r2"],
            "less best rival net": own["r2"] - rival.max(),
            "less MLP": own["r2"] - rival["MLP, clipped"],
            "less best net": own["r2"] - means.loc[data].loc[known]["r2"].max(),
            "negative, train": own["negative_train"],
            "negative, test": own["negative"],
            "the clipped net's": clip["negative"],
            "mean ratio": own["ratio"],
            "the clipped net's ratio": clip["ratio"],
        }
    return pd.DataFrame(rows).T


def report(results):
    """Return the whole text."""
    tables = [
        ("Test R2", "r2", 3),
        ("Share of negative test predictions", "negative", 3),
        ("Sum of negative test predictions, as a share of the sum of y", "size", 4),
        ("Test mean ratio", "ratio", 2),
        ("Seconds of a fit", "seconds", 1),
    ]
    parts = ["# The league", "", __doc__.split("\n\n")[1], ""]
    tuned = ", ".join(load.__name__ for load in datasets.TUNED)
    splits = results["seed"].nunique()
    parts += [f"Here: {splits} splits, at most {datasets.MOST_ROWS:,} rows of a set."]
    parts += [f"The defaults of sklpos were chosen on {tuned}; on no others.", ""]
    parts += ["## The default", "", markdown(goals(results), 3), ""]
    for title, column, digits in tables:
        means = results.pivot_table(column, "model", "data", "mean", sort=False)
        parts += [f"## {title}", "", markdown(means, digits), ""]
    return "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(prog="benchmarks.league")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--splits", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.quick:
        names = ["default", "unconstrained, clipped", *NETWORKS]
        print(report(play(datasets.TUNED[:1], names, [0])))
        return
    results = pd.DataFrame()
    for load in datasets.TUNED + datasets.FRESH:
        results = pd.concat([results, play([load], MODELS, range(arguments.splits))])
        results.to_csv("benchmarks/league.csv", index=False, float_format="%.6g")
        Path("benchmarks/LEAGUE.md").write_text(report(results))
        print(load.__name__, flush=True)


if __name__ == "__main__":
    main()
