"""The least distance under inequalities, against its optimality conditions and nnls."""

import numpy as np
import pytest
from scipy.optimize import nnls

from sklpos.repair import least_distance
from sklpos.repair.least_distance import LeastDistance


def polyhedron(n_rows, n_variables, *, kind="random", seed=0):
    """Rows and what they need, with a common point inside."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, n_variables)) * rng.lognormal(size=(n_rows, 1))
    if kind == "repeated":
        rows = rows.repeat(3, axis=0)[:n_rows]
    if kind == "of low rank":
        mixing = rng.normal(size=(n_variables // 4, n_variables))
        rows = rows[:, : n_variables // 4] @ mixing
    room = np.abs(rng.normal(size=n_rows)) * np.linalg.norm(rows, axis=1)
    if kind == "a vertex":
        room = 0.01 * room
    if kind == "repeated":
        room = room[np.arange(n_rows) // 3]
    return rows, rows @ rng.normal(size=n_variables) - room


def solve_in_parts(rows, needed, n_parts):
    """Add the rows in parts, and solve after each."""
    problem = LeastDistance(rows.shape[1])
    for part in np.array_split(rows, n_parts):
        problem.add(part)
        solution = problem.solve(needed[: len(problem)])
    return solution


def assert_optimal(rows, needed, solution):
    u, multipliers = solution
    lengths = np.linalg.norm(rows, axis=1)
    slack = (rows @ u - needed) / lengths
    size = np.linalg.norm(u)
    assert (multipliers >= -1e-12 * multipliers.max()).all()
    assert slack.min() > -1e-10 * size
    assert np.abs(2 * u - multipliers @ rows).max() < 1e-10 * size
    assert np.abs(slack[multipliers > 0]).max() < 1e-10 * size


def distance_by_nnls(rows, needed):
    """Lawson and Hanson's algorithm LDP from a cold start: length of the solution."""
    lengths = np.linalg.norm(rows, axis=1)
    rows, needed = rows / lengths[:, None], needed / lengths
    unit = needed.max()
    target = np.append(np.zeros(rows.shape[1]), 1.0)
    _, residual = nnls(np.vstack([rows.T, needed / unit]), target)
    return unit * np.sqrt(1 / residual**2 - 1)


@pytest.mark.parametrize("n_parts", [1, 6])
@pytest.mark.parametrize("n_variables", [20, 160])
@pytest.mark.parametrize("kind", ["random", "repeated", "of low rank", "a vertex"])
def test_is_optimal_and_as_near_as_from_a_cold_start(kind, n_variables, n_parts):
    for seed in range(3):
        rows, needed = polyhedron(3 * n_variables, n_variables, kind=kind, seed=seed)
        solution = solve_in_parts(rows, needed, n_parts)
        assert_optimal(rows, needed, solution)
        expected = distance_by_nnls(rows, needed)
        assert np.linalg.norm(solution[0]) == pytest.approx(expected, rel=1e-9)


def test_a_wide_problem_starts_from_the_last_solution(monkeypatch):
    """Few exchanges per part, none of them by nnls, which starts afresh."""

    def fail(*args, **kwargs):
        raise AssertionError("nnls was called")

    monkeypatch.setattr(least_distance, "nnls", fail)
    for kind in ("random", "repeated"):
        rows, needed = polyhedron(300, 300, kind=kind)
        assert_optimal(rows, needed, solve_in_parts(rows, needed, 5))


@pytest.mark.parametrize("n_variables", [20, 160])
def test_there_may_be_no_solution_within_reach(n_variables):
    rows, needed = polyhedron(10, n_variables)
    problem = LeastDistance(n_variables)
    problem.add(np.vstack([rows, -rows[:1]]))
    # One row at least 1 above what its mirror image allows.
    assert problem.solve(np.append(needed, 1 - needed[0])) is None


@pytest.mark.parametrize("n_variables", [20, 160])
def test_nothing_is_needed(n_variables):
    rows, _ = polyhedron(10, n_variables)
    problem = LeastDistance(n_variables)
    u, multipliers = problem.solve(np.empty(0))
    assert not u.any()
    problem.add(rows)
    u, multipliers = problem.solve(np.full(10, -1.0))
    assert not u.any()
    assert multipliers.shape == (10,)
    assert not multipliers.any()


def test_distances_beyond_all_numbers_are_out_of_reach():
    problem = LeastDistance(2)
    problem.add(np.array([[1e-150, 0.0], [0.0, 1.0]]))
    assert problem.solve(np.array([1e200, 1.0])) is None
