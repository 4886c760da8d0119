"""The processes that train a net: one alone, or several with their own rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import Tensor, nn

from sklpos.training import collectives
from sklpos.training.gradients import JointGradients
from sklpos.training.rows import Batch, RowDataset, spread_out
from sklpos.training.shared_rows import SharedRows


class Alone:
    """A single process, which has all rows.

    Examples
    --------
    >>> Alone().gather("own")
    ['own']
    """

    #: Whether other processes may wait for this one.
    grouped = False
    #: Number of this process, and how many there are.
    rank = 0
    size = 1

    @property
    def validation(self) -> Alone:
        """The same processes, with their validation rows."""
        return self

    @property
    def is_first(self) -> bool:
        """Whether this process has rank 0."""
        return self.rank == 0

    def from_first(self, own: object) -> Any:
        """Take over an object of the first process.

        Parameters
        ----------
        own : object
            Of this process; only that of the first is used.

        Returns
        -------
        object
        """
        return own

    def to_first(self, own: object) -> list | None:
        """Collect the objects of all processes in the first one.

        Parameters
        ----------
        own : object

        Returns
        -------
        list or None
            By rank; None in all processes but the first.
        """
        return [own]

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

    def average_gradients(self, *modules: nn.Module, fresh: bool = False) -> None:
        """Average the gradients of all weights over the processes, in place.

        Parameters
        ----------
        *modules : nn.Module
        fresh : bool, default=False
            Leave the gradients of the last step as they are; otherwise, the new ones
            may be in the same memory.
        """

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values of the first one, in place.

        Parameters
        ----------
        tensors : iterable of torch.Tensor
        """

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

    Every process draws the same batches, computes on its own rows of them, and takes
    the mean of all gradients. It holds the multipliers and slack of its own rows.

    Attributes
    ----------
    first : int
        Number of the first row of this process.
    n_samples : int
        Number of rows of all processes.
    gain : float
        Mean sample weight of its rows, in units of the mean of all, times the number
        of processes.
    validation : Processes or None
        The same processes, with their validation rows, if there are any.

    Examples
    --------
    >>> Processes.from_totals([(3, 3.0), (1, 5.0)], rank=1)
    Processes(first=3, n_samples=4, gain=5.0, validation=None)
    """

    first: int
    n_samples: int
    gain: float
    validation: Processes | None = None

    grouped = True

    @cached_property
    def _gradients(self) -> JointGradients:
        return JointGradients()

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
        # A process may have no validation rows.
        own_mean = weights[rank] / max(sizes[rank], 1)
        mean = sum(weights) / sum(sizes)
        return cls(sum(sizes[:rank]), sum(sizes), len(totals) * own_mean / mean)

    @property
    def rank(self) -> int:
        """Number of this process."""
        return dist.get_rank()

    @property
    def size(self) -> int:
        """Number of processes."""
        return dist.get_world_size()

    def gather(self, own: object) -> list:
        """Share an object, and collect those of all processes, by rank."""
        return collectives.gather(own)

    def from_first(self, own: object) -> Any:
        """Take over an object of the first process."""
        return collectives.from_first(own)

    def to_first(self, own: object) -> list | None:
        """Collect the objects of all processes in the first one."""
        return collectives.to_first(own)

    def mean(self, own: Tensor) -> Tensor:
        """Mean of a tensor over the processes."""
        return collectives.mean(own)

    def average_gradients(self, *modules: nn.Module, fresh: bool = False) -> None:
        """Average the gradients of all weights over the processes, in place.

        The weights are joined in the order of the modules in every step. torch's
        ``DistributedDataParallel`` has another order in the first step, so that sums
        over three processes or more would be rounded in another way in a training that
        resumes.
        """
        weights = [w for part in modules for w in part.parameters() if w.requires_grad]
        self._gradients.average(weights, collectives.average, fresh=fresh)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values of the first one, in place."""
        for tensor in tensors:
            collectives.share(tensor.detach())

    def all_rows(self, rows: RowDataset) -> SharedRows:
        """View the rows of all processes; an index finds only those of this one."""
        return SharedRows(rows, self.first, self.n_samples, self.gain)

    def some_rows(self, rows: RowDataset, number: int) -> list[np.ndarray]:
        """Take rows that are spread over the rows of all processes."""
        index = spread_out(self.n_samples, number) - self.first
        X, y, weight = _as_arrays(rows[index[(index >= 0) & (index < len(rows))]])
        # Each process scaled its weights to mean 1; `gain` restores their ratios.
        parts = zip(*self.gather([X, y, weight * self.gain]), strict=True)
        return [np.concatenate(part) for part in parts]


def _as_arrays(batch: Batch) -> list[np.ndarray]:
    return [part.cpu().numpy() for part in (*batch, batch.weight.ravel())]
