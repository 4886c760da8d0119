"""The steps of a pipeline as operations of an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    Normalizer,
    PolynomialFeatures,
    PowerTransformer,
)

from sklpos.estimator.affine_steps import is_affine, read_affine
from sklpos.estimator.column_steps import positions_of
from sklpos.estimator.encoders import ENCODERS
from sklpos.export.flow import Flow, joined
from sklpos.export.foreign import write_foreign
from sklpos.export.lookups import (
    write_bins,
    write_encoder,
    write_imputer,
    write_indicator,
)
from sklpos.export.numbers import (
    write_binary,
    write_function_step,
    write_map,
    write_norms,
    write_polynomial,
    write_powers,
)
from sklpos.nets.input_map import InputMap

#: Longest list of columns in an error.
_MANY_NAMES = 5


def write_steps(
    steps: Iterable, flow: Flow, names: Any = None, where: str = ""
) -> Flow:
    """Write fitted transformers, one behind the other.

    Parameters
    ----------
    steps : iterable of transformer
        Nested pipelines, ColumnTransformer and FeatureUnion are written by their parts;
        what is not known is converted by skl2onnx.
    flow : Flow
    names : array-like of str, optional
        Of its columns, for errors.
    where : str, optional
        Columns that the steps belong to, for errors.

    Returns
    -------
    Flow

    Raises
    ------
    ImportError
        If a step needs skl2onnx, which is missing.
    ValueError
        If a step cannot be converted; the message names it and its columns.
    """
    for step in steps:
        if step is None or isinstance(step, str):
            continue
        names = getattr(step, "feature_names_in_", names)
        flow = _write_step(step, flow, names, where)
        names = None
    return flow


def _write_step(step: Any, flow: Flow, names: Any, where: str) -> Flow:
    if isinstance(step, Pipeline):
        return write_steps((one for _, one in step.steps), flow, names, where)
    if type(step) is ColumnTransformer:
        return _write_columns(step, flow, names, where)
    if type(step) is FeatureUnion:
        return _write_union(step, flow, names, where)
    writer = _WRITERS.get(type(step))
    try:
        if writer is not None:
            return writer(step, flow)
        if is_affine(step):
            return write_map(read_affine(step, flow.width), flow)
        return write_foreign(step, flow)
    except ValueError as error:
        raise ValueError(
            f"to_onnx cannot convert the step {type(step).__name__}{where}: {error}."
        ) from error


def _write_columns(step: ColumnTransformer, flow: Flow, names: Any, where: str) -> Flow:
    weights = step.transformer_weights or {}
    parts = []
    for name, inner, columns in step.transformers_:
        positions = positions_of(columns, flow.width, names)
        if inner == "drop" or not positions:
            continue
        own = None if names is None else np.asarray(names)[positions]
        # The columns of the data say more than those of a part of a part.
        place = where or _place(positions if own is None else own)
        part = write_steps([inner], flow.select(positions), own, place)
        parts.append(_weighted(part, weights.get(name)))
    return joined(parts, flow)


def _write_union(step: FeatureUnion, flow: Flow, names: Any, where: str) -> Flow:
    weights = step.transformer_weights or {}
    parts = [
        _weighted(write_steps([inner], flow, names, where), weights.get(name))
        for name, inner in step.transformer_list
        if inner != "drop"
    ]
    return joined(parts, flow)


def _place(labels: Iterable) -> str:
    shown = [repr(getattr(label, "item", lambda v=label: v)()) for label in labels]
    rest = len(shown) - _MANY_NAMES
    more = f" and {rest} more" if rest > 0 else ""
    plural = "s" if len(shown) > 1 else ""
    return f" of column{plural} {', '.join(shown[:_MANY_NAMES])}{more}"


def _weighted(flow: Flow, weight: float | None) -> Flow:
    if weight is None:
        return flow
    width = flow.width
    return write_map(InputMap.scaling(np.full(width, weight), np.zeros(width)), flow)


_WRITERS: dict[type, Callable[[Any, Flow], Flow]] = {
    FunctionTransformer: write_function_step,
    PolynomialFeatures: write_polynomial,
    PowerTransformer: write_powers,
    Binarizer: write_binary,
    Normalizer: write_norms,
    SimpleImputer: write_imputer,
    MissingIndicator: write_indicator,
    KBinsDiscretizer: write_bins,
    **dict.fromkeys(ENCODERS, write_encoder),
}
