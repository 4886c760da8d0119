"""The learning rate: constant, or on half a cosine to 0.

``python -m benchmarks.schedule`` fits the sets of the league with both, 75 % of each
set to train on, two splits, at most 2,000 rows, and prints the mean test R2 and the
largest violation at the end of training, before the repair.
"""

import warnings

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from benchmarks import datasets
from sklpos import MLP, PositiveOutputRegressor

SETTINGS = {
    "augmented_lagrangian, constant": {"lr_schedule": None},
    "augmented_lagrangian, cosine": {},
    "exact_penalty, constant": {"strategy": "exact_penalty", "lr_schedule": None},
    "exact_penalty, cosine": {"strategy": "exact_penalty"},
}
MOST_ROWS, SPLITS = 2_000, 2


def rows_of(make):
    X, y = make()
    if len(y) > MOST_ROWS:
        some = np.random.default_rng(0).permutation(len(y))[:MOST_ROWS]
        X, y = X[some], y[some]
    return X, y


def evaluate(X, y, settings) -> tuple[float, float]:
    """Mean test R2, and the largest violation in standard deviations of y."""
    scores, violations = [], []
    for split in range(SPLITS):
        X_train, X_test, y_train, y_test = train_test_split(
            X, y, test_size=0.25, random_state=split
        )
        scaler = StandardScaler().fit(X_train)
        model = PositiveOutputRegressor(MLP, random_state=0, **settings)
        model.fit(scaler.transform(X_train), y_train)
        scores.append(model.score(scaler.transform(X_test), y_test))
        violations.append(model.kkt_.max_violation)
    return float(np.mean(scores)), max(violations)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    means = {name: [] for name in SETTINGS}
    for make in (*datasets.TUNED, *datasets.FRESH):
        X, y = rows_of(make)
        for name, settings in SETTINGS.items():
            score, violation = evaluate(X, y, settings)
            means[name].append(score)
            print(f"{make.__name__:12}{name:34}{score:8.3f}{violation:10.4f}")
    for name, scores in means.items():
        print(f"{'mean':12}{name:34}{np.mean(scores):8.4f}")


if __name__ == "__main__":
    main()
