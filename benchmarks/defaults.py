"""``python -m benchmarks.defaults``: a grid around the defaults of `MLP`.

The default strategy, 70 % of each set to train on, three splits (others than those of
the league), inputs standardised. Test R2 after the repair, and "behind": how far it is
below the best of the whole grid, as mean and maximum over the sets. Below: share of
negative test predictions before and after the repair, and seconds of a fit.

The estimate of the noise that sets the weight decay, and the growth of the augmented
Lagrangian's curvature, were chosen on these sets and on the data of the first tutorial,
where half of the targets lie on the bound.

``benchmarks/DEFAULTS.md`` is written anew; ``--quick`` prints a small part only.
"""

import argparse
import copy
import time
import warnings
from itertools import chain
from pathlib import Path

import pandas as pd
import torch
from joblib import Parallel, delayed
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from benchmarks import datasets
from benchmarks.tables import markdown
from sklpos import MLP, PositiveOutputRegressor
from sklpos.strategies import AugmentedLagrangian

EPOCHS = (25, 50, 100, 200)
SETTINGS = [
    *(
        {"lr": lr, "weight_decay": d}
        for lr in (1e-3, 4e-3, 1e-2)
        for d in (0.0, "auto")
    ),
    {"weight_decay": 1.0},
    *({"callbacks__weight_decay__strength": strength} for strength in (2.0, 8.0)),
    *({"batch_size": size} for size in (32, 256)),
    {"strategy": "unconstrained"},
    {"strategy": AugmentedLagrangian(growth=1.2)},
    {"strategy": AugmentedLagrangian(max_curvature=100.0)},
]
CHOSEN = {"lr": 4e-3, "weight_decay": "auto"}
CHOSEN_EPOCHS = 100


def split(load, seed):
    X, X_test, y, y_test = train_test_split(*load(), test_size=0.3, random_state=seed)
    scaler = StandardScaler().fit(X)
    return scaler.transform(X), scaler.transform(X_test), y, y_test


def title(params):
    names = [f"{name.rpartition('__')[2]} {value}" for name, value in params.items()]
    return ", ".join(names)


def course(load, seed, params):
    """Return the figures of one fit after some numbers of epochs, a row each."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X, X_test, y, y_test = split(load, seed)
    name = title(params)
    params = {"repair": None, "warm_start": True, "random_state": seed, **params}
    model, rows, seconds = PositiveOutputRegressor(MLP, **params), [], 0.0
    for epochs in EPOCHS:
        start = time.process_time()
        model.set_params(max_epochs=epochs).fit(X, y)
        seconds += time.process_time() - start
        row = {"data": load.__name__, "setting": name, "epochs": epochs}
        rows.append(row | {"seconds": seconds} | look(model, X, X_test, y_test))
    return rows


def look(model, X, X_test, y_test):
    """Return test figures, of a copy that is repaired."""
    before, repaired = model.predict(X_test), copy.deepcopy(model).enforce(X)
    after = repaired.predict(X_test)
    return {
        "r2": r2_score(y_test, after),
        "negative before": (before < 0).mean(),
        "negative after": (after < 0).mean(),
    }


def stopped(load, seed):
    """Return the figures of a fit with early stopping."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X, X_test, y, y_test = split(load, seed)
    model = PositiveOutputRegressor(
        MLP, random_state=seed, early_stopping=True, max_epochs=200, weight_decay=0.0
    )
    start = time.process_time()
    model.fit(X, y)
    row = {"data": load.__name__, "setting": "early stopping, no decay", "epochs": 200}
    row["seconds"] = time.process_time() - start
    return [row | look(model, X, X_test, y_test)]


def play(loads, settings, seeds):
    jobs = [delayed(course)(*job) for job in _product(loads, seeds, settings)]
    jobs += [delayed(stopped)(load, seed) for load in loads for seed in seeds]
    return pd.DataFrame(chain.from_iterable(Parallel(n_jobs=2)(jobs)))


def _product(loads, seeds, settings):
    return [(load, seed, own) for load in loads for seed in seeds for own in settings]


def report(results):
    """Return the whole text."""
    keys = ["setting", "epochs"]
    r2 = results.pivot_table("r2", keys, "data", "mean", sort=False)
    behind = r2.max() - r2
    r2.insert(0, "behind, mean", behind.mean(axis=1))
    r2.insert(1, "behind, worst", behind.max(axis=1))
    r2.index = [f"{name}, {epochs} epochs" for name, epochs in r2.index]
    notes = "\n\n".join(__doc__.split("\n\n")[1:3])
    parts = ["# The defaults", "", notes, "", markdown(r2, 3), ""]
    own = results[results["setting"] == title(CHOSEN)]
    own = own[own["epochs"] == CHOSEN_EPOCHS]
    columns = ["r2", "negative before", "negative after", "seconds"]
    means = own.groupby("data", sort=False)[columns].mean()
    parts += ["## The chosen ones", "", markdown(means, 3), ""]
    return "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(prog="benchmarks.defaults")
    parser.add_argument("--quick", action="store_true")
    if parser.parse_args().quick:
        print(report(play(datasets.TUNED[:1], [CHOSEN], [100])))
        return
    results = play(datasets.TUNED, SETTINGS, [100, 101, 102])
    Path("benchmarks/DEFAULTS.md").write_text(report(results))


if __name__ == "__main__":
    main()
