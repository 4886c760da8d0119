"""How long an exact certificate takes, and how far the cheap bounds are from it.

For each net, over the box of its training data: the smallest value that interval
bounds, CROWN, alpha-CROWN and branch and bound prove, in standard deviations of y, the
smallest value seen, and the time of each method; for the last, the boxes it bounded and
the gap it left (closed at 1e-3 standard deviations). One thread.

    python benchmarks/certificates.py [--time-limit 60] [--json PATH]

The targets, under 1 s for 2-64-64-1 and under 5 s for 8-32-32-1, hold for moderate
functions. Nets that interpolate noise in 8 features have minima far below their data
and can take minutes: these are in the table, too.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_diabetes, make_friedman1

from sklpos import MLP, PositiveOutputRegressor
from sklpos.certificates import Box, certify_module

METHODS = ("interval", "crown", "alpha_crown", "branch_and_bound")
HIDDEN = {2: (64, 64), 8: (32, 32)}
GAP = 1e-3  # in standard deviations of y


def diabetes(columns):
    X, y = load_diabetes(return_X_y=True, scaled=False)
    X = X[:, columns]
    return (X - X.mean(axis=0)) / X.std(axis=0), np.maximum(y - 90, 0)


def friedman(seed):
    """Eight features, five of which matter; noise of a fifth of the signal."""
    X, y = make_friedman1(400, 8, noise=1.0, random_state=seed)
    return X, y - np.quantile(y, 0.05)


def waves(n_features, seed):
    """Many local minima, and few rows."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(300, n_features))
    y = np.sin(3 * X).sum(axis=1) + np.cos(4 * X[:, 0] * X[:, 1])
    y = y + 0.2 * rng.normal(size=300)
    return X, y - np.quantile(y, 0.05)


PROBLEMS = {
    "diabetes, bmi and s5": lambda: diabetes([2, 8]),
    "waves 2, seed 0": lambda: waves(2, 0),
    "waves 2, seed 1": lambda: waves(2, 1),
    "diabetes, without age and sex": lambda: diabetes(slice(2, None)),
    "friedman1, seed 0": lambda: friedman(0),
    "friedman1, seed 1": lambda: friedman(1),
    "waves 8, seed 0": lambda: waves(8, 0),
    "waves 8, seed 1": lambda: waves(8, 1),
}


def measure(X, y, max_epochs, time_limit):
    """One result for each method, bounds and gap in standard deviations of y."""
    model = PositiveOutputRegressor(
        MLP,
        module__hidden_layer_sizes=HIDDEN[X.shape[1]],
        max_epochs=max_epochs,
        lr=0.005,
        batch_size=64,
        on_violated_y="ignore",
        random_state=0,
    ).fit(X, y)
    box = Box(X.min(axis=0), X.max(axis=0))
    question = {"scale": y.std(), "tolerance": GAP, "time_limit": time_limit}
    certify_module(model.module_, box, method="crown", **question)  # warm up
    found = {
        method: certify_module(model.module_, box, method=method, **question)
        for method in METHODS
    }
    return {
        method: {
            "proved": float(certificate.proved_min_[0] / y.std()),
            "seen": float(certificate.attained_min_[0] / y.std()),
            "boxes": certificate.n_boxes_,
            "seconds": certificate.time_,
        }
        for method, certificate in found.items()
    }


def line(name, max_epochs, result):
    exact = result["branch_and_bound"]
    bounds = " ".join(f"{result[method]['proved']:8.2f}" for method in METHODS)
    cheap = " ".join(
        f"{1e3 * result[method]['seconds']:6.0f}" for method in METHODS[:3]
    )
    gap = exact["seen"] - exact["proved"]
    return (
        f"{name:30} {max_epochs:6} | {bounds} {exact['seen']:8.2f} | {cheap} "
        f"{exact['seconds']:7.2f} | {exact['boxes']:8} {gap:8.4f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'':30} {'':6} | {'proved, in standard deviations of y':35} {'':8} | "
        f"{'ms':>20} {'s':>7} |\n"
        f"{'data':30} {'epochs':>6} | {'interval':>8} {'CROWN':>8} {'alpha':>8} "
        f"{'exact':>8} {'seen':>8} | {'inter.':>6} {'CROWN':>6} {'alpha':>6} "
        f"{'exact':>7} | {'boxes':>8} {'gap':>8}"
    )
    results = []
    for name, make in PROBLEMS.items():
        for max_epochs in (30, 100, 400):
            result = measure(*make(), max_epochs, arguments.time_limit)
            print(line(name, max_epochs, result), flush=True)
            results.append({"data": name, "epochs": max_epochs, **result})
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
