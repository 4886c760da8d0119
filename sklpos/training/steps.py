"""What the training steps of an epoch compute, summed up when it is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_SUMMED = 2**16  # rows at once: few operations, little memory


@dataclass(frozen=True, eq=False)
class Steps:
    """The training steps of an epoch, as they saw their batches.

    Attributes
    ----------
    index : torch.Tensor of shape (n_rows,)
        Row numbers, in the order of training.
    violation : torch.Tensor of shape (n_rows, n_bounded)
    sizes : torch.Tensor of shape (n_batches,)
    objective, constraint : torch.Tensor of shape (n_batches,)
        Means over each batch; their sum is its loss.
    """

    index: Tensor
    violation: Tensor
    sizes: Tensor
    objective: Tensor
    constraint: Tensor

    @classmethod
    def from_batches(cls, batches: list[tuple]) -> Steps:
        """Join what was computed in each batch.

        Parameters
        ----------
        batches : list of tuple
            Each (index, violation, objective, constraint).
        """
        index, violation, objective, constraint = zip(*batches, strict=True)
        sizes = torch.tensor([len(part) for part in index])
        return cls(
            torch.cat(index),
            torch.cat(violation),
            sizes.to(violation[0].device),
            torch.stack(objective),
            torch.stack(constraint),
        )

    @classmethod
    def from_rows(
        cls, batches: list[tuple], loss: Callable, penalty: Callable
    ) -> Steps:
        """Compute means over batches from their rows, many at once.

        Parameters
        ----------
        batches : list of tuple
            Each (index, violation, weight, y_pred, y_true).
        loss, penalty : callable
            Map (y_pred, y_true) and (violation, index) to one number a row and output.
        """
        size = max(_SUMMED // max(len(batches[0][0]), 1), 1)
        groups = (batches[i : i + size] for i in range(0, len(batches), size))
        parts = (_sum_up(group, loss, penalty) for group in groups)
        return cls(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def mean(self, name: str) -> float:
        """Return the mean of ``objective`` or ``constraint`` over the epoch's rows."""
        values = getattr(self, name).cpu().double()
        share = self.sizes.cpu().double() / self.sizes.sum().cpu()
        return float(share @ values)


def _sum_up(batches: list[tuple], loss: Callable, penalty: Callable) -> tuple:
    """Return what `Steps` holds of some batches."""
    sizes = torch.tensor([len(part[0]) for part in batches])
    index, violation, weight, y_pred, y_true = (
        torch.cat(parts) for parts in zip(*batches, strict=True)
    )
    sizes = sizes.to(y_pred.device)
    number = torch.repeat_interleave(sizes)
    means = []
    for rows in (loss(y_pred, y_true), penalty(violation, index)):
        total = (weight * rows).sum(1) / y_pred.shape[1]
        sums = total.new_zeros(len(sizes)).index_add_(0, number, total)
        means.append(sums / sizes.clamp(min=1))
    return index, violation, sizes, *means
