"""A grid search whose fits train together, beside one that trains them one by one."""

import warnings

import numpy as np
from sklearn.model_selection import GridSearchCV

from benchmarks.measuring import interleave, table
from benchmarks.problem import SMALL, Problem
from sklpos.search import BatchedGridSearchCV

SERIAL, TOGETHER = "GridSearchCV", "BatchedGridSearchCV"
# rows, candidates, epochs, rounds
CASES = [(1_000, 1, 100, 5), (1_000, 8, 100, 3), (1_000, 32, 100, 1)]


def batched_search(quick: bool) -> list[dict]:
    """Time searches over 1, 8 and 32 candidates, on one split, without a refit."""
    cases = [(250, 2, 2, 1)] if quick else CASES
    return [_search(*case) for case in cases]


def _search(n_rows, n_candidates, n_epochs, rounds) -> dict:
    problem = Problem(n_rows, SMALL, 128)
    grid = {"alpha": np.geomspace(0.3, 30.0, n_candidates).tolist()}
    model = problem.estimator(max_epochs=n_epochs, repair="head", alpha=1.0)
    rows = np.arange(problem.n_samples)
    split = [(rows, rows[:100])]
    X, y = problem.X.astype(np.float64), problem.y.ravel().astype(np.float64)

    def run(kind):
        return lambda: kind(model, grid, cv=split, refit=False).fit(X, y)

    runs = {SERIAL: run(GridSearchCV), TOGETHER: run(BatchedGridSearchCV)}
    with warnings.catch_warnings():
        # A net of two epochs is far from its bounds.
        warnings.simplefilter("ignore")
        timings = interleave(runs, rounds, warm_up=rounds > 1)
    title = f"search over {n_candidates} candidates, {n_epochs} epochs"
    unit = "ms per candidate", 1e3 / n_candidates
    return table(title, problem, timings, unit, [SERIAL])
