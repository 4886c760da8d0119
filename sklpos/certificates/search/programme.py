"""A mixed-integer linear programme that grows by columns and rows, and its bounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linprog, milp
from scipy.sparse import csr_array, vstack

# Rounding of a sum of products in float64, as a share of the sum of their sizes. It is
# that of thousands of terms.
_ROUNDING = 1e-12


class Programme:
    """Columns with finite bounds, and rows that limit linear functions of them.

    Examples
    --------
    >>> programme = Programme()
    >>> x = programme.columns(np.zeros(2), np.ones(2))
    >>> programme.rows(np.array([[1.0, 1.0]]), x, np.array([np.inf]), np.array([1.5]))
    >>> round(programme.lowest(x[0], np.inf), 6)
    0.5
    """

    def __init__(self):
        self.low: list[float] = []
        self.high: list[float] = []
        self.integral: list[int] = []
        # Row, column and value of the entries: the matrix is sparse.
        self.blocks: list[tuple[NDArray, NDArray, NDArray]] = []
        self.least: list[float] = []
        self.most: list[float] = []

    def columns(self, low: NDArray, high: NDArray, integral: int = 0) -> NDArray:
        """Add columns.

        Parameters
        ----------
        low, high : ndarray of shape (n_columns,)
            Finite.
        integral : {0, 1}, default=0
            Whether they are whole numbers.

        Returns
        -------
        ndarray of int of shape (n_columns,)
            Their numbers.
        """
        first = len(self.low)
        self.low += low.tolist()
        self.high += high.tolist()
        self.integral += [integral] * len(low)
        return np.arange(first, len(self.low))

    def rows(
        self,
        matrix: NDArray,
        columns: NDArray,
        most: NDArray,
        least: NDArray | None = None,
    ) -> None:
        """Add rows ``least <= matrix @ columns <= most``.

        Parameters
        ----------
        matrix : ndarray of shape (n_rows, n_columns)
        columns : ndarray of int of shape (n_columns,)
        most : ndarray of shape (n_rows,)
        least : ndarray of shape (n_rows,), optional
            By default the same, for equations.
        """
        row, entry = np.nonzero(matrix)
        self.blocks.append((len(self.most) + row, columns[entry], matrix[row, entry]))
        self.most += most.tolist()
        self.least += (most if least is None else least).tolist()

    def narrow(self, columns: NDArray, low: NDArray, high: NDArray) -> None:
        """Replace the bounds of columns.

        Parameters
        ----------
        columns : ndarray of int of shape (n_columns,)
        low, high : ndarray of shape (n_columns,)
        """
        for column, a, b in zip(columns, low, high, strict=True):
            self.low[column] = a
            self.high[column] = b

    def lowest(self, column: int, time_limit: float, sign: int = 1) -> float:
        """Bound a column from below by the linear relaxation, whatever the solver does.

        For any multipliers y of the rows ``A x <= b``, with ``y <= 0``, every feasible
        x has ``c x >= b y + (c - A'y) x``, and the last term is bounded over the box of
        the columns. The solver's multipliers make this bound tight, but it holds for
        all others as well (Neumaier & Shcherbina 2004, doi:10.1007/s10107-003-0433-3).

        Parameters
        ----------
        column : int
        time_limit : float
            Seconds.
        sign : {1, -1}, default=1
            -1 for a lower bound of the negative of the column.

        Returns
        -------
        float
        """
        cost = sign * self._objective(column)
        matrix, least, most = self._matrix()
        equal = most == least
        upper = ~equal & np.isfinite(most)
        lower = ~equal & np.isfinite(least)
        rows = vstack([matrix[upper], -matrix[lower], matrix[equal]], format="csr")
        sides = np.concatenate([most[upper], -least[lower], most[equal]])
        n_limits = upper.sum() + lower.sum()
        found = linprog(
            cost,
            A_ub=rows[:n_limits] if n_limits else None,
            b_ub=sides[:n_limits] if n_limits else None,
            A_eq=rows[n_limits:] if equal.any() else None,
            b_eq=sides[n_limits:] if equal.any() else None,
            bounds=np.column_stack([self.low, self.high]),
            options={"time_limit": time_limit} if np.isfinite(time_limit) else {},
        )
        multipliers = np.zeros(len(sides))
        if found.status == 0:
            limits = np.minimum(found.ineqlin.marginals, 0.0)
            multipliers = np.concatenate([limits, found.eqlin.marginals])
        return self._dual_bound(cost, rows, sides, multipliers)

    def solve(self, column: int, time_limit: float) -> OptimizeResult:
        """Minimise a column with HiGHS.

        Parameters
        ----------
        column : int
        time_limit : float
            Seconds.

        Returns
        -------
        scipy.optimize.OptimizeResult
            See `scipy.optimize.milp`.
        """
        matrix, least, most = self._matrix()
        return milp(
            self._objective(column),
            integrality=np.array(self.integral),
            bounds=Bounds(self.low, self.high),
            constraints=LinearConstraint(matrix, least, most),
            # The default stops earlier, and its bound is that of an open search.
            options={"time_limit": time_limit, "mip_rel_gap": 0.0},
        )

    def _dual_bound(self, cost, rows, sides, multipliers) -> float:
        low, high = np.array(self.low), np.array(self.high)
        slope = cost - rows.T @ multipliers
        terms = np.where(slope > 0, slope * low, slope * high)
        own = sides * multipliers
        # Each entry of the slope is itself a rounded sum.
        reach = np.maximum(np.abs(low), np.abs(high))
        size = (np.abs(cost) + abs(rows).T @ np.abs(multipliers)) @ reach
        size += np.abs(own).sum()
        return float(terms.sum() + own.sum() - _ROUNDING * size)

    def _matrix(self) -> tuple[csr_array, NDArray, NDArray]:
        row, column, value = (np.concatenate(p) for p in zip(*self.blocks, strict=True))
        shape = len(self.most), len(self.low)
        matrix = csr_array((value, (row, column)), shape=shape)
        return matrix, np.array(self.least), np.array(self.most)

    def _objective(self, column: int) -> NDArray:
        return (np.arange(len(self.low)) == column).astype(float)


@dataclass(frozen=True, eq=False)
class Quantities:
    """Numbers that columns stand for: each is ``shift + unit * column``.

    Attributes
    ----------
    column : ndarray of int of shape (n,)
        Numbers of the columns.
    unit, shift : ndarray of shape (n,)
    error : ndarray of shape (n,)
        How far tolerances may have moved them.
    rounding : ndarray of shape (n,)
        How far rounding of the coefficients may have moved them.
    """

    column: NDArray
    unit: NDArray
    shift: NDArray
    error: NDArray
    rounding: NDArray

    def scaled(self, values: NDArray) -> NDArray:
        """Values as those of the columns."""
        return (values - self.shift) / self.unit
