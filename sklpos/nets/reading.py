"""Items of a data set, read part by part, and joined."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from sklpos.nets.tensors import without_torch


def read_items(dataset: Any, numbers: Sequence[int]) -> list:
    """Read items, all of them in one call where a data set offers that.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        Map-style.
    numbers : sequence of int

    Returns
    -------
    list
    """
    # torch's own loaders look for this method.
    at_once = getattr(dataset, "__getitems__", None)
    if callable(at_once):
        return list(at_once(list(numbers)))
    return [dataset[number] for number in numbers]


def in_parts(
    fetch: Callable[[list[int]], Any], numbers: NDArray, size: int, fetching: dict
) -> Iterator[Any]:
    """Fetch items part by part, in the order of their numbers.

    Parameters
    ----------
    fetch : callable
        Takes the numbers of a part.
    numbers : ndarray of int of shape (n_items,)
    size : int
        Items of a part.
    fetching : dict
        Parameters of torch's ``DataLoader`` that say how workers fetch.

    Yields
    ------
    object
        What `fetch` returns.
    """
    parts = [
        numbers[start : start + size].tolist() for start in range(0, len(numbers), size)
    ]
    if not fetching.get("num_workers", 0):
        yield from map(fetch, parts)
        return
    yield from DataLoader(
        _Parts(fetch),
        batch_size=None,
        sampler=parts,
        collate_fn=_unchanged,
        # Without one, torch would draw a seed from its global generator.
        generator=torch.Generator().manual_seed(0),
        **fetching,
    )


@dataclass(eq=False)
class _Parts(Dataset):
    fetch: Callable[[list[int]], Any]

    def __getitem__(self, numbers: list[int]) -> Any:
        return self.fetch(numbers)


def _unchanged(part: Any) -> Any:
    return part


def first_of(item: Any) -> Any:
    """Inputs of an item, which may be a tuple that begins with them."""
    return item[0] if isinstance(item, tuple | list) else item


def rows_of(inputs: list) -> NDArray:
    """Join the inputs of items.

    Parameters
    ----------
    inputs : list of array-like or tensor, of one shape

    Returns
    -------
    ndarray of shape (n_items, ...)
        float64, or float32 where the inputs are in that dtype or a shorter one.

    Raises
    ------
    ValueError
        If their shapes differ, or they are no numbers.
    """
    try:
        rows = np.stack([np.asarray(without_torch(x)) for x in inputs])
    except ValueError as error:
        raise ValueError(
            "the items of the data set hold inputs of different shapes; all must have "
            "one, for example by padding them in __getitem__."
        ) from error
    if rows.dtype == np.float16:
        return rows.astype(np.float32)
    if rows.dtype.kind not in "fiub":
        raise ValueError(
            f"the items of the data set hold inputs of dtype {rows.dtype}; they must "
            "be numbers."
        )
    return rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)


def marks_of(rows: NDArray) -> NDArray:
    """Checksum of each row.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, ...)

    Returns
    -------
    ndarray of int of shape (n_rows,)
    """
    return np.array([zlib.crc32(row) for row in np.ascontiguousarray(rows)], np.uint32)
