"""Rows with their number and weight, read in whole batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from skorch.dataset import Dataset
from torch import Tensor

from sklpos.training.randomness import make_generator

# Values of X that are copied at once: little memory, and they stay in the cache.
_VALUES_PER_GATHER = 2**18


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

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device) -> Batch:
        """Move all parts to a device."""
        return Batch(*(part.to(device) for part in self._parts()))

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
    X : torch.Tensor of shape (n_samples, n_features)
    y : torch.Tensor of shape (n_samples, n_outputs)
        In scaled units.
    weight : torch.Tensor of shape (n_samples,)
        On any positive scale; stored with mean 1.
    factor : torch.Tensor of shape (n_samples, n_outputs), optional
        Factor of each loss; the constraint knows the weight alone.

    Examples
    --------
    >>> import torch
    >>> weight = torch.tensor([1.0, 1.0, 4.0])
    >>> rows = RowDataset(torch.zeros(3, 2), torch.ones(3, 1), weight)
    >>> rows[[0, 2]].weight.ravel().tolist()
    [0.5, 2.0]
    """

    def __init__(
        self, X: Tensor, y: Tensor, weight: Tensor, factor: Tensor | None = None
    ):
        super().__init__(X, y)
        self.weight = (weight / weight.mean())[:, None].to(y.dtype)
        self.factor = factor

    def __getitem__(self, index) -> Batch:
        index = torch.as_tensor(index)
        factor = None if self.factor is None else self.factor[index]
        return Batch(self.X[index], self.y[index], index, self.weight[index], factor)


class BatchLoader:
    """Whole batches of a `RowDataset`, shuffled anew each epoch without stored state.

    The order of an epoch is a function of (seed, epoch), so training that is
    interrupted and resumed sees the same batches as training without interruption.

    Parameters
    ----------
    dataset : RowDataset
    batch_size : int
    shuffle : bool, default=False
    drop_last : bool, default=False
        Leave out a last batch that is not full.
    seed : int, default=0
    first_epoch : int, default=0
        Number of the epoch of the first pass.
    device : str or torch.device, optional
        Device of the batches; by default they stay with the data set.

    Examples
    --------
    >>> import torch
    >>> rows = RowDataset(torch.zeros(5, 2), torch.ones(5, 1), torch.ones(5))
    >>> [len(batch.index) for batch in BatchLoader(rows, batch_size=2)]
    [2, 2, 1]
    """

    def __init__(
        self,
        dataset,
        batch_size,
        shuffle=False,
        drop_last=False,
        seed=0,
        first_epoch=0,
        device=None,
    ):
        if drop_last and batch_size > len(dataset):
            raise ValueError(
                f"drop_last=True leaves no batch of {len(dataset)} rows; lower "
                f"batch_size={batch_size}."
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.epoch = first_epoch
        self.device = device

    def __len__(self) -> int:
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + bool(rest and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        order = self._order()
        self.epoch += 1
        order = order[: len(self) * self.batch_size]
        # Another data set, such as `SharedRows`, may return fewer rows than asked for,
        # which cannot be cut into batches afterwards.
        if not isinstance(self.dataset, RowDataset):
            for index in order.split(self.batch_size):
                yield self.dataset[index].to(self.device)
            return
        for index in order.split(self._rows_at_once()):
            rows = self.dataset[index].to(self.device)
            yield from rows.split(self.batch_size)

    def _rows_at_once(self) -> int:
        # Several batches are gathered at once, since a call costs as much as many rows.
        width = max(self.dataset.X[:1].numel(), 1)
        return self.batch_size * max(_VALUES_PER_GATHER // (width * self.batch_size), 1)

    def _order(self) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.dataset))
        generator = make_generator(self.seed, 0, self.epoch)
        return torch.randperm(len(self.dataset), generator=generator)


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
    """

    train: RowDataset
    valid: RowDataset | None
    index: np.ndarray

    @property
    def X(self) -> torch.Tensor:
        """Inputs of all rows, including those held out."""
        if self.valid is None:
            return self.train.X
        return torch.cat([self.train.X, self.valid.X])
