"""Published quadratic programmes ``min x'Hx / 2 + c'x`` subject to ``A x >= b``.

As a linear model: the rows of ``A`` are its inputs, ``x`` its weights, ``A x`` its
predictions and ``b`` their lower bounds. In the mean convention of the project the loss
is ``(x'Hx / 2 + c'x) / len(b)``; then the multipliers are those of the textbook.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

HOCK_SCHITTKOWSKI = (
    "W. Hock, K. Schittkowski (1981), Test Examples for Nonlinear Programming Codes, "
    "doi:10.1007/978-3-642-48320-2, problem "
)


@dataclass(frozen=True)
class QuadraticProgramme:
    """A strictly convex programme and its solution.

    Attributes
    ----------
    H, c : ndarray of shape (n, n) and (n,)
        Scaled to a mean curvature of 2 per variable, that of a squared error.
    A, b : ndarray of shape (m, n) and (m,)
        Each row scaled to unit length.
    solution, multipliers : ndarray of shape (n,) and (m,)
    unique : bool
        Whether these are the only multipliers. ``A' multipliers`` always is.
    published : float or None
        Optimum in the source, without its constant term, in the scale of ``H``.
    """

    name: str
    source: str
    H: np.ndarray
    c: np.ndarray
    A: np.ndarray
    b: np.ndarray
    solution: np.ndarray
    multipliers: np.ndarray
    unique: bool
    published: float | None

    def objective(self, x) -> float:
        """Value of ``x'Hx / 2 + c'x``."""
        return float(x @ self.H @ x / 2 + self.c @ x)

    def __str__(self) -> str:
        return self.name


def programme(name, source, H, c, A, b, published=None) -> QuadraticProgramme:
    """Scale a programme and solve it."""
    H, c, A, b = (np.asarray(part, dtype=float) for part in (H, c, A, b))
    unit = 2 * len(H) / np.trace(H)
    length = np.linalg.norm(A, axis=1)
    H, c, A, b = unit * H, unit * c, A / length[:, None], b / length
    solution, multipliers = solve(H, c, A, b)
    active = A[A @ solution - b < 1e-8]
    return QuadraticProgramme(
        name,
        source,
        H,
        c,
        A,
        b,
        solution,
        multipliers,
        unique=len(active) == 0 or np.linalg.matrix_rank(active) == len(active),
        published=None if published is None else unit * published,
    )


def solve(H, c, A, b):
    """Return the exact solution and multipliers.

    With ``H = L L'`` and ``u = L'x + inv(L) c`` it is the least distance ``|u|`` under
    linear constraints, a non-negative least-squares problem in its dual (Lawson &
    Hanson 1974, chapter 23).
    """
    L = np.linalg.cholesky(H)
    rows = solve_triangular(L, A.T, lower=True).T
    shift = solve_triangular(L, c, lower=True)
    stacked = np.vstack([rows.T, b + rows @ shift])
    target = np.append(np.zeros(len(H)), 1.0)
    weights, _ = nnls(stacked, target, maxiter=100 * len(b))
    residual = stacked @ weights - target
    u = -residual[:-1] / residual[-1]
    return solve_triangular(L.T, u - shift), weights / -residual[-1]


def hs21():
    H, bounds = np.diag([0.02, 2.0]), np.eye(2)
    A = [[10, -1], *bounds, *-bounds]
    b = [10, 2, -50, -50, -50]
    source = HOCK_SCHITTKOWSKI + "21"
    return programme("HS21", source, H, [0, 0], A, b, published=0.04)


def hs35():
    H = [[4, 2, 2], [2, 4, 0], [2, 0, 2]]
    A = [[-1, -1, -2], *np.eye(3)]
    c, b = [-8, -6, -4], [-3, 0, 0, 0]
    source = HOCK_SCHITTKOWSKI + "35"
    return programme("HS35", source, H, c, A, b, published=1 / 9 - 9)


def hs76():
    H = [[2, 0, -1, 0], [0, 1, 0, 0], [-1, 0, 2, 1], [0, 0, 1, 1]]
    A = [[-1, -2, -1, -1], [-3, -1, -2, 1], [0, 1, 4, 0], *np.eye(4)]
    c, b = [-1, -3, 1, -1], [-5, -4, 1.5, 0, 0, 0, 0]
    source = HOCK_SCHITTKOWSKI + "76"
    return programme("HS76", source, H, c, A, b, published=-4.681818181818)


def nocedal_wright():
    A = [[1, -2], [-1, -2], [-1, 2], *np.eye(2)]
    source = (
        "J. Nocedal, S. J. Wright (2006), Numerical Optimization, "
        "doi:10.1007/978-0-387-40065-5, example 16.4"
    )
    H, c, b = 2 * np.eye(2), [-2, -5], [-2, -6, -2, 0, 0]
    return programme("Nocedal-Wright", source, H, c, A, b, published=0.8 - 7.25)


def goldfarb_idnani():
    A = [[-4, -3, 0], [2, 1, 0], [0, -2, 1]]
    source = (
        "D. Goldfarb, A. Idnani (1983), A numerically stable dual method for solving "
        "strictly convex quadratic programs, doi:10.1007/BF02591962; the example of "
        "the R package quadprog that implements it"
    )
    H, c, b = np.eye(3), [0, -5, 0], [-8, 2, 0]
    return programme("Goldfarb-Idnani", source, H, c, A, b, published=-2.380952380952)


def osqp():
    """Its equality ``x1 + x2 = 1`` is two rows here, and has no interior."""
    A = [[1, 1], *np.eye(2), [-1, -1], *-np.eye(2)]
    source = (
        "B. Stellato et al. (2020), OSQP: an operator splitting solver for quadratic "
        "programs, doi:10.1007/s12532-020-00179-2; the demo of its documentation"
    )
    H, c, b = [[4, 1], [1, 2]], [1, 1], [1, 0, 0, -1, -0.7, -0.7]
    return programme("OSQP", source, H, c, A, b, published=1.88)


def boyd():
    """All three constraints are active in two variables."""
    A = [[-1, -2], [-1, 4], [-5, -76]]
    source = (
        "S. Boyd, L. Vandenberghe, Additional Exercises for Convex Optimization: "
        "numerical perturbation analysis of a quadratic programme"
    )
    H, c, b = [[2, -1], [-1, 4]], [-1, 0], [2, 3, -1]
    return programme("Boyd", source, H, c, A, b, published=8.2222222222)


def quadprog():
    A = [[-1, -1], [1, -2], [-2, -1], *np.eye(2)]
    source = "MathWorks, documentation of quadprog, Optimization Toolbox, example 1"
    H, c, b = [[1, -1], [-1, 2]], [-2, -6], [-2, -2, -3, 0, 0]
    return programme("quadprog", source, H, c, A, b, published=-8.2222222222)


def isotonic():
    y = np.array([1.0, 0, 4, 3, 3, 5, 4, 2, 0])
    fitted = np.array([0.5] * 2 + [3.0] * 7)
    source = (
        "R. E. Barlow, D. J. Bartholomew, J. M. Bremner, H. D. Brunk (1972), "
        "Statistical Inference under Order Restrictions; the example of R's isoreg"
    )
    n, optimum = len(y), ((fitted - y) ** 2).sum() - (y**2).sum()
    A = np.diff(np.eye(n), axis=0)
    b = np.zeros(n - 1)
    return programme("isotonic", source, 2 * np.eye(n), -2 * y, A, b, optimum)


def shortest(n, m, seed):
    """The point of a random polyhedron that is the nearest to the origin."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(m, n))
    inside = rng.normal(size=n)
    b = A @ inside + rng.uniform(0, 1, size=m)
    source = "P. Wolfe (1976), Finding the nearest point in a polytope, "
    source += "doi:10.1007/BF01580381; random data"
    name = f"shortest_{n}_{m}_{seed}"
    return programme(name, source, 2 * np.eye(n), np.zeros(n), -A, -b)


PROGRAMMES = [
    hs21(),
    hs35(),
    hs76(),
    nocedal_wright(),
    goldfarb_idnani(),
    osqp(),
    boyd(),
    quadprog(),
    isotonic(),
    shortest(5, 12, seed=0),
    shortest(10, 30, seed=1),
    shortest(20, 100, seed=2),
]
