"""Layers of torch as operations of an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from itertools import filterfalse

import numpy as np
import torch
from torch import nn

from sklpos.export.graph import Graph
from sklpos.nets.modules import has_own_forward
from sklpos.nets.outputs import BoundedOutput


def write_layers(graph: Graph, rows: str, net: nn.Sequential) -> str:
    """Write a chain of layers.

    Parameters
    ----------
    graph : Graph
        Of the dtype of the net.
    rows : str
        Name of the value that enters the first layer.
    net : nn.Sequential
        In eval mode.

    Returns
    -------
    str
        Name of the value that the last layer returns.

    Raises
    ------
    ValueError
        If a layer is not understood; the message names it.

    Examples
    --------
    >>> graph = Graph(torch.zeros(1).numpy().dtype)
    >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> write_layers(graph, "X", net)
    'Gemm_2'
    >>> [node.op_type for node in graph.nodes]
    ['Gemm', 'Relu', 'Gemm']
    """
    # Rows are vectors here, which flatten layers leave as they are.
    for layer in filterfalse(is_flatten, net):
        rows = _writer(layer)(graph, rows, layer)
    return rows


def is_flatten(layer: nn.Module) -> bool:
    """Whether a layer makes a vector of each row, and nothing else.

    Parameters
    ----------
    layer : nn.Module

    Returns
    -------
    bool
    """
    plain = type(layer) is nn.Flatten and not has_own_forward(layer)
    return plain and (layer.start_dim, layer.end_dim) == (1, -1)


def _writer(layer: nn.Module) -> Callable:
    if type(layer) not in _WRITERS or has_own_forward(layer):
        own = " with a forward or a hook of its own" if has_own_forward(layer) else ""
        known = ", ".join(kind.__name__ for kind in _WRITERS if kind != BoundedOutput)
        raise ValueError(
            f"to_onnx does not understand {type(layer).__name__}{own}; it knows "
            f"nn.Sequential and MLP of {known}. For other modules, use "
            "torch.onnx.export on what to_torch returns."
        )
    return _WRITERS[type(layer)]


def _linear(graph: Graph, x: str, layer: nn.Linear) -> str:
    inputs = [x, graph.constant(layer.weight)]
    if layer.bias is not None:
        inputs.append(graph.constant(layer.bias))
    # torch stores the weights as (n_outputs, n_inputs).
    return graph.add("Gemm", *inputs, transB=1)


def _batch_norm(graph: Graph, x: str, layer: nn.BatchNorm1d) -> str:
    ones = torch.ones_like(layer.running_mean)
    # BatchNormalization has no form without scale and shift.
    scale, shift = (layer.weight, layer.bias) if layer.affine else (ones, 0 * ones)
    parts = scale, shift, layer.running_mean, layer.running_var
    constants = [graph.constant(part) for part in parts]
    return graph.add("BatchNormalization", x, *constants, epsilon=layer.eps)


def _same(op_type: str) -> Callable:
    return lambda graph, x, layer: graph.add(op_type, x)


def _leaky_relu(graph: Graph, x: str, layer: nn.LeakyReLU) -> str:
    if not graph.is_double:
        return graph.add("LeakyRelu", x, alpha=layer.negative_slope)
    slope = graph.constant(layer.negative_slope)
    below = graph.add("Mul", slope, _negative_part(graph, x))
    return graph.add("Sub", graph.add("Relu", x), below)


def _elu(graph: Graph, x: str, layer: nn.ELU) -> str:
    if not graph.is_double:
        return graph.add("Elu", x, alpha=layer.alpha)
    # exp of min(x, 0), so that a large x cannot overflow.
    decay = graph.add("Exp", graph.add("Neg", _negative_part(graph, x)))
    below = graph.add("Sub", decay, graph.constant(1.0))
    below = graph.add("Mul", graph.constant(layer.alpha), below)
    return graph.add("Add", graph.add("Relu", x), below)


def _softplus(graph: Graph, x: str, layer: nn.Softplus) -> str:
    if layer.beta == 1:
        return _softplus_of(graph, x)
    beta = graph.constant(layer.beta)
    return graph.add("Div", _softplus_of(graph, graph.add("Mul", beta, x)), beta)


def _softplus_of(graph: Graph, x: str) -> str:
    if not graph.is_double:
        return graph.add("Softplus", x)
    # max(x, 0) + log(1 + exp(-|x|)), which does not overflow.
    decay = graph.add("Exp", graph.add("Neg", graph.add("Abs", x)))
    rest = graph.add("Log", graph.add("Add", graph.constant(1.0), decay))
    return graph.add("Add", graph.add("Relu", x), rest)


def _silu(graph: Graph, x: str, layer: nn.SiLU) -> str:
    return graph.add("Mul", x, graph.add("Sigmoid", x))


def _gelu(graph: Graph, x: str, layer: nn.GELU) -> str:
    if not graph.is_double or layer.approximate != "none":
        return graph.add("Gelu", x, approximate=layer.approximate)
    # onnxruntime has Erf in float32 only. The numbers are FLOAT and DOUBLE of
    # onnx.TensorProto.
    single = 1
    double = 11
    scaled = graph.add("Mul", x, graph.constant(0.5**0.5))
    erf = graph.add("Erf", graph.add("Cast", scaled, to=single))
    share = graph.add("Cast", erf, to=double)
    share = graph.add("Add", graph.constant(1.0), share)
    return graph.add("Mul", graph.add("Mul", graph.constant(0.5), x), share)


def _clipped(graph: Graph, x: str, layer: nn.Hardtanh) -> str:
    ends = graph.constant(layer.min_val), graph.constant(layer.max_val)
    return graph.add("Clip", x, *ends)


def _hard_sigmoid(graph: Graph, x: str, layer: nn.Hardsigmoid) -> str:
    # onnxruntime has HardSigmoid in float32 only.
    shifted = graph.add("Add", x, graph.constant(3.0))
    clipped = graph.add("Clip", shifted, graph.constant(0.0), graph.constant(6.0))
    return graph.add("Div", clipped, graph.constant(6.0))


def _negative_part(graph: Graph, x: str) -> str:
    return graph.add("Relu", graph.add("Neg", x))


def _bounded_output(graph: Graph, z: str, layer: BoundedOutput) -> str:
    if layer.has_gain:
        z = graph.add("Mul", graph.constant(layer.gain), z)
    value = z
    for name, mark in layer.pieces:
        own = _OUTPUTS[name](graph, z)
        # Where picks a value, so an overflow in another output is dropped.
        if mark:
            mask = graph.constant(getattr(layer, mark))
            own = graph.add("Where", mask, own, value)
        value = own
    scaled = graph.add("Mul", graph.constant(layer.sign * layer.scale), value)
    output = graph.add("Add", graph.constant(layer.offset), scaled)
    return output if layer.n_ordered == 1 else _running_max(graph, output, layer)


def _running_max(graph: Graph, x: str, layer: BoundedOutput) -> str:
    columns: list[str] = []
    for number in range(len(layer.offset)):
        index = graph.constant(np.array([number]), np.dtype(np.int64))
        own = graph.add("Gather", x, index, axis=1)
        starts = number % layer.n_ordered == 0
        columns.append(own if starts else graph.add("Max", columns[-1], own))
    return graph.add("Concat", *columns, axis=1)


def _exp_of(graph: Graph, z: str) -> str:
    return graph.add("Exp", z)


def _relu_of(graph: Graph, z: str) -> str:
    return graph.add("Relu", z)


def _square_of(graph: Graph, z: str) -> str:
    return graph.add("Mul", z, z)


def _sigmoid_of(graph: Graph, z: str) -> str:
    return graph.add("Sigmoid", z)


_OUTPUTS: dict[str, Callable[[Graph, str], str]] = {
    "softplus": _softplus_of,
    "exp": _exp_of,
    "relu": _relu_of,
    "square": _square_of,
    "sigmoid": _sigmoid_of,
}

_WRITERS: dict[type[nn.Module], Callable] = {
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.ReLU: _same("Relu"),
    nn.LeakyReLU: _leaky_relu,
    nn.ELU: _elu,
    nn.Sigmoid: _same("Sigmoid"),
    nn.Hardsigmoid: _hard_sigmoid,
    nn.Hardtanh: _clipped,
    nn.ReLU6: _clipped,
    nn.Tanh: _same("Tanh"),
    nn.Softplus: _softplus,
    nn.SiLU: _silu,
    nn.GELU: _gelu,
    BoundedOutput: _bounded_output,
}
