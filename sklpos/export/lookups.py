"""Encoders, bins and imputers as operations of an ONNX graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.preprocessing import KBinsDiscretizer
from sklearn.utils.validation import check_is_fitted

from sklpos.estimator.encoders import Table, read_tables
from sklpos.export.flow import NUMBERS, Flow, is_missing, joined

_WHOLE = np.dtype(np.int64)
# What onnxruntime makes of a missing value among text.
_SPELLED = {"NoneType": ["None"], "NAType": ["<NA>"], "float": ["nan", "<NA>"]}


def write_encoder(step: Any, flow: Flow) -> Flow:
    """Write an encoder of categories as tables in which each value is looked up.

    Parameters
    ----------
    step : OneHotEncoder, OrdinalEncoder or TargetEncoder
        Fitted. Where it refuses an unknown category, the graph returns NaN.
    flow : Flow

    Returns
    -------
    Flow

    Raises
    ------
    ValueError
        If a column holds text where the encoder knows numbers, or the other way round.
    """
    tables = read_tables(step)
    parts, order = [], []
    for column, table in zip(flow.columns(), tables, strict=True):
        if table.own.any():
            parts.append(_write_table(table, column))
            order.extend(np.flatnonzero(table.own))
    found = joined(parts, flow)
    # Outputs that depend on no category belong to the first column.
    return found if order == sorted(order) else found.select(np.argsort(order).tolist())


def _write_table(table: Table, column: Flow) -> Flow:
    values, known = table.values[:, table.own], list(table.categories)
    nothing = np.full((1, values.shape[1]), np.nan)
    if table.unknown:
        nothing, values, known = values[-1:], values[:-1], known[:-1]
    # The first row is for what is not found.
    return _look_up(column, _index(column, known), np.vstack([nothing, values]))


def _look_up(flow: Flow, index: str, table: NDArray) -> Flow:
    graph = flow.graph
    rows = graph.add("Gather", graph.constant(table, flow.dtype), index, axis=0)
    return flow.of_numbers(rows, table.shape[1])


def _index(column: Flow, known: list) -> str:
    """Number of the category of each row, from 1 on; 0 for none of them."""
    present = [value for value in known if not is_missing(value)]
    is_text = all(isinstance(value, str) for value in present)
    if not is_text and not all(isinstance(value, NUMBERS) for value in present):
        raise ValueError("its categories are neither all text nor all numbers")
    (block,) = column.blocks
    if column.is_text(is_text) != is_text and present:
        held, fitted = ("numbers", "text") if is_text else ("text", "numbers")
        raise ValueError(f"{block.label} holds {held}, but it was fitted on {fitted}")
    found = _index_of_text if is_text else _index_of_numbers
    return found(column, known)


def _index_of_text(column: Flow, known: list) -> str:
    keys: dict[str, int] = {}
    for place, value in enumerate(known, start=1):
        for key in _spellings(value):
            keys.setdefault(key, place)
    (block,) = column.blocks
    found = column.graph.add(
        "LabelEncoder",
        block.name,
        domain="ai.onnx.ml",
        # An empty list of keys has no type.
        keys_strings=list(keys) or [""],
        values_int64s=list(keys.values()) or [0],
        default_int64=0,
    )
    return _flat(column, found)


def _spellings(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else _SPELLED[type(value).__name__]


def _index_of_numbers(column: Flow, known: list) -> str:
    graph, rows = column.graph, column.numbers()
    # NaN equals no number, not even itself.
    values = np.array([np.nan if is_missing(v) else float(v) for v in known])
    hits = graph.add("Equal", rows, graph.constant(values[None, :], column.dtype))
    places = np.arange(1, len(known) + 1)
    index = _weighted_sum(column, hits, places)
    if np.isnan(values).any():
        place = graph.constant(places[np.isnan(values)][:1], _WHOLE)
        index = graph.add("Where", graph.add("IsNaN", rows), place, index)
    return _flat(column, index)


def _weighted_sum(flow: Flow, hits: str, weights: NDArray) -> str:
    whole = flow.graph.cast(hits, _WHOLE)
    return flow.graph.add(
        "MatMul", whole, flow.graph.constant(weights[:, None], _WHOLE)
    )


def _flat(flow: Flow, index: str) -> str:
    return flow.graph.add("Squeeze", index, flow.graph.constant([1], _WHOLE))


def write_bins(step: KBinsDiscretizer, flow: Flow) -> Flow:
    """Write bins of numbers.

    Parameters
    ----------
    step : KBinsDiscretizer
        Fitted.
    flow : Flow

    Returns
    -------
    Flow
    """
    check_is_fitted(step)
    parts = []
    for column, edges in zip(flow.columns(), step.bin_edges_, strict=True):
        inner = column.graph.constant(edges[None, 1:-1], flow.dtype)
        above = column.graph.add("GreaterOrEqual", column.numbers(), inner)
        index = _weighted_sum(column, above, np.ones(len(edges) - 2, dtype=int))
        bins = np.arange(len(edges) - 1.0)[:, None]
        table = bins if step.encode == "ordinal" else np.eye(len(bins))
        parts.append(_look_up(column, _flat(column, index), table))
    return joined(parts, flow)


def write_imputer(step: SimpleImputer, flow: Flow) -> Flow:
    """Write an imputer.

    Parameters
    ----------
    step : SimpleImputer
        Fitted.
    flow : Flow

    Returns
    -------
    Flow
        Columns of text stay text.

    Raises
    ------
    ValueError
        If text is replaced by a number, or the other way round.
    """
    check_is_fitted(step)
    columns, parts = flow.columns(), []
    for column, value in zip(columns, step.statistics_, strict=True):
        # A column without any value is left out.
        if not is_missing(value):
            parts.append(_imputed(step, column, value))
    if step.indicator_ is not None:
        parts.append(write_indicator(step.indicator_, flow))
    return joined(parts, flow)


def _imputed(step: SimpleImputer, column: Flow, value: Any) -> Flow:
    is_text = column.is_text(isinstance(value, str))
    (block,) = column.blocks
    if is_text != isinstance(value, str):
        raise ValueError(f"{block.label} cannot be filled with {value!r}")
    graph, missing = column.graph, _is_missing(step, column)
    if is_text:
        filled = graph.constant(np.array([value], dtype=object), block.dtype)
        rows = graph.add("Where", missing, filled, block.name)
        return column.with_blocks([replace(block, name=rows)])
    filled = graph.constant([value], column.dtype)
    rows = graph.add("Where", missing, filled, column.numbers())
    return column.of_numbers(rows, 1)


def _is_missing(step: SimpleImputer | MissingIndicator, column: Flow) -> str:
    graph, marker = column.graph, step.missing_values
    (block,) = column.blocks
    if not column.is_text(False):
        rows = column.numbers()
        if is_missing(marker):
            return graph.add("IsNaN", rows)
        return graph.add("Equal", rows, graph.constant(float(marker), column.dtype))
    found = ""
    for key in _spellings(marker):
        spelled = graph.constant(np.array([key], dtype=object), block.dtype)
        same = graph.add("Equal", block.name, spelled)
        found = graph.add("Or", found, same) if found else same
    return found


def write_indicator(step: MissingIndicator, flow: Flow) -> Flow:
    """Write which values are missing, as 0 or 1.

    Parameters
    ----------
    step : MissingIndicator
        Fitted.
    flow : Flow

    Returns
    -------
    Flow
    """
    columns = [flow.select([position]) for position in step.features_]
    parts = [
        column.of_numbers(column.graph.cast(_is_missing(step, column), column.dtype), 1)
        for column in columns
    ]
    return joined(parts, flow)
