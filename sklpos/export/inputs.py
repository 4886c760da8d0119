"""The inputs of an exported model: one matrix, or one for each column of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklpos.export.flow import Flow, dtype_of, is_missing
from sklpos.export.graph import INPUT, TEXT, Block, Graph, is_readable
from sklpos.export.subject import Subject
from sklpos.nets.hints import shown

_DOUBLE = np.dtype(np.float64)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs of a model.

    Attributes
    ----------
    blocks : tuple of Block
    dtype : numpy dtype
        In which the steps compute.
    by_name : bool
        Whether each column of a data frame is an input of its own.
    """

    blocks: tuple[Block, ...]
    dtype: np.dtype
    by_name: bool

    @classmethod
    def of(cls, subject: Subject, X: Any, dtype: np.dtype, width: int) -> Inputs:
        """Choose the inputs.

        Parameters
        ----------
        subject : Subject
        X : array-like, data frame or None
            A sample of the data.
        dtype : numpy dtype
            That of the net.
        width : int
            Number of columns.

        Returns
        -------
        Inputs

        Raises
        ------
        ValueError
            If X lacks a column, or ONNX cannot read one.
        """
        names = subject.names
        if names is not None and (
            hasattr(X, "columns") or (X is None and subject.has_encoder)
        ):
            return cls._by_name(names, X)
        if X is None:
            return cls._as_matrix(TEXT if subject.begins_with_text else dtype, width)
        values = np.asarray(X)
        if values.ndim != 2 or values.shape[1] != width:
            raise ValueError(
                f"X of shape {values.shape} must have the {width} columns of the data."
            )
        return cls._as_matrix(_readable("X", values), width)

    @classmethod
    def _by_name(cls, names: Any, X: Any) -> Inputs:
        names = [str(name) for name in names]
        lacking = [name for name in names if X is not None and name not in X.columns]
        if lacking:
            raise ValueError(
                f"X lacks the column {shown(lacking[0])} of the training data."
            )
        dtypes = [None if X is None else _readable(n, X[n]) for n in names]
        blocks = [
            Block(name, 1, dtype, f"the column {shown(name)}")
            for name, dtype in zip(names, dtypes, strict=True)
        ]
        numbers = {dtype for dtype in dtypes if dtype != TEXT}
        single = numbers == {np.dtype(np.float32)}
        return cls(tuple(blocks), np.dtype(np.float32) if single else _DOUBLE, True)

    @classmethod
    def _as_matrix(cls, dtype: np.dtype | None, width: int) -> Inputs:
        floating = dtype in (np.dtype(np.float32), _DOUBLE) and dtype is not None
        block = Block(INPUT, width, dtype, INPUT)
        return cls((block,), dtype if floating else _DOUBLE, False)

    def declare(self, graph: Graph) -> Flow:
        """Declare the inputs of a graph.

        Parameters
        ----------
        graph : Graph

        Returns
        -------
        Flow
        """
        for block in self.blocks:
            graph.add_input(block)
        return Flow(graph, self.blocks, self.dtype)

    def feed(self, X: Any) -> dict[str, NDArray]:
        """Read rows as values of the inputs, as onnxruntime takes them.

        Parameters
        ----------
        X : array-like or data frame

        Returns
        -------
        dict of str to ndarray
        """
        if not self.by_name:
            (block,) = self.blocks
            return {block.name: _values(X, block)}
        return {
            block.name: _values(X[block.name], block)[:, None]
            for block in self.blocks
            if is_readable(block.dtype)
        }


def _readable(name: str, column: Any) -> np.dtype | None:
    try:
        return dtype_of(column)
    except ValueError as error:
        what = "X" if name == "X" else f"the column {shown(name)} of X"
        raise ValueError(f"{what} {error}.") from None


def _values(column: Any, block: Block) -> NDArray:
    values = np.asarray(column)
    if block.dtype == TEXT:
        return values.astype(object)
    if values.dtype == object:
        flat = [np.nan if is_missing(value) else value for value in values.ravel()]
        values = np.reshape(flat, values.shape)
    return values.astype(block.dtype or _DOUBLE)
