"""``python -m benchmarks.league``: our default beside its rivals.

Real data, at most 4,000 rows of each set, 70 % of them to train on, the rest to test.
Inputs are standardised, and every model has its own defaults and one thread. All
figures are means over the same splits. "Clipped" models have their predictions raised
to 0 afterwards; what counts as negative is what they said before.

Each set's figures are merged into ``benchmarks/league.csv``, and the page
``benchmarks/LEAGUE.md`` is written anew. ``--models`` and ``--data`` repeat a part,
``--models`` without a name only writes the page, and ``--quick`` prints a small part
without writing anything.
"""

import argparse
import logging
import time
import warnings
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from sklearn.metrics import mean_absolute_error, mean_poisson_deviance, r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from benchmarks import datasets
from benchmarks.league_models import DEFAULT, MODELS, SLOW
from benchmarks.league_page import LEAST, report

GAMES = Path("benchmarks/league.csv")
PAGE = Path("benchmarks/LEAGUE.md")
GROUPS = {
    "tuned": datasets.TUNED,
    "fresh": datasets.FRESH,
    "wide": datasets.WIDE,
    "unseen": datasets.UNSEEN,
}
LOADS = {load.__name__: load for group in GROUPS.values() for load in group}
KEYS = ["data", "model", "seed"]
QUICK = [DEFAULT, "MLPRegressor, poisson", "ridge, clipped", "LightGBM, poisson"]


def entry(load, name, seed):
    """Fit one model on one split; return its row of figures."""
    warnings.simplefilter("ignore")
    for library in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(library).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    X, X_test, y, y_test = train_test_split(*load(), test_size=0.3, random_state=seed)
    scaler = StandardScaler().fit(X)
    model = MODELS[name](seed)
    start = time.process_time()
    model.fit(scaler.transform(X), y)
    seconds = time.process_time() - start
    row = dict(zip(KEYS, (load.__name__, name, seed), strict=True))
    X_test = scaler.transform(X_test)
    raw, far = model.predict(X_test), model.predict(10 * X_test)
    row |= figures(raw, y_test, clipped=name.endswith("clipped"))
    return row | {"far": (far < 0).mean(), "seconds": seconds}


def figures(raw, y, clipped):
    """Figures of predictions, in units of the mean target."""
    raw, y = raw / y.mean(), y / y.mean()
    # Exponential outputs can overflow.
    final = np.clip(np.nan_to_num(raw), 0 if clipped else None, 1e6)
    return {
        "r2": r2_score(y, final),
        "mae": mean_absolute_error(y, final),
        "deviance": mean_poisson_deviance(y, np.maximum(final, LEAST)),
        "negative": (raw < 0).mean(),
        "ratio": final.mean(),
    }


def play(loads, names, seeds, jobs=2):
    """Return the figures of all games, one row each."""
    games = [
        delayed(entry)(load, name, seed)
        for load in loads
        for name in names
        for seed in seeds
        if seed == 0 or name not in SLOW
    ]
    return pd.DataFrame(Parallel(n_jobs=jobs)(games))


def merge(old, new):
    """Return all games; of those that were played again, the new ones."""
    both = pd.concat([old, new]) if len(old) else new
    return both.drop_duplicates(KEYS, keep="last")


def page(results):
    """Return the whole text of the page about some games."""
    notes = __doc__.split("\n\n")[1]
    groups = {key: [load.__name__ for load in own] for key, own in GROUPS.items()}
    return report(results, notes, groups)


def main():
    parser = argparse.ArgumentParser(prog="benchmarks.league")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--data", nargs="*", choices=LOADS, default=list(LOADS))
    arguments = parser.parse_args()
    if arguments.quick:
        games = play(datasets.TUNED[:1], QUICK, [0], jobs=1)
        print(page(games.assign(run="now")))
        return
    results = pd.read_csv(GAMES) if GAMES.exists() else pd.DataFrame()
    seeds, run = range(arguments.splits), f"{datetime.now():%Y-%m-%d %H:%M}"
    for name in arguments.data if arguments.models else []:
        new = play([LOADS[name]], arguments.models, seeds, arguments.jobs)
        results = merge(results, new.assign(run=run))
        results.sort_values(KEYS).to_csv(GAMES, index=False, float_format="%.5g")
        print(name, flush=True)
    PAGE.write_text(page(results))


if __name__ == "__main__":
    main()
