"""The processes that train a net: one alone, or several with their own rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch.distributed as dist
from skorch.dataset import Dataset
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sklpos.training.rows import Batch, RowDataset, spread_out


class Alone:
    """A single process, which has all rows.

    Examples
    --------
    >>> Alone().gather("own")
    ['own']
    """

    def gather(self, own: object) -> list:
        """Share an object, and collect those of all processes, by rank.

        Parameters
        ----------
        own : object

        Returns
        -------
        list
        """
        return [own]

    def mean(self, own: Tensor) -> Tensor:
        """Mean of a tensor over the processes.

        Parameters
        ----------
        own : torch.Tensor

        Returns
        -------
        torch.Tensor
        """
        return own

    def replicate(self, module: nn.Module) -> nn.Module | None:
        """Wrap a module so that its gradients are averaged; None for one process.

        Parameters
        ----------
        module : nn.Module

        Returns
        -------
        nn.Module or None
        """
        return None

    def all_rows(self, rows: RowDataset) -> RowDataset | SharedRows:
        """View the rows of all processes; an index finds only those of this one.

        Parameters
        ----------
        rows : RowDataset
            The rows of this process.

        Returns
        -------
        RowDataset or SharedRows
        """
        return rows

    def some_rows(self, rows: RowDataset, number: int) -> list[np.ndarray]:
        """Take rows that are spread over the whole training set.

        Parameters
        ----------
        rows : RowDataset
            The rows of this process.
        number : int
            Largest number of rows to take.

        Returns
        -------
        list of ndarray
            X, y and weight, of shapes (n_rows, n_features), (n_rows, n_outputs) and
            (n_rows,).
        """
        return _as_arrays(rows[spread_out(len(rows), number)])


@dataclass(frozen=True)
class Processes(Alone):
    """The processes of torch's default group, with their rows in the order of ranks.

    Every process draws the same batches and computes on its own rows of them; torch's
    ``DistributedDataParallel`` averages the gradients. A process holds the multipliers
    and slack of its own rows.

    Attributes
    ----------
    first : int
        Number of the first row of this process.
    n_samples : int
        Number of rows of all processes.
    gain : float
        Mean sample weight of its rows, in units of the mean of all, times the number
        of processes.

    Examples
    --------
    >>> Processes.from_totals([(3, 3.0), (1, 5.0)], rank=1)
    Processes(first=3, n_samples=4, gain=5.0)
    """

    first: int
    n_samples: int
    gain: float

    @classmethod
    def from_totals(cls, totals: list[tuple[int, float]], rank: int) -> Processes:
        """Find the place of a process.

        Parameters
        ----------
        totals : list of (int, float)
            Number of rows and sum of their weights, for each process.
        rank : int
        """
        sizes, weights = zip(*totals, strict=True)
        own_mean = weights[rank] / sizes[rank]
        mean = sum(weights) / sum(sizes)
        return cls(sum(sizes[:rank]), sum(sizes), len(totals) * own_mean / mean)

    def gather(self, own: object) -> list:
        """Share an object, and collect those of all processes, by rank."""
        return gather(own)

    def mean(self, own: Tensor) -> Tensor:
        """Mean of a tensor over the processes."""
        # `all_reduce` works in place.
        total = own.clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    def replicate(self, module: nn.Module) -> nn.Module:
        """Wrap a module so that its gradients are averaged."""
        return DistributedDataParallel(module)

    def all_rows(self, rows: RowDataset) -> SharedRows:
        """View the rows of all processes; an index finds only those of this one."""
        return SharedRows(rows, self)

    def some_rows(self, rows: RowDataset, number: int) -> list[np.ndarray]:
        """Take rows that are spread over the rows of all processes."""
        index = spread_out(self.n_samples, number) - self.first
        X, y, weight = _as_arrays(rows[index[(index >= 0) & (index < len(rows))]])
        # Each process scaled its weights to mean 1; `gain` restores their ratios.
        parts = zip(*self.gather([X, y, weight * self.gain]), strict=True)
        return [np.concatenate(part) for part in parts]


def gather(own: object) -> list:
    """Share an object, and collect those of all processes, by rank.

    Parameters
    ----------
    own : object
        It is sent as a pickle.

    Returns
    -------
    list
    """
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return everyone


class SharedRows(Dataset):
    """The rows of all processes; an index finds only those of this one.

    The weights are such that the weighted mean over the rows found, averaged over the
    processes, is the weighted mean over the rows asked for, however many each has.

    Parameters
    ----------
    rows : RowDataset
    world : Processes

    Examples
    --------
    >>> import torch
    >>> rows = RowDataset(torch.zeros(3, 2), torch.ones(3, 1), torch.ones(3))
    >>> everyone = SharedRows(rows, Processes(first=2, n_samples=6, gain=2.0))
    >>> everyone[torch.tensor([5, 0, 1, 3])].index.tolist()
    [1]
    """

    def __init__(self, rows: RowDataset, world: Processes):
        super().__init__(rows.X, rows.y, length=world.n_samples)
        self.rows = rows
        self.world = world

    def __getitem__(self, index: Tensor) -> Batch:
        own = index - self.world.first
        own = own[(own >= 0) & (own < len(self.rows))]
        batch = self.rows[own]
        gain = self.world.gain * len(own) / len(index)
        return replace(batch, weight=batch.weight * gain)


def _as_arrays(batch: Batch) -> list[np.ndarray]:
    return [part.numpy(force=True) for part in (*batch, batch.weight.ravel())]
