"""The steps of a pipeline, read as one affine map of the columns of its data."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.utils.validation import check_is_fitted

from sklpos.estimator.affine_steps import (
    NOTHING_MISSING,
    read_affine,
    refusal,
    selection,
)
from sklpos.estimator.encoders import ENCODERS, Source, read_encoder
from sklpos.estimator.pipelines import flat
from sklpos.nets.columns import Column, Columns
from sklpos.nets.input_map import InputMap


def read_steps(steps: Iterable) -> tuple[InputMap, Columns]:
    """Read the fitted steps before a regressor.

    Parameters
    ----------
    steps : iterable of transformer
        At least one of them: affine ones, and at the beginning encoders of categories,
        or a ColumnTransformer of both.

    Returns
    -------
    map : InputMap
        Of the features that stand for the columns.
    columns : Columns
        Those of the data that the first step takes.

    Raises
    ------
    ValueError
        For any other step, by its name.
    """
    steps = list(flat(steps))
    first = steps[0]
    check_is_fitted(first)
    names = getattr(first, "feature_names_in_", None)
    n_columns = first.n_features_in_
    part = _read_path(steps, list(range(n_columns)), names)
    if not any(isinstance(step, (ColumnTransformer, *ENCODERS)) for step in steps):
        # On arrays they do not warn of names.
        found = replace(part.map, steps=tuple(map(_without_names, steps)))
        own = range(n_columns) if names is None else names.tolist()
        return found, Columns.numbers(own, named=names is not None)
    found, sources = _joined([part])
    labels = range(n_columns) if names is None else names.tolist()
    columns = _columns(labels, sources, named=names is not None)
    return replace(found, steps=tuple(steps)), columns


@dataclass(frozen=True, eq=False)
class _Part:
    """A map of the features of some columns, by their positions in the data."""

    map: InputMap
    sources: dict[int, Source]


def _read_path(steps: Iterable, positions: list[int], names) -> _Part:
    """Read the steps that some columns of the data pass."""
    steps = list(flat(steps))
    imputers = 0
    while imputers < len(steps) and type(steps[imputers]) is SimpleImputer:
        imputers += 1
    before, rest = steps[:imputers], steps[imputers:]
    if rest and type(rest[0]) in ENCODERS:
        found, sources = read_encoder(rest.pop(0))
        if before:
            found = replace(found, assumptions=(NOTHING_MISSING,))
        part = _Part(found, dict(zip(positions, sources, strict=True)))
    elif rest and type(rest[0]) is ColumnTransformer and not before:
        part = _read_columns(rest.pop(0), positions, names)
    else:
        rest = steps
        part = _Part(
            InputMap.identity(len(positions)), {k: Source() for k in positions}
        )
    found = part.map
    for step in rest:
        found = found.then(_read_numbers(step, len(found.offset)))
    return replace(part, map=found)


def _read_numbers(step: Any, n_features: int) -> InputMap:
    """Read a step behind others, which takes numbers."""
    if type(step) in ENCODERS:
        raise refusal(step, "behind another step is not understood")
    if type(step) is not ColumnTransformer:
        return read_affine(step, n_features)
    names = getattr(step, "feature_names_in_", None)
    part = _read_columns(step, list(range(n_features)), names)
    if any(source.categories is not None for source in part.sources.values()):
        raise refusal(step, "with an encoder behind another step is not understood")
    return selection(list(part.sources), n_features).then(part.map)


def _read_columns(step: ColumnTransformer, positions: list[int], names) -> _Part:
    check_is_fitted(step)
    parts = []
    weights = step.transformer_weights or {}
    for name, inner, columns in step.transformers_:
        own = [positions[k] for k in positions_of(columns, len(positions), names)]
        if inner == "drop" or not own:
            continue
        part = _read_path([inner], own, None if names is None else names[own])
        weight = weights.get(name)
        if weight is not None:
            n_out = len(part.map.offset)
            scaled = InputMap.scaling(np.full(n_out, weight), np.zeros(n_out))
            part = replace(part, map=part.map.then(scaled))
        parts.append(part)
    return _Part(*_joined(parts))


def positions_of(columns: Any, n_columns: int, names) -> list[int]:
    """Positions of columns that a ColumnTransformer names, in any way.

    Parameters
    ----------
    columns : str, int, slice, or array-like of str, int or bool
    n_columns : int
        Number of columns of its data.
    names : array-like of str or None
        Their names.

    Returns
    -------
    list of int
    """
    if isinstance(columns, str | int):
        columns = [columns]
    if isinstance(columns, slice) and isinstance(columns.start or columns.stop, str):
        known = list(names)
        first = 0 if columns.start is None else known.index(columns.start)
        last = n_columns - 1 if columns.stop is None else known.index(columns.stop)
        return list(range(first, last + 1))
    if not isinstance(columns, slice):
        columns = list(columns)
        if columns and isinstance(columns[0], str):
            known = list(names)
            return [known.index(name) for name in columns]
        # An empty list would become one of floats.
        columns = np.asarray(columns, dtype=None if columns else int)
    return np.arange(n_columns)[columns].tolist()


def _joined(parts: list[_Part]) -> tuple[InputMap, dict[int, Source]]:
    """Stack the outputs of maps, as a map of the features of all their columns."""
    sources: dict[int, Source] = {}
    for part in parts:
        for position, source in part.sources.items():
            if sources.setdefault(position, source) != source:
                raise ValueError(
                    f"column {position} is encoded in two ways, or used as a number "
                    "and as a category, which is not understood."
                )
    sources = dict(sorted(sources.items()))
    starts, n_features = _starts(sources)
    maps = []
    for part in parts:
        kept = [
            starts[position] + k
            for position, source in part.sources.items()
            for k in range(source.width)
        ]
        maps.append(selection(kept, n_features).then(part.map))
    joined = InputMap(
        gain=csr_array(vstack([one.gain for one in maps])),
        offset=np.concatenate([one.offset for one in maps]),
        gain_size=csr_array(vstack([one.gain_size for one in maps])),
        offset_size=np.concatenate([one.offset_size for one in maps]),
        n_terms=max(one.n_terms for one in maps),
        assumptions=tuple(dict.fromkeys(a for one in maps for a in one.assumptions)),
    )
    return joined, sources


def _starts(sources: dict[int, Source]) -> tuple[dict[int, int], int]:
    """First feature of each column, and the number of features."""
    starts, total = {}, 0
    for position, source in sources.items():
        starts[position] = total
        total += source.width
    return starts, total


def _columns(labels: Iterable, sources: dict[int, Source], *, named: bool) -> Columns:
    starts, _ = _starts(sources)
    columns = []
    for position, label in enumerate(labels):
        if position not in sources:
            columns.append(Column(label, ()))
            continue
        source, start = sources[position], starts[position]
        features = tuple(range(start, start + source.width))
        columns.append(Column(label, features, source.categories, source.unknown))
    return Columns(tuple(columns), named)


def _without_names(step):
    """Copy a step that takes arrays without a warning and returns arrays."""
    # A shallow copy will do: attributes are dropped, and none is changed.
    step = copy.copy(step)
    vars(step).pop("feature_names_in_", None)
    vars(step).pop("_sklearn_output_config", None)
    return step
