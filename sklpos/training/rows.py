"""Rows with their number and weight."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Self

import numpy as np
import torch
from skorch.dataset import Dataset
from torch import Tensor

from sklpos.nets.any_rows import TensorRows, joined_rows
from sklpos.nets.items import ItemTensor
from sklpos.nets.placement import has_room, sent


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows with their numbers and weights; unpacks into X and y, as skorch expects.

    Attributes
    ----------
    X : torch.Tensor of shape (batch, n_features)
    y : torch.Tensor of shape (batch, n_outputs)
        In scaled units.
    index : torch.Tensor of shape (batch,)
        Row numbers in the data set.
    weight : torch.Tensor of shape (batch, 1)
        Sample weights, of mean 1 over the data set.
    factor : torch.Tensor of shape (batch, n_outputs) or None
        Factor of each loss, in addition to the weight; None for 1.
    """

    X: Tensor
    y: Tensor
    index: Tensor
    weight: Tensor
    factor: Tensor | None = None

    @property
    def loss_weight(self) -> Tensor:
        """Weight of each loss, of shape (batch, 1) or (batch, n_outputs)."""
        return self.weight if self.factor is None else self.weight * self.factor

    def __iter__(self) -> Iterator[Tensor]:
        yield self.X
        yield self.y

    def __getitem__(self, part: int) -> Tensor:
        return (self.X, self.y)[part]

    def __len__(self) -> int:
        # Asked for several times per step; `len` of a tensor takes longer.
        return self.index.shape[0]

    def to(self, device) -> Batch:
        """Move all parts to a device."""
        return Batch(*(part.to(device) for part in self._parts()))

    def copy(self) -> Batch:
        """Copy all parts."""
        return Batch(*(part.clone() for part in self._parts()))

    def fill(self, other: Batch) -> None:
        """Take over the numbers of a batch of the same size, in place.

        Parameters
        ----------
        other : Batch
        """
        torch._foreach_copy_(list(self._parts()), list(other._parts()))

    def pin_memory(self) -> Batch:
        """Copy all parts to memory from which a GPU reads faster."""
        return Batch(*(part.pin_memory() for part in self._parts()))

    def split(self, size: int | list[int]) -> Iterator[Batch]:
        """Go through parts of one size, or of several; the last may be smaller."""
        for parts in zip(*(part.split(size) for part in self._parts()), strict=True):
            yield Batch(*parts)

    def _parts(self) -> tuple[Tensor, ...]:
        parts = self.X, self.y, self.index, self.weight
        return parts if self.factor is None else (*parts, self.factor)


