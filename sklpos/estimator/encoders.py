"""Encoders of categories, read as tables of what they make of each category."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder
from sklearn.utils.validation import check_is_fitted

from sklpos.nets.input_map import InputMap

ENCODERS = (OneHotEncoder, OrdinalEncoder, TargetEncoder)
# What an encoder does with a category that it does not know, if it does not raise.
_TAKES_UNKNOWN = ("ignore", "infrequent_if_exist", "warn", "use_encoded_value")


@dataclass(frozen=True)
class Source:
    """A column that a map reads.

    Attributes
    ----------
    categories : tuple or None
        None for a number.
    unknown : bool
        Whether the last category stands for all values that are not known.
    """

    categories: tuple | None = None
    unknown: bool = False

    @property
    def width(self) -> int:
        """Number of features that stand for it."""
        return 1 if self.categories is None else len(self.categories)


def read_encoder(step: Any) -> tuple[InputMap, list[Source]]:
    """Read a fitted encoder by what it makes of each category.

    Parameters
    ----------
    step : OneHotEncoder, OrdinalEncoder or TargetEncoder

    Returns
    -------
    map : InputMap
        Of one feature for each category of each column.
    sources : list of Source
        One for each column.

    Examples
    --------
    >>> step = OneHotEncoder(drop="first").fit([["a"], ["b"], ["c"]])
    >>> found, sources = read_encoder(step)
    >>> found.gain.toarray().tolist(), sources[0].categories
    ([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], ('a', 'b', 'c'))
    """
    sources, kept = [], []
    for table in read_tables(step):
        # What is encoded as NaN, such as a missing value, is no input of the net.
        finite = np.isfinite(table.values).all(axis=1)
        kept.append(table.values[finite])
        pairs = zip(table.categories, finite, strict=True)
        categories = tuple(value for value, keep in pairs if keep)
        sources.append(Source(categories, table.unknown and bool(finite[-1])))
    gain = csr_array(np.vstack(kept).T)
    nothing = np.zeros(gain.shape[0])
    return InputMap(gain, nothing, abs(gain), nothing, 1), sources


@dataclass(frozen=True, eq=False)
class Table:
    """What an encoder makes of each category of one column.

    Attributes
    ----------
    categories : tuple
    unknown : bool
        Whether the last category stands for all values that are not known.
    values : ndarray of shape (n_categories, n_out)
        In all outputs of the encoder: the sum over its columns is what it returns.
    own : ndarray of bool, of shape (n_out,)
        Outputs that depend on this column; 0 in all others.
    """

    categories: tuple
    unknown: bool
    values: NDArray
    own: NDArray


def read_tables(step: Any) -> list[Table]:
    """Read what a fitted encoder makes of each category of each column.

    Parameters
    ----------
    step : OneHotEncoder, OrdinalEncoder or TargetEncoder

    Returns
    -------
    list of Table
        One for each column.

    Examples
    --------
    >>> (table,) = read_tables(OrdinalEncoder().fit([["a"], ["b"]]))
    >>> table.categories, table.values.tolist()
    (('a', 'b'), [[0.0], [1.0]])
    """
    check_is_fitted(step)
    takes_unknown = getattr(step, "handle_unknown", "ignore") in _TAKES_UNKNOWN
    known = [categories.tolist() for categories in step.categories_]
    values = [[*own, _unknown(own)] if takes_unknown else own for own in known]
    return [
        Table(tuple(own), takes_unknown, table, outputs)
        for own, (table, outputs) in zip(values, _tables(step, values), strict=True)
    ]


def _tables(step: Any, values: list[list]) -> list[tuple[NDArray, NDArray]]:
    """Tables of all columns, in all outputs, and the outputs that each one decides."""
    sizes = [len(own) for own in values]
    # Each row has one category of its own, and the first one of all other columns.
    rows = [[own[0] for own in values]]
    for column, own in enumerate(values):
        for value in own:
            row = list(rows[0])
            row[column] = value
            rows.append(row)
    encoded = _encode(step, rows)
    first, blocks = encoded[0], np.split(encoded[1:], np.cumsum(sizes)[:-1])
    tables = []
    free = np.ones(len(first), dtype=bool)
    for k, block in enumerate(blocks):
        # The first column takes what no category changes, so that nothing is lost.
        own = ~_same(block, first).all(axis=0)
        if k == 0:
            others = [~_same(b, first).all(axis=0) for b in blocks[1:]]
            own = ~np.any([np.zeros_like(own), *others], axis=0)
        own &= free
        free &= ~own
        tables.append((np.where(own, block, 0.0), own))
    return tables


def _same(block: NDArray, first: NDArray) -> NDArray:
    return (block == first) | (np.isnan(block) & np.isnan(first))


def _encode(step: Any, rows: list[list]) -> NDArray:
    table: Any = np.array(rows, dtype=object)
    names = getattr(step, "feature_names_in_", None)
    if all(np.issubdtype(own.dtype, np.number) for own in step.categories_):
        table = table.astype(np.float64)
    if names is not None:
        table = import_module("pandas").DataFrame(table, columns=names)
    with warnings.catch_warnings():
        # Unknown categories may draw a warning, each time.
        warnings.simplefilter("ignore", UserWarning)
        encoded = step.transform(table)
    encoded = encoded.toarray() if issparse(encoded) else encoded
    return np.asarray(encoded, dtype=np.float64)


def _unknown(known: list) -> Any:
    """A value that is none of the categories."""
    if all(isinstance(value, int | float) for value in known):
        finite = [value for value in known if np.isfinite(value)]
        return max(finite, default=0) + 1
    name = "unknown"
    while name in known:
        name += "_"
    return name
