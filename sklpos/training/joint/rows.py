"""The rows of several nets, each in its own order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sklpos.training.randomness import order_of_rows
from sklpos.training.rows import RowDataset


class JointRows:
    """Rows of nets, side by side; batches are those that each net would have alone.

    A batch is as wide as the widest of the nets. Narrower ones are filled up with one
    of their own rows, whose loss has the weight 0.

    Parameters
    ----------
    rows : sequence of RowDataset
        In memory, the longest first.
    batch_size : int
    seeds : sequence of int
        Decide the order of the rows of each net.
    """

    def __init__(
        self, rows: Sequence[RowDataset], batch_size: int, seeds: Sequence[int]
    ):
        self.sizes = [len(own) for own in rows]
        self.batch_size = batch_size
        self.seeds = seeds
        self.n_batches = [math.ceil(size / batch_size) for size in self.sizes]
        # Nets that train on the same rows share them.
        distinct = {id(own.X): own.X for own in rows}
        starts = _starts([len(X) for X in distinct.values()])
        place = dict(zip(distinct, starts, strict=True))
        self.X = torch.cat(list(distinct.values()))
        self.X_start = torch.tensor([[place[id(own.X)]] for own in rows])
        self.y = torch.cat([own.y for own in rows])
        self.weight = torch.cat([own.weight for own in rows])
        self.start = torch.tensor(_starts(self.sizes))[:, None]
        self.filled = self._filled()

    def _filled(self) -> Tensor:
        """Whether a place is that of a row of the net, (n_nets, width)."""
        width = torch.arange(self.sizes[0])
        return width < torch.tensor(self.sizes)[:, None]

    def shares(self, n_outputs: int) -> Tensor:
        """Part of each place in the mean over its batch and the outputs.

        Parameters
        ----------
        n_outputs : int

        Returns
        -------
        torch.Tensor of shape (n_nets, width)
        """
        size = self.batch_size
        batch = torch.arange(self.sizes[0]) // size
        left = torch.tensor(self.sizes)[:, None] - batch * size
        number = left.clamp(1, size) * n_outputs
        return self.filled.to(self.y) / number

    def order(self, epoch: int) -> Tensor:
        """Row numbers of an epoch.

        Parameters
        ----------
        epoch : int

        Returns
        -------
        torch.Tensor of shape (n_nets, width)
        """
        order = torch.empty(len(self.sizes), self.sizes[0], dtype=torch.long)
        known: dict[tuple[int, int], Tensor] = {}
        for own, size, seed, n_batches in zip(
            order, self.sizes, self.seeds, self.n_batches, strict=True
        ):
            if (size, seed) not in known:
                known[size, seed] = order_of_rows(size, seed, epoch)
            own[:size] = known[size, seed]
            # It makes the same dual step as the row that it repeats.
            own[size:] = own[(n_batches - 1) * self.batch_size]
        return order

    def batches(self) -> list[tuple[int, slice]]:
        """Number of nets that have a batch, and its places, for each step."""
        size = self.batch_size
        steps = []
        for step in range(self.n_batches[0]):
            first = sum(number > step for number in self.n_batches)
            end = min((step + 1) * size, self.sizes[0])
            steps.append((first, slice(step * size, end)))
        return steps


def _starts(sizes: list[int]) -> list[int]:
    return [sum(sizes[:number]) for number in range(len(sizes))]
