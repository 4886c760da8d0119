"""``python -m benchmarks.certificates``: what is proved of ordinary nets in 10 s.

The nets are those of scikit-learn's `MLPRegressor` with its defaults, so they know
nothing of bounds: two hidden layers of 64 ReLUs ("relu 64-64"), one of 100 ("relu 100")
or one of 32 tanh units ("tanh 32"). They are trained on standardised inputs, of at most
500 rows, and on targets that are never negative. Three questions are asked about each:

- box: are all outputs over the box of the training rows at least 0?
- hull: are they over the convex hull of the training rows?
- gap: with a tolerance of 0.25 standard deviations of y, how far below the smallest
  value found over the box is what is proved?

Bounds and gaps are in standard deviations of y. There is one thread, and the seconds
are of the processor, so that other work on the machine does not decide a verdict.

auto_LiRPA of the group that invented CROWN bounds the outputs over the same boxes, if
it is installed; it is in none of the dependency groups. Its alpha-CROWN makes 20 steps.

``benchmarks/CERTIFICATES.md`` and ``benchmarks/certificates.csv`` are written anew, the
page also from ``benchmarks/certificates_before.csv``, the figures of version 0.1 by the
same questions. ``--csv PATH`` writes the figures only, ``--quick`` prints a small part.
"""

import argparse
import time
import warnings
from pathlib import Path
from unittest import mock

import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer, load_wine, make_friedman1
from sklearn.datasets import load_diabetes as load_sick
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler
from torch import nn

from benchmarks import datasets
from benchmarks.certificates_page import page
from benchmarks.lirpa import bounds_of_lirpa
from sklpos.certificates import Box, Hull, certify_module

TIME_LIMIT = 10.0
TOLERANCE = 0.25
MOST_ROWS = 500
# Features of the nets that a question is asked about: small nets are easy.
MEDIUM = range(10, 31)
WIDTHS = {"box": range(1, 100), "hull": range(10, 100)}
HERE = Path(__file__).parent
NETS = {
    "relu 64-64": ("relu", (64, 64)),
    "relu 100": ("relu", (100,)),
    "tanh 32": ("tanh", (32,)),
}


def friedman(n_features):
    """Five features matter; the noise is a fifth of the signal."""
    X, y = make_friedman1(MOST_ROWS, n_features, noise=1.0, random_state=0)
    return X, y.clip(min=0)


def diabetes():
    """Progression of diabetes, 25 to 346."""
    return load_sick(return_X_y=True)


def alcohol():
    """Alcohol in wine, from its other twelve properties."""
    X, _ = load_wine(return_X_y=True)
    return X[:, 1:], X[:, 0]


def radius():
    """Mean radius of cell nuclei, from all other measurements."""
    X, _ = load_breast_cancer(return_X_y=True)
    return X[:, 1:], X[:, 0]


# name: a function that returns X and y
PROBLEMS = {
    "friedman 5": lambda: friedman(5),
    "concrete": datasets.concrete,
    "diabetes": diabetes,
    "friedman 10": lambda: friedman(10),
    "wine": alcohol,
    "friedman 20": lambda: friedman(20),
    "nuclei": radius,
    "friedman 30": lambda: friedman(30),
    "digits": datasets.ink,
}


def rows(load):
    """Return at most 500 rows, standardised, without constant features."""
    X, y = load()
    X = X[:, X.std(axis=0) > 0]
    # Each n-th row, as some sets are sorted.
    every = -(-len(X) // MOST_ROWS)
    return StandardScaler().fit_transform(X[::every]), y[::every]


def net(X, y, activation, sizes):
    """Return a trained net as a float64 module, in standard deviations of y."""
    model = MLPRegressor(
        hidden_layer_sizes=sizes, activation=activation, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y / y.std())
    parts = []
    for weight, bias in zip(model.coefs_, model.intercepts_, strict=True):
        linear = nn.Linear(*weight.shape).double()
        linear.weight.data = torch.as_tensor(weight.T.copy())
        linear.bias.data = torch.as_tensor(bias)
        parts += [linear, nn.ReLU() if activation == "relu" else nn.Tanh()]
    return nn.Sequential(*parts[:-1]).eval()


def asked(module, X):
    """Ask all questions about a net; yield a row of figures for each."""
    box = Box(X.min(axis=0), X.max(axis=0))
    questions = {
        "box": (box, None, "auto"),
        "hull": (Hull(X), None, "auto"),
        "gap": (box, TOLERANCE, "auto"),
        "CROWN": (box, TOLERANCE, "crown"),
        "alpha-CROWN": (box, TOLERANCE, "alpha_crown"),
    }
    for question, (domain, tolerance, method) in questions.items():
        if X.shape[1] in WIDTHS.get(question, MEDIUM):
            found = limited(
                certify_module, module, domain, tolerance=tolerance, method=method
            )
            yield {
                "question": question,
                "status": found.status_,
                "method": found.method_,
                "proved": float(found.proved_min_[0]),
                "seen": float(found.attained_min_[0]),
                "seconds": found.time_,
            }
    if X.shape[1] in MEDIUM:
        for method, (proved, seconds) in bounds_of_lirpa(module, box).items():
            yield {"question": method, "proved": proved, "seconds": seconds}


def limited(function, *args, **params):
    """Call a function with a time limit in seconds of the processor."""
    # Certificates look at this clock; the processor's does not see other work.
    with mock.patch("time.monotonic", time.process_time):
        return function(*args, time_limit=TIME_LIMIT, **params)


def measure(problems, nets):
    """Return the figures of all nets, one row per question."""
    results = []
    for name in problems:
        X, y = rows(PROBLEMS[name])
        for kind in nets:
            module = net(X, y, *NETS[kind])
            about = {"data": name, "features": X.shape[1], "net": kind}
            for row in asked(module, X):
                print(*about.values(), *row.values(), flush=True)
                results.append({**about, **row})
    return pd.DataFrame(results)


def main():
    parser = argparse.ArgumentParser(prog="benchmarks.certificates")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.quick:
        measure(["diabetes"], ["relu 100", "tanh 32"])
        return
    results = measure(PROBLEMS, NETS)
    results.to_csv(arguments.csv or HERE / "certificates.csv", index=False)
    if arguments.csv is None:
        before = pd.read_csv(HERE / "certificates_before.csv")
        (HERE / "CERTIFICATES.md").write_text(page(results, before, __doc__))


if __name__ == "__main__":
    main()
