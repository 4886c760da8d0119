"""The rows of several processes, of which each one has its own."""

from __future__ import annotations

from dataclasses import replace

import torch
from skorch.dataset import Dataset
from torch import Tensor

from sklpos.nets.placement import sent
from sklpos.training.rows import Batch, RowDataset


class SharedRows(Dataset):
    """The rows of all processes; an index finds only those of this one.

    The weights are such that the weighted mean over the rows found, averaged over the
    processes, is the weighted mean over the rows asked for, however many each has.

    Parameters
    ----------
    rows : RowDataset
        Those of this process.
    first : int
        Number of its first row.
    n_samples : int
        Number of rows of all processes.
    gain : float
        Factor of the weights of its rows.

    Examples
    --------
    >>> rows = RowDataset(torch.zeros(3, 2), torch.ones(3, 1), torch.ones(3))
    >>> everyone = SharedRows(rows, first=2, n_samples=6, gain=2.0)
    >>> everyone[torch.tensor([5, 0, 1, 3])].index.tolist()
    [1]
    """

    def __init__(self, rows: RowDataset, first: int, n_samples: int, gain: float):
        super().__init__(rows.X, rows.y, length=n_samples)
        self.rows = rows
        self.weight = rows.weight
        self.first = first
        self.gain = gain

    @property
    def in_memory(self) -> bool:
        """Whether many rows are gathered at once."""
        return type(self.rows) is RowDataset and self.rows.in_memory

    @property
    def index_device(self) -> torch.device:
        """Where `gather` wants the row numbers: it counts them on the CPU."""
        return torch.device("cpu")

    def __getitem__(self, index: Tensor) -> Batch:
        own = index - self.first
        own = own[(own >= 0) & (own < len(self.rows))]
        batch = self.rows[own]
        gain = self.gain * len(own) / len(index)
        return replace(batch, weight=batch.weight * gain)

    def gather(self, index: Tensor, size: int) -> tuple[Batch, list[int]]:
        """Take those rows of several batches that this process has.

        Parameters
        ----------
        index : torch.Tensor of shape (n_rows,)
        size : int
            Rows of each batch in `index`; the last one may be smaller.

        Returns
        -------
        rows : Batch
        sizes : list of int
            Number of rows found of each batch.
        """
        own = index - self.first
        found = ((own >= 0) & (own < len(self.rows))).nonzero().ravel()
        own = sent(own.index_select(0, found), self.rows.index_device)
        rows, _ = self.rows.gather(own, size)
        # Ends of the batches in what was asked for, and in what was found, in order.
        asked = torch.arange(size, len(index) + size, size).clamp(max=len(index))
        ends = torch.searchsorted(found, asked)
        n_found = ends.diff(prepend=ends[:1] * 0)
        gain = self.gain * n_found.double() / asked.diff(prepend=asked[:1] * 0)
        gain = gain.to(rows.weight.dtype).repeat_interleave(n_found)[:, None]
        weight = rows.weight * sent(gain, rows.weight.device)
        return replace(rows, weight=weight), n_found.tolist()
