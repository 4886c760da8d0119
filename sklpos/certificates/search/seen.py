"""Predictions that were seen: of rows alone, and of rows that are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sklpos.certificates.domains.shapes import All, Box, Domain, Hull
from sklpos.nets.bounded import rows_of_extremes

Predict = Callable[[NDArray], NDArray]


def confirmed(
    predict: Predict, upper: NDArray, witness: NDArray, required: NDArray
) -> tuple[NDArray, NDArray]:
    """Replace values that were seen in a batch by those of the rows alone.

    Matrix products sum in another order for one row than for many, so a row may break
    a bound in a batch and obey it alone, which is how a user looks at a
    counterexample.

    Parameters
    ----------
    predict : callable
        Maps (n_samples, n_features) to (n_samples, n_outputs).
    upper : ndarray of shape (n_parts, n_columns)
        Smallest values of the columns ``(f, -f)``; infinite where nothing was seen.
    witness : ndarray of shape (n_parts, n_columns, n_features)
        Their inputs.
    required : ndarray of shape (n_columns,)

    Returns
    -------
    upper : ndarray of shape (n_parts, n_columns)
        Corrected where a bound is broken.
    attained : ndarray of shape (n_columns,)
        Smallest value of any row alone.
    """
    chosen = upper < required
    # The smallest of all parts is reported, whether it breaks a bound or not.
    chosen[upper.argmin(axis=0), np.arange(len(required))] = True
    chosen &= upper < np.inf
    attained = np.full(len(required), np.inf)
    upper = upper.copy()
    for part, column in np.argwhere(chosen):
        values = predict(witness[part, column][None])[0]
        columns = np.concatenate([values, -values])
        # What overflows to NaN alone is not known better than in the batch.
        if not np.isnan(columns[column]):
            upper[part, column] = columns[column]
        attained = np.fmin(attained, columns)
    return upper, attained


def both_sides(columns: NDArray) -> tuple[NDArray, NDArray]:
    """Smallest and largest values of outputs, from lower bounds of ``(f, -f)``.

    Parameters
    ----------
    columns : ndarray of shape (2 * n_outputs,)

    Returns
    -------
    lowest, highest : ndarray of shape (n_outputs,)
    """
    lowest, highest = np.split(columns, 2)
    # 0 - x and not -x, which is -0 for 0.
    return lowest, 0 - highest


def extreme_rows(predict: Predict, domain: Domain, rows: NDArray) -> NDArray:
    """Rows of a domain with the smallest and largest predictions of each output.

    Parameters
    ----------
    predict : callable
    domain : Domain
        A box, all inputs, or a hull, of which the rows are known; of others, no rows.
    rows : ndarray of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_rows, n_features)
    """
    if isinstance(domain, Hull):
        # A copy, as the domain's own array cannot be written to.
        rows = domain.points.copy()
    elif isinstance(domain, Box) and len(rows):
        inside = (rows >= domain.low) & (rows <= domain.high)
        rows = rows[inside.all(axis=1)]
    elif not isinstance(domain, All):
        return rows[:0]
    return rows_of_extremes(predict(rows), rows) if len(rows) else rows
