"""What the items of a data set hold, read in one pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skorch.dataset import Dataset as SkorchDataset
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from sklpos.nets.arrays import naming
from sklpos.nets.items import MOST_VALUES, ItemRows
from sklpos.nets.reading import first_of, in_parts, marks_of, read_items, rows_of
from sklpos.nets.tensors import without_torch

# Items that are read at once in the first pass.
_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class ItemData:
    """What the items of a data set hold.

    Attributes
    ----------
    X : ndarray or ItemRows of shape (n_samples, ...)
        In memory unless there are too many values.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs), or None
    weight : ndarray of shape (n_samples,) or None
    """

    X: Any
    y: NDArray | None = None
    weight: NDArray | None = None


def read_dataset(X: Any, fetching: dict[str, Any], *, targets: bool) -> ItemData:
    """Read a data set once; keep its inputs if they are few.

    Parameters
    ----------
    X : Dataset or DataLoader
        Map-style, with items ``(x, y)`` or ``(x, y, weight)``.
    fetching : dict
        Parameters of torch's ``DataLoader`` that say how workers fetch.
    targets : bool
        Whether there must be targets.

    Returns
    -------
    ItemData

    Raises
    ------
    ValueError, TypeError
        One sentence about the data set or its items.
    """
    dataset = X.dataset if isinstance(X, DataLoader) else X
    _check_map_style(dataset)
    held = _held_arrays(dataset)
    if held is not None:
        return _as_data(held, targets)
    return _FirstPass(dataset, fetching, targets).data()


def _check_map_style(dataset: Any) -> None:
    name = type(dataset).__name__
    sized = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, IterableDataset) or not sized:
        raise ValueError(
            f"X is of {name}, whose rows have no numbers; pass a map-style Dataset "
            "with __getitem__ and __len__, or call partial_fit with one chunk of "
            "arrays at a time."
        )
    if not len(dataset):
        raise ValueError(f"X is of {name}, which has no items; pass at least one.")


def _held_arrays(dataset: Any) -> tuple | None:
    """Arrays of a data set that holds its rows in memory, or None."""
    if isinstance(dataset, Subset) and type(dataset) is Subset:
        held = _held_arrays(dataset.dataset)
        if held is None:
            return None
        return tuple(part[list(dataset.indices)] for part in held)
    if type(dataset) is TensorDataset:
        return dataset.tensors
    arrays = (np.ndarray, Tensor)
    if type(dataset) is SkorchDataset and isinstance(dataset.X, arrays):
        parts = (dataset.X, dataset.y)
        return tuple(part for part in parts if isinstance(part, arrays))
    return None


def _as_data(parts: tuple, targets: bool) -> ItemData:
    parts = tuple(without_torch(part) for part in parts)
    if not targets:
        return ItemData(parts[0])
    _check_length(parts)
    return ItemData(*parts)


def _check_length(item: Any) -> None:
    is_tuple = isinstance(item, tuple | list)
    if not is_tuple or len(item) not in (2, 3):
        what = f"{len(item)} parts" if is_tuple else type(item).__name__
        raise ValueError(
            "the items of X must be pairs (x, y) or triples (x, y, weight), but the "
            f"first one is of {what}."
        )


@dataclass(eq=False)
class _FirstPass:
    """The only pass over all items before the training."""

    dataset: Any
    fetching: dict[str, Any]
    targets: bool
    kept: list[NDArray] = field(default_factory=list)
    marks: list[NDArray] = field(default_factory=list)
    beside: list[tuple] = field(default_factory=list)
    ends: NDArray | None = None
    dtype: np.dtype | None = None

    def data(self) -> ItemData:
        numbers = np.arange(len(self.dataset))
        fetch = _Reader(self.dataset, self.targets)
        shape = rows_of([first_of(self.dataset[0])]).shape[1:]
        if not shape:
            raise ValueError(
                "the items of X hold a single number as x; it must have at least one "
                "dimension, of features."
            )
        holds_all = len(numbers) * int(np.prod(shape)) <= MOST_VALUES
        for X, beside in in_parts(fetch, numbers, _CHUNK, self.fetching):
            self._add(X, beside, shape, holds_all)
        parts = [np.concatenate(part) for part in zip(*self.beside, strict=True)]
        if holds_all:
            return ItemData(np.concatenate(self.kept), *parts)
        rows = ItemRows(
            self.dataset,
            numbers,
            self.dtype,
            self.ends,
            np.concatenate(self.marks),
            self.fetching,
        )
        return ItemData(rows, *parts)

    def _add(self, X: NDArray, beside: tuple, shape: tuple, holds_all: bool) -> None:
        if X.shape[1:] != shape:
            raise ValueError(
                f"the items of X hold inputs of the shapes {shape} and {X.shape[1:]}; "
                "all must have one, for example by padding them in __getitem__."
            )
        self.beside.append(beside)
        if holds_all:
            self.kept.append(X)
            return
        low, high = X.min(axis=0), X.max(axis=0)
        # NaN and infinity show in the ends.
        if not np.isfinite([low, high]).all():
            raise ValueError(
                "the items of X hold NaN or infinity; correct or leave out these items."
            )
        if self.ends is None:
            self.dtype = X.dtype
        else:
            low, high = np.minimum(low, self.ends[0]), np.maximum(high, self.ends[1])
        self.ends = np.stack([low, high])
        self.marks.append(marks_of(X))


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads a part of a data set; workers receive it."""

    dataset: Any
    targets: bool

    def __call__(self, numbers: list[int]) -> tuple[NDArray, tuple[NDArray, ...]]:
        items = read_items(self.dataset, numbers)
        if not self.targets:
            return rows_of([first_of(item) for item in items]), ()
        _check_length(items[0])
        X, *beside = zip(*items, strict=True)
        names = ("y", "weight")
        return rows_of(list(X)), tuple(map(_targets_of, beside, names))


def _targets_of(values: tuple, name: str) -> NDArray:
    with naming(f"the items of X, {name}"):
        return np.stack([np.asarray(without_torch(v), np.float64) for v in values])
