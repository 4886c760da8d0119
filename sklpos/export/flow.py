"""What flows between the steps of an exported pipeline: columns, by their dtypes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklpos.export.graph import TEXT, Block, Graph

#: Types of single values that are numbers.
NUMBERS = (bool, int, float, np.number, np.bool_)


@dataclass(frozen=True, eq=False)
class Flow:
    """Columns, in order, as blocks.

    Attributes
    ----------
    graph : Graph
        To which operations on the columns are appended.
    blocks : tuple of Block
    dtype : numpy dtype
        In which numbers are computed.

    Examples
    --------
    >>> graph = Graph(np.dtype(float))
    >>> flow = Flow(graph, (Block("X", 3, graph.dtype),), graph.dtype)
    >>> flow.select([2, 0]).width
    2
    >>> graph.nodes[0].op_type
    'Gather'
    """

    graph: Graph
    blocks: tuple[Block, ...]
    dtype: np.dtype

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(block.width for block in self.blocks)

    def with_blocks(self, blocks: Iterable[Block]) -> Flow:
        """Replace the columns."""
        return Flow(self.graph, tuple(blocks), self.dtype)

    def of_numbers(self, name: str, width: int) -> Flow:
        """Replace the columns by one tensor of numbers."""
        return self.with_blocks([Block(name, width, self.dtype)])

    def select(self, positions: Sequence[int]) -> Flow:
        """Take some columns, in any order."""
        owners = [(block, k) for block in self.blocks for k in range(block.width)]
        taken = [owners[position] for position in positions]
        runs = groupby(taken, key=lambda pair: id(pair[0]))
        return self.with_blocks(self._part(list(run)) for _, run in runs)

    def columns(self) -> list[Flow]:
        """Each column as a flow of its own."""
        return [self.select([position]) for position in range(self.width)]

    def numbers(self) -> str:
        """Write all columns as one tensor of numbers, and name it.

        Raises
        ------
        ValueError
            If a column holds no numbers.
        """
        parts = [self._as_numbers(block) for block in self.blocks]
        return parts[0] if len(parts) == 1 else self.graph.add("Concat", *parts, axis=1)

    def is_text(self, expected: bool) -> bool:
        """Whether one column holds text.

        Parameters
        ----------
        expected : bool
            What holds for an input whose dtype is not known yet.
        """
        (block,) = self.blocks
        if block.dtype is None:
            block.dtype = TEXT if expected else np.dtype(np.float64)
        return block.dtype == TEXT

    def _part(self, run: list[tuple[Block, int]]) -> Block:
        block = run[0][0]
        kept = [k for _, k in run]
        if kept == list(range(block.width)):
            return block
        index = self.graph.constant(np.array(kept), np.dtype(np.int64))
        name = self.graph.add("Gather", block.name, index, axis=1)
        return replace(block, name=name, width=len(kept))

    def _as_numbers(self, block: Block) -> str:
        if block.dtype is None:
            block.dtype = np.dtype(np.float64)
        if block.dtype == TEXT:
            raise ValueError(f"{block.label} holds text, which only encoders read")
        if block.dtype.kind not in "biuf" or block.dtype.itemsize > 8:
            raise ValueError(f"{block.label} holds {block.dtype}, which ONNX lacks")
        if block.dtype == self.dtype:
            return block.name
        return self.graph.cast(block.name, self.dtype)


def joined(flows: Sequence[Flow], start: Flow) -> Flow:
    """Put columns beside each other.

    Parameters
    ----------
    flows : sequence of Flow
    start : Flow
        Where they come from.

    Returns
    -------
    Flow
    """
    return start.with_blocks(block for flow in flows for block in flow.blocks)


def dtype_of(column: Any) -> np.dtype | None:
    """Dtype in which a graph reads a column of a sample.

    Parameters
    ----------
    column : array-like of shape (n_samples,) or (n_samples, n_columns)

    Returns
    -------
    numpy dtype or None
        That of objects for text; None if every value is missing.

    Examples
    --------
    >>> dtype_of(["a", "b"]), dtype_of([1, 2]), dtype_of(np.array([True, None]))
    (dtype('O'), dtype('int64'), dtype('float64'))
    """
    values = np.asarray(column)
    if values.dtype.kind in "UT":
        return TEXT
    if values.dtype.kind != "O":
        return values.dtype
    return _dtype_of_objects(values)


def _dtype_of_objects(values: NDArray) -> np.dtype | None:
    known = [value for value in values.ravel() if not is_missing(value)]
    if not known:
        return None
    if all(isinstance(value, str) for value in known):
        return TEXT
    if all(isinstance(value, NUMBERS) for value in known):
        # Beside missing values, numbers of all kinds are read with NaN.
        return np.dtype(np.float64)
    kinds = " and ".join(sorted({type(value).__name__ for value in known}))
    raise ValueError(f"holds {kinds}, which ONNX cannot read as one tensor")


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN or pandas' NA.

    Parameters
    ----------
    value : object

    Returns
    -------
    bool
    """
    # NaN differs from itself; NA answers NA, which has no truth value.
    return value is None or type(value).__name__ == "NAType" or value != value
