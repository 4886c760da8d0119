"""Steps that compute with numbers alone as operations of an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    Normalizer,
    PolynomialFeatures,
    PowerTransformer,
)

from sklpos.estimator.affine_steps import read_affine
from sklpos.export.flow import Flow
from sklpos.nets.input_map import InputMap


def write_map(found: InputMap, flow: Flow) -> Flow:
    """Write an affine map.

    Parameters
    ----------
    found : InputMap
    flow : Flow
        Of numbers.

    Returns
    -------
    Flow
    """
    graph, rows, dtype = flow.graph, flow.numbers(), flow.dtype
    gain = found.gain.tocoo()
    n_out, n_in = gain.shape
    # One factor for each column keeps the arithmetic of a scaler.
    if n_out == n_in and np.array_equal(gain.row, gain.col):
        factor = graph.constant(gain.diagonal(), dtype)
        rows = graph.add("Mul", rows, factor)
    else:
        rows = graph.add("MatMul", rows, graph.constant(gain.toarray().T, dtype))
    rows = graph.add("Add", rows, graph.constant(found.offset, dtype))
    return flow.of_numbers(rows, n_out)


# -- Functions ----------------------------------------------------------------------


def write_function_step(step: FunctionTransformer, flow: Flow) -> Flow:
    """Write a step that is one function of numpy, or none.

    Parameters
    ----------
    step : FunctionTransformer
        Fitted.
    flow : Flow
        Of numbers.

    Returns
    -------
    Flow
    """
    if step.func is None:
        return flow
    if step.kw_args:
        raise ValueError("kw_args are not understood")
    return write_function(step.func, flow)


def write_function(func: Callable, flow: Flow) -> Flow:
    """Write a function of numpy, value by value.

    Parameters
    ----------
    func : callable
    flow : Flow
        Of numbers.

    Returns
    -------
    Flow

    Raises
    ------
    ValueError
        If the function is not known.
    """
    write = next((write for known, write in _FUNCTIONS if known is func), None)
    if write is None:
        known = ", ".join(known.__name__ for known, _ in _FUNCTIONS)
        raise ValueError(
            f"{getattr(func, '__name__', func)} is none of the functions of numpy that "
            f"it knows: {known}"
        )
    rows = flow.numbers()
    return flow.of_numbers(write(flow, rows), flow.width)


def _operation(op_type: str) -> Callable:
    return lambda flow, rows: flow.graph.add(op_type, rows)


def _with_one(flow: Flow, op_type: str, rows: str) -> str:
    return flow.graph.add(op_type, rows, flow.graph.constant(1.0, flow.dtype))


def _log1p(flow: Flow, rows: str) -> str:
    return flow.graph.add("Log", _with_one(flow, "Add", rows))


def _expm1(flow: Flow, rows: str) -> str:
    return _with_one(flow, "Sub", flow.graph.add("Exp", rows))


def _square(flow: Flow, rows: str) -> str:
    return flow.graph.add("Mul", rows, rows)


def _log_to_base(base: float) -> Callable:
    def write(flow: Flow, rows: str) -> str:
        scale = flow.graph.constant(np.log(base), flow.dtype)
        return flow.graph.add("Div", flow.graph.add("Log", rows), scale)

    return write


_FUNCTIONS = [
    (np.log, _operation("Log")),
    (np.log1p, _log1p),
    (np.log2, _log_to_base(2)),
    (np.log10, _log_to_base(10)),
    (np.exp, _operation("Exp")),
    (np.expm1, _expm1),
    (np.sqrt, _operation("Sqrt")),
    (np.square, _square),
    (np.abs, _operation("Abs")),
    (np.sign, _operation("Sign")),
    (np.sin, _operation("Sin")),
    (np.cos, _operation("Cos")),
    (np.tanh, _operation("Tanh")),
    (np.negative, _operation("Neg")),
    (np.reciprocal, _operation("Reciprocal")),
    (np.floor, _operation("Floor")),
    (np.ceil, _operation("Ceil")),
    (np.rint, _operation("Round")),
]


def write_powers(step: PowerTransformer, flow: Flow) -> Flow:
    """Write the transforms of Box and Cox, or of Yeo and Johnson.

    Parameters
    ----------
    step : PowerTransformer
        Fitted.
    flow : Flow
        Of numbers.

    Returns
    -------
    Flow
    """
    graph, rows = flow.graph, flow.numbers()
    if step.method == "box-cox":
        rows = _box_cox(flow, rows, step.lambdas_)
    else:
        # One of the two is 0 in every value, and so is what is made of it.
        above = _with_one(flow, "Add", graph.add("Relu", rows))
        below = graph.add("Relu", graph.add("Neg", rows))
        below = _box_cox(flow, _with_one(flow, "Add", below), 2 - step.lambdas_)
        rows = graph.add("Sub", _box_cox(flow, above, step.lambdas_), below)
    flow = flow.of_numbers(rows, flow.width)
    if not step.standardize:
        return flow
    return write_map(read_affine(step._scaler, flow.width), flow)


def _box_cox(flow: Flow, rows: str, lambdas: NDArray) -> str:
    """``(rows**lambda - 1) / lambda``, or the logarithm where lambda is 0."""
    graph = flow.graph
    # As near to 0 as in scikit-learn.
    is_zero = np.abs(lambdas) < np.spacing(1.0)
    power = graph.constant(np.where(is_zero, 1.0, lambdas), flow.dtype)
    powers = _with_one(flow, "Sub", graph.add("Pow", rows, power))
    powers = graph.add("Div", powers, power)
    return graph.add("Where", graph.constant(is_zero), graph.add("Log", rows), powers)


def write_polynomial(step: PolynomialFeatures, flow: Flow) -> Flow:
    """Write products of columns.

    Parameters
    ----------
    step : PolynomialFeatures
        Fitted.
    flow : Flow
        Of numbers.

    Returns
    -------
    Flow
    """
    graph, powers = flow.graph, step.powers_
    n_out, n_in = powers.shape
    # Each output is a product of columns, with ones that make up the length.
    factors = np.full((n_out, max(1, int(powers.sum(axis=1).max()))), n_in)
    for row, own in zip(factors, powers, strict=True):
        columns = np.repeat(np.arange(n_in), own)
        row[: len(columns)] = columns
    one_more = graph.constant([0, 0, 0, 1], np.dtype(np.int64))
    one = graph.constant(1.0, flow.dtype)
    padded = graph.add("Pad", flow.numbers(), one_more, one)
    parts = [
        graph.add("Gather", padded, graph.constant(part, np.dtype(np.int64)), axis=1)
        for part in factors.T
    ]
    product = parts[0]
    for part in parts[1:]:
        product = graph.add("Mul", product, part)
    return flow.of_numbers(product, n_out)


def write_binary(step: Binarizer, flow: Flow) -> Flow:
    """Write a threshold.

    Parameters
    ----------
    step : Binarizer
        Fitted.
    flow : Flow
        Of numbers.

    Returns
    -------
    Flow
    """
    threshold = flow.graph.constant(step.threshold, flow.dtype)
    above = flow.graph.add("Greater", flow.numbers(), threshold)
    return flow.of_numbers(flow.graph.cast(above, flow.dtype), flow.width)


def write_norms(step: Normalizer, flow: Flow) -> Flow:
    """Write the division of each row by its norm; a row of zeros stays one.

    Parameters
    ----------
    step : Normalizer
        Fitted.
    flow : Flow
        Of numbers.

    Returns
    -------
    Flow
    """
    graph, rows = flow.graph, flow.numbers()
    axes = graph.constant([1], np.dtype(np.int64))
    kinds = {"l1": "ReduceL1", "l2": "ReduceL2", "max": "ReduceMax"}
    sizes = graph.add("Abs", rows)
    norm = graph.add(kinds[step.norm], sizes, axes, keepdims=1)
    is_zero = graph.add("Equal", norm, graph.constant(0.0, flow.dtype))
    norm = graph.add("Where", is_zero, graph.constant(1.0, flow.dtype), norm)
    return flow.of_numbers(graph.add("Div", rows, norm), flow.width)
