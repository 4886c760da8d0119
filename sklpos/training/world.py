"""Which rows a process has, and what the processes tell each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from skorch.dataset import Dataset
from torch import Tensor

from sklpos.training.rows import Batch, BatchLoader, RowDataset


def gather(own) -> list:
    """Return what all processes pass in, in the order of their ranks.

    Parameters
    ----------
    own : object
        Is pickled.

    Returns
    -------
    list
    """
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return everyone


def mean_of_processes(own: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes."""
    total = own.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


@dataclass(frozen=True)
class Share:
    """The rows of this process among those of all, which follow each other by rank.

    Attributes
    ----------
    first : int
        Number of its first row.
    n_samples : int
        Number of rows of all processes.
    gain : float
        Mean sample weight of its rows, in units of the mean of all, times the number
        of processes.

    Examples
    --------
    >>> Share.from_totals([(3, 3.0), (1, 5.0)], rank=1)
    Share(first=3, n_samples=4, gain=5.0)
    """

    first: int
    n_samples: int
    gain: float

    @classmethod
    def from_totals(cls, totals: list[tuple[int, float]], rank: int) -> Share:
        """Find one's place.

        Parameters
        ----------
        totals : list of (int, float)
            Number of rows and sum of their weights, of each process.
        rank : int
        """
        sizes, weights = zip(*totals, strict=True)
        means = weights[rank] / sizes[rank], sum(weights) / sum(sizes)
        gain = len(totals) * means[0] / means[1]
        return cls(sum(sizes[:rank]), sum(sizes), gain)


class SharedRows(Dataset):
    """The rows of all processes, of which an index finds those of this one.

    The weights are such that the weighted mean over the rows found, averaged over the
    processes, is the weighted mean over the rows asked for, whoever has how many.

    Parameters
    ----------
    rows : RowDataset
    share : Share

    Examples
    --------
    >>> import torch
    >>> rows = RowDataset(torch.zeros(3, 2), torch.ones(3, 1), torch.ones(3))
    >>> everyone = SharedRows(rows, Share(first=2, n_samples=6, gain=2.0))
    >>> everyone[torch.tensor([5, 0, 1, 3])].index.tolist()
    [1]
    """

    def __init__(self, rows: RowDataset, share: Share):
        super().__init__(rows.X, rows.y, length=share.n_samples)
        self.rows, self.share = rows, share

    def __getitem__(self, index: Tensor) -> Batch:
        own = index - self.share.first
        own = own[(own >= 0) & (own < len(self.rows))]
        batch = self.rows[own]
        batch.weight = batch.weight * (self.share.gain * len(own) / len(index))
        return batch


class SharedLoader(BatchLoader):
    """Batches of which this process has a part, which may be empty."""

    def _rows_at_once(self) -> int:
        return self.batch_size
