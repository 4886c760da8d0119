"""Steps that skl2onnx converts."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from sklpos.export.flow import Flow
from sklpos.export.graph import Graph
from sklpos.export.proto import (
    OPSETS,
    import_or_explain,
    run_in_onnxruntime,
    shortened,
)

# Of a converted value, relative to the largest one: some are computed in float32.
_TOLERANCE = 1e-5


def write_foreign(step: Any, flow: Flow) -> Flow:
    """Convert a step of another package's knowledge, and take over its operations.

    Parameters
    ----------
    step : transformer
        Fitted.
    flow : Flow
        Of numbers.

    Returns
    -------
    Flow

    Raises
    ------
    ImportError
        If skl2onnx is missing.
    ValueError
        If skl2onnx cannot convert the step in the dtype of the flow.
    """
    name, graph = type(step).__name__, flow.graph
    skl2onnx = import_or_explain("skl2onnx", f"to convert {name}")
    rows = flow.numbers()
    examples, expected = _examples(step, flow)
    try:
        made = skl2onnx.to_onnx(step, examples[:1], target_opset=OPSETS)
        found = run_in_onnxruntime(made, {made.graph.input[0].name: examples})
    # skl2onnx has many kinds of errors of its own.
    except Exception as error:
        reason = shortened(error)
        raise ValueError(f"skl2onnx fails in {flow.dtype}, {reason}") from error
    place = 0 if found is None else _place_of(expected, found)
    used = {opset.domain: opset.version for opset in made.opset_import}
    if place is None or any(OPSETS.get(k) != version for k, version in used.items()):
        raise ValueError("skl2onnx makes something else of it")
    graph.foreign.append(name)
    prefix = f"{name}_{len(graph.nodes)}_"
    return flow.of_numbers(
        _take_over(made, place, rows, prefix, graph), expected.shape[1]
    )


def _examples(step: Any, flow: Flow) -> tuple[NDArray, NDArray]:
    """Rows without names, and what the step makes of them."""
    rows = np.random.default_rng(0).normal(size=(5, flow.width))
    # A row of zeros, in which no sum cancels and no power overflows.
    rows[0] = 0
    rows = rows.astype(flow.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = step.transform(rows)
    return rows, found.toarray() if issparse(found) else np.asarray(found)


def _place_of(expected: NDArray, found: list) -> int | None:
    """Find the output that is right, as a clusterer has several of them."""
    for place, values in enumerate(found):
        values = np.asarray(values)
        if values.shape == expected.shape and values.dtype.kind == "f":
            atol = _TOLERANCE * np.abs(expected).max(initial=1.0)
            if np.allclose(values, expected, rtol=0, atol=atol, equal_nan=True):
                return place
    return None


def _take_over(made: Any, place: int, rows: str, prefix: str, graph: Graph) -> str:
    """Append the operations of a model to a graph, and name their result."""
    onnx = import_or_explain("onnx")
    made = onnx.compose.add_prefix(made, prefix)
    (start,), end = made.graph.input, made.graph.output[place].name
    graph.constants |= {
        constant.name: onnx.numpy_helper.to_array(constant)
        for constant in made.graph.initializer
    }
    for node in made.graph.node:
        for k, name in enumerate(node.input):
            if name == start.name:
                node.input[k] = rows
        graph.nodes.append(node)
    return end
