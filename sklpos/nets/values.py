"""What users pass in as numbers; dates, masks, text and gaps are refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, time, timedelta
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse

from sklpos.nets.any_rows import dense_rows
from sklpos.nets.arrays import UNREADABLE, naming
from sklpos.nets.hints import shown
from sklpos.nets.tensors import without_torch

# Names of the dtypes of numpy, pandas, polars and Arrow.
_TIME_DTYPE = re.compile("date|time|duration|period", re.IGNORECASE)
_TIMES = (date, time, timedelta, np.datetime64, np.timedelta64)
# What numpy and scikit-learn say of text and of missing values.
_NO_NUMBER = re.compile(
    "NaN|infinity|could not convert|NAType|missing|string|with a sequence"
)
# What to do about text, and about missing values: in X, and in targets or weights.
_ADVICE = (
    "encode it as numbers, for instance with OneHotEncoder",
    "correct or fill such values, for instance with SimpleImputer, or leave out these "
    "rows",
)
_OTHER_ADVICE = "pass numbers", "correct such values, or leave out these rows"
# Longest text that an error quotes.
_MAX_TEXT = 40


def as_plain(values: ArrayLike, name: str) -> ArrayLike:
    """Turn tensors and masked arrays into arrays, and refuse dates.

    numpy reads a date as a large number, a missing date as another one, and a masked
    entry as whatever lies below the mask.

    Parameters
    ----------
    values : array-like, data frame, sparse matrix or torch.Tensor
    name : str
        Name of the parameter in error messages.

    Returns
    -------
    array-like
        `values` themselves, or an array of the same numbers.

    Raises
    ------
    ValueError
        If an entry is masked, or a date.

    Examples
    --------
    >>> as_plain(np.ma.array([1.0, 2.0], mask=[True, False]), "y")
    Traceback (most recent call last):
    ValueError: y has masked entries, 1 of 2; fill them, as y.filled(0) does, or \
leave out these rows.
    """
    values = without_torch(values)
    # scikit-learn drops the imaginary part of a weight that is a number.
    if isinstance(values, complex):
        raise TypeError(f"{name}: Complex data not supported")
    if isinstance(values, np.ma.MaskedArray):
        values = _without_mask(values, name)
    for label, kind in _dated(values):
        raise ValueError(
            f"{_subject(name, label)} holds dates or durations ({kind}); pass numbers, "
            "such as days since a start, or the day of the year."
        )
    # scikit-learn would turn half precision into double.
    if isinstance(values, np.ndarray) and values.dtype == np.float16:
        return values.astype(np.float32)
    return values


def _explain(values: Any, name: str, error: Exception) -> None:
    """Raise an error that names the first value that is no number, if there is one."""
    advice = _ADVICE if name == "X" else _OTHER_ADVICE
    for label, column in _columns(values):
        for row, value in _suspects(column):
            if isinstance(value, str | bytes):
                text = _quoted(value)
                raise ValueError(
                    f"{_subject(name, label)} holds text such as {text}; {advice[0]}."
                )
            if not _is_missing(value) and not isinstance(value, Number):
                kind = type(value).__name__
                said = str(error).removeprefix(f"{name}: ")
                raise type(error)(
                    f"{_subject(name, label)} holds values of type {kind}: {said}"
                )
            flaw = "infinity" if _is_infinite(value) else "NaN"
            place = f"{label}, row {row}" if label else f"row {row}"
            raise ValueError(f"{name} contains {flaw} in {place}; {advice[1]}.")


@contextmanager
def explaining(values: Any, name: str) -> Iterator[None]:
    """Name the column and the value that could not be read, or else the parameter.

    Parameters
    ----------
    values : array-like, data frame or sparse matrix
        What is read.
    name : str
        Name of the parameter.

    Raises
    ------
    ValueError, TypeError

    Examples
    --------
    >>> with explaining([["a"]], "X"):
    ...     np.asarray([["a"]], dtype=float)
    Traceback (most recent call last):
    ValueError: X: column 0 holds text such as 'a'; encode it as numbers, for \
