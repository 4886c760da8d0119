"""The rows, targets and weights that `repair_head` is given, validated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sklpos.nets.any_rows import Rows, chunks_of, take_rows
from sklpos.nets.arrays import naming
from sklpos.nets.bounded import BoundedModel
from sklpos.nets.tensors import without_torch
from sklpos.nets.values import as_plain
from sklpos.repair.loader import LoaderRows, marked


@dataclass(frozen=True, eq=False)
class RowData:
    """Rows to hold the bounds on, all of positive weight.

    Attributes
    ----------
    rows : ndarray of shape (n_kept, ...), SparseRows or LoaderRows
    y : ndarray of shape (n_kept, n_outputs) or None
        float64, unit of y.
    weight : ndarray of shape (n_kept,)
        Positive, largest 1.
    kept : ndarray of shape (n_kept,)
        Their numbers among the rows passed in.
    n_samples : int
        Number of rows passed in.
    """

    rows: Rows | LoaderRows
    y: NDArray | None
    weight: NDArray
    kept: NDArray
    n_samples: int


def read_rows(
    source: Rows | LoaderRows,
    model: BoundedModel,
    *,
    y: ArrayLike | None,
    weight: ArrayLike | None,
) -> RowData:
    """Validate rows, targets and weights.

    Parameters
    ----------
    source : ndarray, SparseRows or LoaderRows
        As `open_rows` returns them.
    model : BoundedModel
        The module to repair, with a bound for each output.
    y, weight
        As in `repair_head`.

    Returns
    -------
    RowData

    Raises
    ------
    ValueError
        One sentence that names the parameter.
    """
    dtype = next(model.module.parameters()).dtype
    n_outputs = len(model.bounds)
    found = None
    if not isinstance(source, LoaderRows):
        # In chunks, because the cast to the dtype of the module makes a copy.
        for chunk in chunks_of(source):
            _check_values(chunk, dtype)
    else:
        source, found = _check_loader(source, dtype, n_outputs)
    n_samples = len(source)
    # Targets that the caller passes win over those of the loader.
    targets = _as_targets(found if y is None else y, n_samples, n_outputs)
    weight = _as_weight(weight, n_samples)
    kept = np.flatnonzero(weight)
    if len(kept) < n_samples:
        source = _some_rows(source, weight > 0)
        targets = None if targets is None else targets[kept]
        weight = weight[kept]
    # Only ratios of weights matter; a largest one of 1 keeps their sums finite.
    return RowData(source, targets, weight / weight.max(), kept, n_samples)


def _check_loader(
    source: LoaderRows, dtype: torch.dtype, n_outputs: int
) -> tuple[LoaderRows, NDArray | None]:
    """Validate all rows in one pass, and collect the targets beside them, if any."""
    shape = None
    targets = []
    n_rows = 0
    mark = 0
    for X, rest in source.batches():
        shape = shape or X.shape[1:]
        if X.shape[1:] != shape:
            raise ValueError(
                f"rows yields rows of shape {X.shape[1:]} after some of shape {shape}; "
                "all rows must have the same features."
            )
        _check_values(X, dtype)
        n_rows += len(X)
        mark = marked(mark, X)
        targets.append(_targets_beside(X, rest, n_outputs))
    found = None
    # All batches or none: the mean of a part would be kept as that of all rows.
    if all(part is not None for part in targets):
        found = np.concatenate(targets)
    return replace(source, expected=(n_rows, mark)), found


def _targets_beside(X: NDArray, rest: tuple, n_outputs: int) -> NDArray | None:
    """Second entry of a batch, if it holds targets."""
    values = without_torch(rest[0]) if rest else None
    # Integers are more likely row numbers or classes than targets.
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        return None
    if n_outputs == 1 and values.ndim == 1:
        values = values[:, None]
    return values if values.shape == (len(X), n_outputs) else None


def _check_values(X: NDArray, dtype: torch.dtype) -> None:
    # The cast to the dtype of the module turns a number that is too large into inf.
    if not torch.as_tensor(X).to(dtype).isfinite().all():
        name = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"rows contains NaN, infinity, or a number that {name}, the dtype of the "
            "module, cannot hold; leave these rows out or standardise the features."
        )


def _as_targets(y: ArrayLike | None, n_samples: int, n_outputs: int) -> NDArray | None:
    if y is None:
        return None
    with naming("y"):
        targets = np.asarray(as_plain(y, "y"), dtype=np.float64)
    expected = (n_samples,) if n_outputs == 1 else (n_samples, n_outputs)
    # Not by reshaping alone, which would also accept a transposed matrix.
    if targets.shape not in (expected, (n_samples, n_outputs)):
        raise ValueError(
            f"y has shape {targets.shape}, but rows and module ask for {expected}."
        )
    if not np.isfinite(targets).all():
        raise ValueError("y contains NaN or infinity; leave these rows out.")
    return targets.reshape(n_samples, n_outputs)


def _as_weight(weight: ArrayLike | None, n_samples: int) -> NDArray:
    if weight is None:
        return np.ones(n_samples)
    with naming("weight"):
        values = np.asarray(as_plain(weight, "weight"), dtype=np.float64)
    if values.shape != (n_samples,):
        raise ValueError(
            f"weight has shape {values.shape}, but there are {n_samples} rows; pass "
            "one weight per row."
        )
    if not (np.isfinite(values).all() and (values >= 0).all() and values.any()):
        raise ValueError(
            "weight must be finite and non-negative, and positive for at least one row."
        )
    return values


def _some_rows(source: Rows | LoaderRows, wanted: NDArray) -> Rows | LoaderRows:
    if isinstance(source, LoaderRows):
        return replace(source, wanted=wanted)
    return take_rows(source, wanted)
