"""What certified training costs.

Run ``python benchmarks/certified_training.py [seed ...]``.

Four data sets whose targets cannot be negative; for each seed another split, 70 % to
train on, inputs standardised. Both nets have the estimator's defaults but for AdamW at
``lr=0.003``; its weight decay is the one, of 0, 0.3, 1, 3 and 10, with the best mean
test R2 of the *unconstrained* net over the seeds 100, 101 and 102. Fits alternate, and
nothing is repaired. Times are those of the processor, with one thread.

Printed for each data set, as medians over the seeds: test R2 of both nets, the median
and the worst of their differences, the ratio of the times, and the interval bound over
the box of the training data, less the lower bound of 0, in standard deviations of y:
what is below 0 is left to the repair.
"""

import sys
import time
import warnings

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from vega_datasets import data

from sklpos import MLP, PositiveOutputRegressor


def diabetes():
    """Progression of diabetes above a level of 90, 0 below it."""
    X, y = load_diabetes(return_X_y=True)
    return X, np.maximum(y - 90, 0)


def rain():
    """Rain of a day in Seattle, as in ``examples/plot_first_fit.py``."""
    weather = data.seattle_weather()
    season = 2 * np.pi * weather["date"].dt.day_of_year / 365.25
    X = weather[["temp_max", "temp_min", "wind"]].assign(
        sin=np.sin(season), cos=np.cos(season)
    )
    return X.to_numpy(float), weather["precipitation"].to_numpy(float)


def cars():
    """Miles per gallon of cars of the seventies."""
    table = data.cars().dropna(subset=["Miles_per_Gallon", "Horsepower"])
    names = ["Cylinders", "Displacement", "Horsepower", "Weight_in_lbs", "Acceleration"]
    X = table[names].assign(
        year=table["Year"].dt.year,
        usa=table["Origin"] == "USA",
        japan=table["Origin"] == "Japan",
    )
    return X.to_numpy(float), table["Miles_per_Gallon"].to_numpy(float)


def concavity():
    """Mean concavity of cell nuclei; exactly 0 in some."""
    X, _ = load_breast_cancer(return_X_y=True)
    return X[:, [0, 1, 2, 3, 4, 5, 8, 9]], X[:, 6]


WEIGHT_DECAY = {diabetes: 10.0, rain: 1.0, cars: 1.0, concavity: 1.0}


def timed_fit(strategy, X, y, seed, weight_decay):
    """Return a fitted net and the seconds it took."""
    model = PositiveOutputRegressor(
        MLP,
        strategy=strategy,
        repair=None,
        lr=0.003,
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=weight_decay,
        random_state=seed,
    )
    start = time.process_time()
    model.fit(X, y)
    return model, time.process_time() - start


def measure(load, seed):
    """Return test R2, times and interval bounds, each without and with training."""
    X, X_test, y, y_test = train_test_split(*load(), test_size=0.3, random_state=seed)
    scaler = StandardScaler().fit(X)
    X, X_test = scaler.transform(X), scaler.transform(X_test)
    results = [
        timed_fit(strategy, X, y, seed, WEIGHT_DECAY[load])
        for strategy in ("unconstrained", "certified")
    ]
    (plain, before), (certified, after) = results
    models = (plain, certified)
    scores = [model.score(X_test, y_test) for model in models]
    bounds = [model.certify(method="interval").proved_min_[0] for model in models]
    return [*scores, before, after, *np.divide(bounds, y.std())]


def line(load, seeds):
    """Return a data set's line of the table."""
    rows = np.array([measure(load, seed) for seed in seeds])
    plain, certified, before, after, loose, bound = rows.T
    gain = certified - plain
    return (
        f"{load.__name__:<10}{np.median(plain):8.3f}{np.median(certified):8.3f}"
        f"{np.median(gain):+9.3f}{gain.min():+8.3f}"
        f"{np.median(after) / np.median(before):7.1f}"
        f"{np.median(loose):10.1f}{np.median(bound):9.3f}{bound.min():8.3f}"
        f"{(bound >= 0).sum():6d} of {len(seeds)}"
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in sys.argv[1:]] or range(5)
    print(
        "                 test R2            gain      time   interval bound, sd of y\n"
        "             plain    cert   median   worst  ratio     plain     cert   worst"
        "   proved"
    )
    for load in WEIGHT_DECAY:
        print(line(load, seeds), flush=True)
