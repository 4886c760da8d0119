"""A graph as a model of the package onnx, checked with onnxruntime."""

from __future__ import annotations

import textwrap
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklpos.export.graph import Graph, Node, is_readable
from sklpos.nets.warnings import warn_user
from sklpos.version import __version__

#: The first set of operators with Gelu, and that of scikit-learn's operators.
OPSETS = {"": 20, "ai.onnx.ml": 3}
# The file format that came with it: runtimes refuse formats newer than they are.
_IR_VERSION = 9
# Largest error of a prediction, relative to the largest one: far above rounding.
_TOLERANCE = 1e-4
# Longest text of another package in an error.
_LONGEST = 100


def import_or_explain(name: str, purpose: str = "") -> Any:
    """Import a package of the extra ``onnx``.

    Parameters
    ----------
    name : str
    purpose : str, optional
        What it is needed for.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        If it is missing.
    """
    try:
        return import_module(name)
    except ImportError:
        raise ImportError(
            f"to_onnx needs the package {name}{f' {purpose}' if purpose else ''}: "
            "pip install 'sklpos[onnx]'."
        ) from None


def as_proto(graph: Graph, n_outputs: int) -> Any:
    """Make a model of a graph.

    Parameters
    ----------
    graph : Graph
        Its last operation is the output.
    n_outputs : int

    Returns
    -------
    onnx.ModelProto
    """
    onnx = import_or_explain("onnx")
    output = graph.end()
    nodes = [
        onnx.helper.make_node(node.op_type, node.inputs, [node.output], **node.options)
        if isinstance(node, Node)
        else node
        for node in graph.nodes
    ]
    inputs = [
        _value(onnx, block.name, block.dtype, block.width)
        for block in graph.inputs.values()
        if is_readable(block.dtype)
    ]
    constants = [
        onnx.numpy_helper.from_array(value, name)
        for name, value in graph.constants.items()
    ]
    outputs = [_value(onnx, output, graph.dtype, n_outputs)]
    domains = {"", *(node.domain for node in nodes)}
    return onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "sklpos", inputs, outputs, constants),
        opset_imports=[
            onnx.helper.make_opsetid(domain, OPSETS[domain])
            for domain in sorted(domains)
        ],
        ir_version=_IR_VERSION,
        producer_name="sklpos",
        producer_version=__version__,
    )


def _value(onnx: Any, name: str, dtype: np.dtype | None, width: int) -> Any:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype or np.float64))
    return onnx.helper.make_tensor_value_info(name, kind, ["n_samples", width])


def check_model(made: Any, graph: Graph) -> None:
    """Check a model, and load it in onnxruntime, or say that this was not tried.

    Parameters
    ----------
    made : onnx.ModelProto
    graph : Graph

    Raises
    ------
    ValueError
        If onnxruntime does not run it.
    """
    try:
        import_or_explain("onnx").checker.check_model(made, full_check=True)
        session = _session(made)
    except Exception as error:
        raise ValueError(
            f"onnxruntime does not run the model: {shortened(error)}."
        ) from error
    if graph.foreign and session is None:
        names = ", ".join(graph.foreign)
        warn_user(
            f"skl2onnx converted {names}; whether onnxruntime runs the result was not "
            "checked, as it is not installed."
        )


def shortened(error: Exception) -> str:
    """First words of an error of another package.

    Parameters
    ----------
    error : Exception

    Returns
    -------
    str
    """
    words = " ".join(str(error).split()).partition(". ")[0]
    return textwrap.shorten(words, _LONGEST, placeholder=" ...").removesuffix(".")


def run_in_onnxruntime(made: Any, inputs: dict[str, NDArray]) -> list | None:
    """Run a model in onnxruntime.

    Parameters
    ----------
    made : onnx.ModelProto
    inputs : dict of str to ndarray
        Values of all inputs.

    Returns
    -------
    list or None
        All outputs; None if onnxruntime is not installed.
    """
    session = _session(made)
    return None if session is None else session.run(None, inputs)


def _session(made: Any) -> Any:
    try:
        onnxruntime = import_module("onnxruntime")
    except ImportError:
        return None
    content = made.SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def compare(made: Any, inputs: dict[str, NDArray], expected: NDArray) -> None:
    """Compare a model in onnxruntime, if that is installed, with predictions.

    Parameters
    ----------
    made : onnx.ModelProto
    inputs : dict of str to ndarray
        Values of all inputs.
    expected : ndarray of shape (n_samples,) or (n_samples, n_outputs)

    Raises
    ------
    ValueError
        If they differ by more than rounding.
    """
    outputs = run_in_onnxruntime(made, inputs)
    if outputs is None:
        return
    found = outputs[0]
    error = np.abs(found - expected.reshape(found.shape)).max()
    largest = np.abs(expected).max()
    if not error <= _TOLERANCE * largest:
        raise ValueError(
            f"onnxruntime predicts X with an error of {error:.2g}, where the largest "
            f"prediction is {largest:.2g}, so the model was not written; the steps "
            "that lose digits must stay outside of the model."
        )
