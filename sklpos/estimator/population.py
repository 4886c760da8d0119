"""The rows of all processes that fit one model, and the part of each process."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch.distributed as dist
from sklearn.model_selection import train_test_split

from sklpos.estimator.checks import TrainingData
from sklpos.training.collectives import gather
from sklpos.training.rows import RowDataset, TrainingRows
from sklpos.training.world import Processes


@dataclass(frozen=True, eq=False)
class Population:
    """Targets and weights of the rows of all processes that fit one model.

    Attributes
    ----------
    y : ndarray of shape (n_samples, n_outputs)
        Unit of y.
    weight : ndarray of shape (n_samples,)
    sizes : tuple of int
        Number of rows of each process.
    rank : int, default=0
        Number of this process.

    Examples
    --------
    >>> everyone = Population(np.zeros((5, 1)), np.ones(5), sizes=(2, 3), rank=1)
    >>> everyone.own(np.array([0, 2, 4]))
    array([0, 2])
    """

    y: np.ndarray
    weight: np.ndarray
    sizes: tuple[int, ...]
    rank: int = 0

    @classmethod
    def of(cls, data: TrainingData) -> Population:
        """The rows of a single process.

        Parameters
        ----------
        data : TrainingData

        Returns
        -------
        Population
        """
        return cls(data.y, data.weight, (len(data.y),))

    def own(self, numbers: np.ndarray) -> np.ndarray:
        """Find the rows of this process, in its own numbers.

        Parameters
        ----------
        numbers : ndarray of int
            Of rows of all processes.

        Returns
        -------
        ndarray of int
        """
        own = numbers - sum(self.sizes[: self.rank])
        return own[(own >= 0) & (own < self.sizes[self.rank])]

    def hold_out(self, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows to train on and rows to validate on from those of all processes.

        Parameters
        ----------
        share : float
            Of the rows to validate on.
        seed : int

        Returns
        -------
        train, valid : ndarray of int
            Rows of this process.

        Raises
        ------
        ValueError
            If a process has no row left to train on; the same in all processes.
        """
        n_rows = len(self.y)
        if n_rows < 2:
            raise ValueError("early_stopping=True needs at least 2 samples.")
        n_valid = max(1, int(share * n_rows))
        # numpy's RandomState takes 32 bits.
        train, valid = train_test_split(
            np.arange(n_rows), test_size=n_valid, random_state=seed % 2**32
        )
        train.sort()
        for rank in range(len(self.sizes)):
            if not len(replace(self, rank=rank).own(train)):
                raise ValueError(
                    f"early_stopping=True holds out all {self.sizes[rank]} rows of "
                    f"process {rank}; give it more rows, or lower validation_fraction."
                )
        return self.own(train), self.own(valid)


def world_of(rows: TrainingRows, data: TrainingData) -> Processes:
    """Find the place of the rows of this process among those of all processes.

    Parameters
    ----------
    rows : TrainingRows
        Of this process.
    data : TrainingData
        What they were made from.

    Returns
    -------
    Processes
        For the rows to train on; its ``validation`` is that of the others.
    """
    own = _total(rows.train, data), _total(rows.valid, data.valid or data)
    train, valid = map(list, zip(*gather(own), strict=True))
    rank = dist.get_rank()
    world = Processes.from_totals(train, rank)
    if rows.valid is None:
        return world
    return replace(world, validation=Processes.from_totals(valid, rank))


def _total(rows: RowDataset | None, data: TrainingData) -> tuple[int, float]:
    """Number of rows and sum of their weights, in the unit of the user."""
    return (0, 0.0) if rows is None else (len(rows), data.unit * rows.weight_sum)
