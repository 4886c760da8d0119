"""Transformed targets, taken back in an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sklearn.preprocessing import FunctionTransformer

from sklpos.estimator.affine_steps import is_affine, read_affine
from sklpos.export.flow import Flow
from sklpos.export.numbers import write_function, write_map
from sklpos.nets.input_map import InputMap


def write_targets(transformers: Iterable, flow: Flow) -> Flow:
    """Write the inverse of transformers of the targets.

    Parameters
    ----------
    transformers : iterable of transformer
        Fitted, from the outermost one inwards.
    flow : Flow
        What the net predicts.

    Returns
    -------
    Flow

    Raises
    ------
    ValueError
        If an inverse is not understood; the message names its transformer.
    """
    for step in reversed(list(transformers)):
        try:
            flow = _undone(step, flow)
        except ValueError as error:
            raise ValueError(
                f"to_onnx cannot undo {type(step).__name__} of the targets: {error}."
            ) from error
    return flow


def _undone(step: Any, flow: Flow) -> Flow:
    if type(step) is FunctionTransformer:
        inverse = step.inverse_func
        return flow if inverse is None else write_function(inverse, flow)
    if not is_affine(step):
        raise ValueError("only scalers and functions of numpy are understood")
    found = read_affine(step, flow.width)
    factor = found.gain.diagonal()
    if found.gain.nnz > len(factor) or not factor.all():
        raise ValueError("it mixes outputs, or leaves some of them out")
    inverse = InputMap.scaling(1 / factor, -found.offset / factor)
    return write_map(inverse, flow)
