"""Small problems: data that violate the bound, and some with exact solutions."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls


def make_data(n, slope, *, shift=0.0, noise=0.0, seed=0):
    """Rows whose targets are often 0: those of a linear model, cut off below.

    The slope has the shape (n_features,) or (n_features, n_outputs).
    """
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, len(slope)))
    raw = X @ np.asarray(slope) + shift
    return X, np.maximum(raw + noise * rng.normal(size=raw.shape), 0)


@dataclass(frozen=True)
class Problem:
    """A linear model under ``f >= 0`` and its solution (mean convention, unit of y).

    `multipliers` is None where the dual solution is not unique.
    """

    name: str
    X: np.ndarray
    y: np.ndarray
    bias: bool
    prediction: np.ndarray
    multipliers: np.ndarray | None

    @property
    def objective(self) -> float:
        """Mean squared error of the solution."""
        return float(np.mean((self.prediction - self.y) ** 2))

    def __str__(self) -> str:
        return self.name


def one_hot() -> Problem:
    y = np.array([-1.0, 0.5, 2.0, -3.0])
    return Problem(
        "one_hot", np.eye(4), y, False, np.maximum(y, 0), np.array([2.0, 0, 0, 6])
    )


def line() -> Problem:
    x = np.arange(4.0)
    multipliers = np.array([20 / 7, 0, 0, 0])
    return Problem("line", x[:, None], x - 1, True, 4 / 7 * x, multipliers)


def constant() -> Problem:
    zero = np.zeros(1)
    return Problem("constant", np.zeros((1, 1)), zero - 1, True, zero, zero + 2)


def random_dense(seed: int) -> Problem:
    """200 rows, 5 features; solved as a least-distance problem by nnls."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200, 5))
    y = X @ rng.normal(size=5) + 0.5 + rng.normal(size=200)
    return Problem(f"random_dense_{seed}", X, y, True, *solve_exactly(X, y))


def solve_exactly(X, y):
    """Minimise ``mean (f - y)**2`` subject to ``f >= 0`` over lines with intercept.

    With ``Phi = Q R`` and ``u = R v - Q'y`` it is the least distance ``|u|`` under
    ``Q u >= -Q Q'y`` (Lawson & Hanson 1974, ch. 23).
    """
    design = np.hstack([X, np.ones((len(X), 1))])
    q, _ = np.linalg.qr(design)
    fit = q @ (q.T @ y)
    stacked = np.vstack([q.T, -fit])
    target = np.append(np.zeros(q.shape[1]), 1.0)
    weights, _ = nnls(stacked, target)
    residual = stacked @ weights - target
    shift = -residual[:-1] / residual[-1]
    dual = weights / -residual[-1]  # |u|**2 / 2 has multipliers `dual`
    return fit + q @ shift, 2 * dual