instance with OneHotEncoder.
    """
    try:
        with naming(name):
            yield
    except UNREADABLE as error:
        # Shapes and names are for numpy and scikit-learn to explain.
        if _NO_NUMBER.search(str(error)):
            _explain(values, name, error)
        raise


def finite_rows(X: ArrayLike, name: str = "X") -> NDArray:
    """Validate rows of finite numbers, as a float64 array.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n_samples, n_features)
    name : str, default="X"
        Name of the parameter in error messages.

    Returns
    -------
    ndarray of shape (n_samples, n_features)

    Raises
    ------
    ValueError
        If X has another shape, no rows, NaN or infinity.

    Examples
    --------
    >>> finite_rows([[1, 2]])
    array([[1., 2.]])
    """
    with explaining(X, name):
        rows = np.array(as_plain(dense_rows(X, name), name), dtype=np.float64)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(
            f"{name} must have shape (n_samples, n_features); got {rows.shape}."
        )
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return rows


def _without_mask(values: np.ma.MaskedArray, name: str) -> np.ndarray:
    number = int(np.ma.count_masked(values))
    if number:
        raise ValueError(
            f"{name} has masked entries, {number} of {values.size:,}; fill them, as "
            f"{name}.filled(0) does, or leave out these rows."
        )
    return values.data


def _subject(name: str, label: str) -> str:
    return f"{name}: {label}" if label else name


def _quoted(text: str | bytes) -> str:
    shown = repr(text)
    return shown if len(shown) <= _MAX_TEXT else f"{shown[:_MAX_TEXT]}...'"


# Columns, of whatever holds them


def _dated(values: Any) -> Iterator[tuple[str, str]]:
    """Label and kind of each column that holds dates or durations."""
    dtypes = [(label, str(dtype)) for label, dtype in _dtypes(values)]
    yield from (pair for pair in dtypes if _TIME_DTYPE.search(pair[1]))
    if not any(dtype.lower() == "object" for _, dtype in dtypes):
        return
    for label, column in _columns(values):
        kinds = {type(value) for value in np.asarray(column).tolist()}
        yield from (
            (label, kind.__name__) for kind in kinds if issubclass(kind, _TIMES)
        )


def _dtypes(values: Any) -> list[tuple[str, Any]]:
    names = _names(values)
    if names is not None:
        schema = getattr(values, "schema", None)
        dtypes = values.dtypes if hasattr(values, "dtypes") else schema.types
        return [(_label(n), own) for n, own in zip(names, dtypes, strict=True)]
    array = _as_array(values)
    return [] if array is None else [("", array.dtype)]


def _columns(values: Any) -> Iterator[tuple[str, Any]]:
    """Label and values of each column; of a vector, the label is empty."""
    names = _names(values)
    if names is not None:
        for j, name in enumerate(names):
            # By position where that is possible, as names may occur twice.
            has_position = hasattr(values, "iloc")
            yield _label(name), values.iloc[:, j] if has_position else values[name]
        return
    array = values.tocsc() if issparse(values) else _as_array(values)
    if array is None or array.ndim not in (1, 2):
        return
    if array.ndim == 1:
        yield "", array
        return
    for j in range(array.shape[1]):
        column = array[:, [j]].toarray() if issparse(array) else array[:, j]
        yield _label(j), np.ravel(column)


def _names(values: Any) -> list | None:
    """Names of the columns of a data frame; None for anything else."""
    if hasattr(values, "schema") and hasattr(values, "column_names"):
        return list(values.column_names)
    if hasattr(values, "columns") and hasattr(values, "dtypes"):
        return list(values.columns)
    return None


def _label(name: Any) -> str:
    return f"column {shown(name)}"


def _as_array(values: Any) -> Any:
    """Array or series with a dtype; None for what numpy cannot read."""
    if hasattr(values, "dtype") and hasattr(values, "ndim"):
        return values
    try:
        return np.asarray(values)
    except (ValueError, TypeError):
        return None


# Values that are no finite numbers


def _suspects(column: Any) -> Iterator[tuple[int, Any]]:
    """Row and value of what is text, missing or infinite."""
    column = np.asarray(column)
    if column.dtype.kind in "fc":
        rows = np.flatnonzero(~np.isfinite(column))
        yield from ((int(row), column[row]) for row in rows[:1])
        return
    if column.dtype.kind in "OSU":
        pairs = enumerate(column.tolist())
        yield from ((row, value) for row, value in pairs if _is_suspect(value))


def _is_suspect(value: Any) -> bool:
    if _is_missing(value):
        return True
    try:
        return not math.isfinite(float(value))
    except TypeError:
        return True
    except ValueError:
        return isinstance(value, str | bytes)
    # numpy says which number is too large.
    except OverflowError:
        return False


def _is_missing(value: Any) -> bool:
    # pandas has a missing value of its own, which is equal to nothing.
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float | np.floating) and math.isinf(value)
