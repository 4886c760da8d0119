"""Rows with their number and weight."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from skorch.dataset import Dataset
from torch import Tensor

from sklpos.nets.any_rows import TensorRows, joined_rows
from sklpos.nets.items import ItemTensor


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
        return len(self.index)

    def to(self, device) -> Batch:
        """Move all parts to a device."""
        return Batch(*(part.to(device) for part in self._parts()))

    def pin_memory(self) -> Batch:
        """Copy all parts to memory from which a GPU reads faster."""
        return Batch(*(part.pin_memory() for part in self._parts()))

    def split(self, size: int) -> Iterator[Batch]:
        """Go through parts of `size` rows, the last of which may be smaller."""
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
    factor : torch.Tensor of shape (n_samples, n_outputs), optional
        Factor of each loss; the constraint knows the weight alone.

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
    ):
        super().__init__(X, y)
        self.weight_sum = float(weight.sum())
        self.weight = (weight / weight.mean())[:, None].to(y.dtype)
        self.factor = factor

    @property
    def in_memory(self) -> bool:
        """Whether X is a tensor, of which many rows are gathered at once."""
        return isinstance(self.X, Tensor)

    def __getitem__(self, index) -> Batch:
        index = torch.as_tensor(index)
        factor = None if self.factor is None else self.factor[index]
        return Batch(self.X[index], self.y[index], index, self.weight[index], factor)


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
    index : ndarray of shape (n_train,)
        Sample number of each training row.
    own_valid : bool
        Whether the validation rows are no part of the samples.
    """

    train: RowDataset
    valid: RowDataset | None
    index: np.ndarray
    own_valid: bool = False

    @property
    def X(self) -> TensorRows:
        """Inputs of all samples, including those held out."""
        # Items are not joined: what looks at whole domains refuses them.
        by_item = isinstance(self.train.X, ItemTensor)
        if self.valid is None or self.own_valid or by_item:
            return self.train.X
        return joined_rows([self.train.X, self.valid.X])
