"""Layers of torch as nodes of an ONNX graph, written without the package onnx."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklpos.nets.modules import has_own_forward
from sklpos.nets.outputs import BoundedOutput

#: Names of the input and the output of the graph.
INPUT = "X"
OUTPUT = "y"


@dataclass(frozen=True)
class Node:
    """One operation: its type, the names of its inputs and output, its options."""

    op_type: str
    inputs: tuple[str, ...]
    output: str
    options: dict[str, Any]


@dataclass
class Graph:
    """A chain of operations, in the order of their execution.

    Attributes
    ----------
    dtype : numpy dtype
        Dtype of the input, the output and all floating-point constants.
    nodes : list of Node
    constants : dict of str to ndarray

    Examples
    --------
    >>> graph = write_graph(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)))
    >>> [node.op_type for node in graph.nodes]
    ['Gemm', 'Relu', 'Gemm']
    """

    dtype: np.dtype
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, NDArray] = field(default_factory=dict)

    def add(self, op_type: str, *inputs: str, **options: Any) -> str:
        """Append an operation, and name its output."""
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(Node(op_type, inputs, name, options))
        return name

    def constant(self, value: Tensor | float) -> str:
        """Add a constant, and name it."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        name = f"constant_{len(self.constants)}"
        # Masks stay boolean, as Where needs them.
        kept = np.asarray(array)
        self.constants[name] = kept if kept.dtype == bool else kept.astype(self.dtype)
        return name

    @property
    def is_double(self) -> bool:
        """Whether it computes in float64, where onnxruntime lacks some activations."""
        return self.dtype == np.float64


def write_graph(net: nn.Sequential) -> Graph:
    """Write a chain of layers as a graph.

    Parameters
    ----------
    net : nn.Sequential
        In eval mode.

    Returns
    -------
    Graph

    Raises
    ------
    ValueError
        If a layer is not understood; the message names it.
    """
    graph = Graph(next(net.parameters()).detach().cpu().numpy().dtype)
    name = INPUT
    for layer in net:
        name = _writer(layer)(graph, name, layer)
    # Names are given before it is known which operation is the last.
    last = graph.nodes.pop()
    graph.nodes.append(Node(last.op_type, last.inputs, OUTPUT, last.options))
    return graph


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
    return graph.add("Add", graph.constant(layer.offset), scaled)


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
