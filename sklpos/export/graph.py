"""An ONNX graph under construction, written without the package onnx."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

#: Names of the only input, if there is one alone, and of the output.
INPUT = "X"
OUTPUT = "y"
#: Dtype of text, as a tensor of strings becomes an array of objects.
TEXT = np.dtype(object)
# Numbers of the dtypes in onnx.TensorProto.
_TYPES = {np.dtype(np.float32): 1, np.dtype(np.int64): 7, np.dtype(np.float64): 11}


@dataclass(eq=False)
class Block:
    """Adjacent columns of one dtype: one tensor.

    Attributes
    ----------
    name : str
        Of the tensor of shape (n_samples, width).
    width : int
    dtype : numpy dtype or None
        None for an input whose dtype follows from the first step that reads it.
    label : str
        What errors call it.
    """

    name: str
    width: int
    dtype: np.dtype | None
    label: str = "a column"


@dataclass(frozen=True)
class Node:
    """One operation: its type, the names of its inputs and output, its options."""

    op_type: str
    inputs: tuple[str, ...]
    output: str
    options: dict[str, Any]


@dataclass
class Graph:
    """Operations, in the order of their execution.

    Attributes
    ----------
    dtype : numpy dtype
        Dtype of floating-point constants, unless they have one of their own.
    inputs : dict of str to Block
    nodes : list of Node or onnx.NodeProto
        Those of a converted model are taken over as they are.
    constants : dict of str to ndarray
    foreign : list of str
        Names of the steps that another package converted.

    Examples
    --------
    >>> graph = Graph(np.dtype(np.float64))
    >>> rows = graph.add_input(Block("X", 3, graph.dtype))
    >>> graph.add("Add", rows, graph.constant(1.0))
    'Add_0'
    """

    dtype: np.dtype
    inputs: dict[str, Block] = field(default_factory=dict)
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, NDArray] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)

    def add_input(self, block: Block) -> str:
        """Declare an input, and name it."""
        self.inputs[block.name] = block
        return block.name

    def add(self, op_type: str, *inputs: str, **options: Any) -> str:
        """Append an operation, and name its output."""
        name = self._free(f"{op_type}_{len(self.nodes)}")
        self.nodes.append(Node(op_type, inputs, name, options))
        return name

    def constant(
        self, value: Tensor | NDArray | float, dtype: np.dtype | None = None
    ) -> str:
        """Add a constant, and name it."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        name = self._free(f"constant_{len(self.constants)}")
        # Masks stay boolean, as Where needs them.
        kept = np.asarray(array)
        is_mask = dtype is None and kept.dtype == bool
        self.constants[name] = kept if is_mask else kept.astype(dtype or self.dtype)
        return name

    def cast(self, value: str, dtype: np.dtype) -> str:
        """Append a conversion to float32, float64 or int64."""
        return self.add("Cast", value, to=_TYPES[np.dtype(dtype)])

    def end(self) -> str:
        """Make the last operation the output of the graph, and name the output."""
        output = self._free(OUTPUT)
        # Nodes are named before it is known which one is the last.
        last = self.nodes.pop()
        self.nodes.append(Node(last.op_type, last.inputs, output, last.options))
        return output

    @property
    def is_double(self) -> bool:
        """Whether it computes in float64, where onnxruntime lacks some activations."""
        return self.dtype == np.float64

    def _free(self, name: str) -> str:
        """Make a name that no input has: columns of data have names of any kind."""
        while name in self.inputs:
            name += "_"
        return name


def is_readable(dtype: np.dtype | None) -> bool:
    """Whether ONNX has a dtype; columns that no step uses may be of any other.

    Parameters
    ----------
    dtype : numpy dtype or None
        None if it is not known yet.

    Returns
    -------
    bool
    """
    return dtype is None or dtype.kind in "Obiuf"
