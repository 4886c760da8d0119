"""Validation rows that the user brings, instead of a part of the training rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from sklpos.estimator.checks import TrainingData, check_training_data
from sklpos.estimator.datasets import unpacked
from sklpos.estimator.other_rows import warn_of_far_validation_rows
from sklpos.estimator.parameters import stand_in
from sklpos.estimator.violated_targets import on_violated_y, report_violated_targets
from sklpos.nets.arrays import UNREADABLE


def with_validation_rows(
    estimator, data: TrainingData, X_val, y_val, sample_weight_val
) -> TrainingData:
    """Validate rows that training only looks at, like those to train on.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
        Its ``on_violated_y`` is read.
    data : TrainingData
        The rows to train on, which decide the columns and the outputs.
    X_val : array-like or sparse matrix of shape (n_val, ...), Dataset or None
    y_val : array-like of shape (n_val,) or (n_val, n_outputs), or None
    sample_weight_val : array-like of shape (n_val,) or None

    Returns
    -------
    TrainingData
        With its `valid`; the same if all three are None.

    Raises
    ------
    ValueError
        If one of X_val and y_val is missing, or for invalid rows.
    """
    with naming_validation_rows():
        rows = unpacked(estimator, X_val, y_val, sample_weight_val)
    names = ("X_val", "y_val", "sample_weight_val")
    given = [name for name, value in zip(names, rows, strict=True) if value is not None]
    if not given:
        return data
    if rows[0] is None or rows[1] is None:
        raise ValueError(f"{given[0]} is given alone; pass both X_val and y_val.")
    with naming_validation_rows():
        valid = check_training_data(
            _without_bounds(estimator, data), *rows, reset=False
        )
    if valid.y.shape[1] != data.y.shape[1]:
        raise ValueError(
            f"y_val has {valid.y.shape[1]} outputs, but y has {data.y.shape[1]}."
        )
    how = on_violated_y(estimator)
    report_violated_targets(valid.y, data.bounds, how, "y_val")
    warn_of_far_validation_rows(data, valid)
    return replace(data, valid=valid)


@contextmanager
def naming_validation_rows() -> Iterator[None]:
    """Turn an error about X, y or sample_weight into one about X_val and so on.

    Raises
    ------
    ValueError, TypeError

    Examples
    --------
    >>> with naming_validation_rows():
    ...     raise ValueError("Input X contains NaN.")
    Traceback (most recent call last):
    ValueError: Input X_val contains NaN.
    """
    try:
        yield
    except UNREADABLE as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        # Not the names of the parts of an item, (x, y, weight).
        names = r"(?<!\(x, )\b(X|y|sample_weight)\b"
        message, n_names = re.subn(names, r"\1_val", str(error))
        raise kind(message if n_names else f"X_val: {message}") from error


def _without_bounds(estimator, data: TrainingData):
    """An estimator that has seen the columns of the training rows, without bounds."""
    # The bounds come per output of y, of which y_val may have another number; and the
    # name of a deprecated parameter was warned of for y.
    free = {"lower_bound": None, "upper_bound": None, "on_negative_y": "deprecated"}
    return stand_in(estimator, **data.seen, **free)