class RowDataset(Dataset):
    """Inputs, targets and weights, indexed by row.

    Parameters
    ----------
    X : torch.Tensor, SparseTensor or ItemTensor of shape (n_samples, ...)
        Sparse rows become dense, and items are read, batch by batch.
    y : torch.Tensor of shape (n_samples, n_outputs)
        In scaled units.
    weight : torch.Tensor of shape (n_samples,)
        On any positive scale; stored with mean 1.
    factor : torch.Tensor of shape (n_folds, n_outputs), optional
        Factor of each loss of the rows of a fold; the constraint knows the weight
        alone.
    fold : torch.Tensor of int of shape (n_samples,), optional
        The fold of each row, if there is a factor.

    Attributes
    ----------
    weight_sum : float
        Sum of the weights, before they were scaled.

    Examples
    --------
    >>> import torch
    >>> weight = torch.tensor([1.0, 1.0, 4.0])
    >>> rows = RowDataset(torch.zeros(3, 2), torch.ones(3, 1), weight)
    >>> rows[[0, 2]].weight.ravel().tolist()
    [0.5, 2.0]
    """

    def __init__(
        self,
        X: TensorRows,
        y: Tensor,
        weight: Tensor,
        factor: Tensor | None = None,
        fold: Tensor | None = None,
    ):
        if isinstance(X, Tensor):
            # A callback that scores rows hands over X alone, which may be elsewhere.
            y, weight = y.to(X.device), weight.to(X.device)
        super().__init__(X, y)
        self.weight_sum = float(weight.sum())
        self.weight = _of_mean_one(weight, y.dtype)[:, None]
        self.factor = factor
        self.fold = fold

    @property
    def in_memory(self) -> bool:
        """Whether X is a tensor, of which many rows are gathered at once."""
        return isinstance(self.X, Tensor)

    @property
    def index_device(self) -> torch.device:
        """Where `gather` wants the row numbers."""
        return self.y.device

    def to(self, device: str | torch.device) -> Self:
        """Copy the rows to a device, which saves a transfer of each batch.

        Parameters
        ----------
        device : str or torch.device

        Returns
        -------
        RowDataset
            Itself if it is there already, if it is not in memory, or if the device has
            no room for it.
        """
        names = [
            name for name in ("X", "y", "weight", "factor", "fold") if self._has(name)
        ]
        parts = [getattr(self, name) for name in names]
        known = self.in_memory and parts[0].device != torch.device(device)
        if not known or not has_room(device, sum(part.nbytes for part in parts)):
            return self
        moved = copy.copy(self)
        for name, part in zip(names, parts, strict=True):
            setattr(moved, name, part.to(device))
        return moved

    def with_own_weights(self) -> Self:
        """Give each row a weight of its own, even if all are equal.

        Returns
        -------
        RowDataset
        """
        # A callback that changes one of them would change all where they are one.
        own = copy.copy(self)
        own.weight = self.weight.contiguous()
        return own

    def _has(self, name: str) -> bool:
        return getattr(self, name) is not None

    def __getitem__(self, index) -> Batch:
        # Numbers on the CPU would make an accelerator wait for them.
        index = sent(torch.as_tensor(index), self.y.device)
        parts = self.X[index], self.y[index], index, self.weight[index]
        return Batch(*parts, self._factor(index))

    def _factor(self, index: Tensor) -> Tensor | None:
        return None if self.fold is None else self.factor[self.fold[index].long()]

    def gather(self, index: Tensor, size: int) -> tuple[Batch, int]:
        """Take the rows of several batches; X must be in memory.

        Parameters
        ----------
        index : torch.Tensor of shape (n_rows,)
        size : int
            Rows of each batch; the last one may be smaller.

        Returns
        -------
        rows : Batch
        size : int
            By which `Batch.split` cuts them into batches.
        """
        # Two to four times as fast as indexing.
        parts = (part.index_select(0, index) for part in (self.X, self.y, self.weight))
        X, y, weight = parts
        return Batch(X, y, index, weight, self._factor(index)), size


def _of_mean_one(weight: Tensor, dtype: torch.dtype) -> Tensor:
    # Equal weights stay a single number.
    if len(weight) and bool((weight == weight[0]).all()):
        return torch.ones(1, dtype=dtype, device=weight.device).expand(len(weight))
    return (weight / weight.mean()).to(dtype)


def spread_out(n_rows: int, number: int) -> Tensor:
    """Choose row numbers at equal distances.

    Parameters
    ----------
    n_rows : int
    number : int
        Largest number of rows to choose.

    Returns
    -------
    torch.Tensor of shape (n_chosen,)

    Examples
    --------
    >>> spread_out(10, 4).tolist()
    [0, 3, 6, 9]
    """
    return torch.arange(0, n_rows, math.ceil(n_rows / number))


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """The data as the net sees it.

    Attributes
    ----------
    train : RowDataset
    valid : RowDataset or None
    index : ndarray of shape (n_train,) or Ellipsis
        Index that finds the training rows among the samples.
    own_valid : bool
        Whether the validation rows are no part of the samples.
    """

    train: RowDataset
    valid: RowDataset | None
    index: np.ndarray | EllipsisType
    own_valid: bool = False

    def to(self, device: str | torch.device) -> TrainingRows:
        """Copy the rows to a device if they are in memory and it has room for them.

        Parameters
        ----------
        device : str or torch.device

        Returns
        -------
        TrainingRows
        """
        valid = None if self.valid is None else self.valid.to(device)
        return replace(self, train=self.train.to(device), valid=valid)

    def with_own_weights(self) -> TrainingRows:
        """See `RowDataset.with_own_weights`."""
        valid = None if self.valid is None else self.valid.with_own_weights()
        return replace(self, train=self.train.with_own_weights(), valid=valid)

    @property
    def X(self) -> TensorRows:
        """Inputs of all samples, including those held out."""
        # Items are not joined: what looks at whole domains refuses them.
        by_item = isinstance(self.train.X, ItemTensor)
        if self.valid is None or self.own_valid or by_item:
            return self.train.X
        return joined_rows([self.train.X, self.valid.X])
