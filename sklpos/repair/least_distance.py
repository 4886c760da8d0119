"""The least distance under linear inequalities that arrive a few at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, lapack
from scipy.optimize import nnls

# Relative size below which a direction is nothing but rounding.
NOISE = 1e-12
# A head that is farther away than this, in scales, would rely on the rounding errors
# of collinear features.
REACH = 1e4
# Exchanges without progress after which rows are held to cycle.
_PATIENCE = 5
# With fewer variables `nnls` is faster, as it is compiled.
_WIDE = 128
# Squared distance of a unit row from the span of the others, below which it depends on
# them: its multiplier would lose half of its digits.
_DEPENDENT = 1e-9
# Rounding error of a unit row times a vector of unit length.
_ROUNDING = 1e-14


class LeastDistance:
    """Minimise ``||u||**2`` subject to ``rows @ u >= needed``, for growing `rows`.

    The rows that hold with equality are found by block principal pivoting on the dual
    [1]_, from those of the last solution and the new ones: a Cholesky factor for each
    exchange of many rows. Where rows depend on each other such exchanges may cycle;
    then non-negative least squares (algorithm LDP of [2]_) starts afresh.

    Parameters
    ----------
    n_variables : int
        Length of `u`.

    References
    ----------
    .. [1] J. J. Júdice and F. M. Pires, "A block principal pivoting algorithm for
       large-scale strictly monotone linear complementarity problems", Computers &
       Operations Research, 1994. :doi:`10.1016/0305-0548(94)90106-6`
    .. [2] C. L. Lawson and R. J. Hanson, *Solving Least Squares Problems*, 1974, ch. 23

    Examples
    --------
    >>> problem = LeastDistance(2)
    >>> problem.add(np.array([[3.0, 4.0]]))
    >>> u, multipliers = problem.solve(np.array([10.0]))
    >>> u.round(9), multipliers.round(9)
    (array([1.2, 1.6]), array([0.8]))
    """

    def __init__(self, n_variables: int):
        self.rows = np.empty((0, n_variables))
        self.norms = np.empty(0)
        self.gram = np.empty((0, 0))
        self.active = np.empty(0, bool)
        self.exchanges = n_variables >= _WIDE

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def add(self, rows: NDArray) -> None:
        """Append rows of shape (m, n_variables)."""
        norms = np.linalg.norm(rows, axis=1)
        norms[norms == 0] = 1.0
        # Rows of unit length have comparable pivots and tolerances.
        rows = rows / norms[:, None]
        across = self.rows @ rows.T
        self.gram = np.block([[self.gram, across], [across.T, rows @ rows.T]])
        self.rows = np.vstack([self.rows, rows])
        self.norms = np.append(self.norms, norms)
        # They are new because the last solution violates them.
        self.active = np.append(self.active, np.full(len(rows), True))

    def solve(self, needed: NDArray) -> tuple[NDArray, NDArray] | None:
        """Find `u`, and multipliers with ``2 u = rows.T @ multipliers``.

        Parameters
        ----------
        needed : ndarray of shape (n_rows,)

        Returns
        -------
        u : ndarray of shape (n_variables,)
        multipliers : ndarray of shape (n_rows,)
            Non-negative. Both are in a tuple, which is None if there is no `u` within
            reach.
        """
        multipliers = np.zeros(len(self))
        with np.errstate(over="ignore"):
            needed = needed / self.norms
        # Weights that exploded need more than there are numbers for.
        if not np.isfinite(needed).all():
            return None
        unit = needed.max(initial=0.0)
        if unit == 0:
            return np.zeros(self.rows.shape[1]), multipliers
        found = self._exchange(needed / unit) or self._start_afresh(needed / unit)
        if found is None:
            return None
        self.active, u, values = found
        multipliers[self.active] = 2 * unit * values / self.norms[self.active]
        return unit * u, multipliers

    def _exchange(self, needed):
        """Exchange active rows until none is violated and no multiplier is negative."""
        active = self.active
        # More rows than variables depend on each other.
        if not self.exchanges or np.count_nonzero(active) > self.rows.shape[1]:
            return None
        patience, fewest = _PATIENCE, len(self) + 1
        while patience:
            active, u, values = self._hold(active, needed)
            size = np.linalg.norm(u)
            wrong = self.rows @ u - needed < -_ROUNDING * max(size, 1.0)
            wrong[active] = values < -_ROUNDING * np.abs(values).max(initial=0.0)
            n_wrong = np.count_nonzero(wrong)
            if n_wrong == 0:
                # Farther heads are left to the method that tells them from rounding.
                return (active, u, values) if size < REACH else None
            patience = _PATIENCE if n_wrong < fewest else patience - 1
            fewest = min(fewest, n_wrong)
            active = active ^ wrong
        # They would cycle with more rows, too.
        self.exchanges = False
        return None

    def _hold(self, active, needed):
        """Least `u` that holds independent active rows with equality, refined twice."""
        gram = self.gram[np.ix_(active, active)]
        lower, info = lapack.dpotrf(gram, lower=True)
        if info or (np.diag(lower) ** 2 < _DEPENDENT).any():
            # The same with pivots, several times slower, leaves dependent rows out.
            lower, order, rank, _ = lapack.dpstrf(gram, tol=_DEPENDENT, lower=True)
            chosen = np.sort(np.flatnonzero(active)[order[:rank] - 1])
            active = np.isin(np.arange(len(self)), chosen)
            lower = np.linalg.cholesky(self.gram[np.ix_(active, active)])
        rows = self.rows[active]
        values, u = 0.0, np.zeros(rows.shape[1])
        for _ in range(3):
            values = values + cho_solve((lower, True), needed[active] - rows @ u)
            u = values @ rows
        return active, u, values

    def _start_afresh(self, needed):
        """Non-negative least squares, whose residual tells `u` from infeasibility.

        With ``E = [rows, needed].T`` and ``f = (0, ..., 0, 1)``, the residual
        ``r = E x - f`` gives ``u = -r[:-1] / r[-1]``.
        """
        system = np.vstack([self.rows.T, needed])
        unit_vector = np.append(np.zeros(self.rows.shape[1]), 1.0)
        try:
            x, residual = nnls(system, unit_vector, maxiter=30 * len(self))
        except RuntimeError:
            # Out of iterations: the next stage takes over.
            return None
        # The length of u is about 1 / residual; a residual of 0 means that none exists.
        if residual * REACH < 1:
            return None
        # `nnls` names the active rows; solve for them to machine precision.
        active = x > 0
        held, u, values = self._hold(active, needed)
        if (held == active).all():
            return active, u, values
        inverse = np.linalg.pinv(self.rows[active], rcond=NOISE)
        u = inverse @ needed[active]
        return active, u, u @ inverse
