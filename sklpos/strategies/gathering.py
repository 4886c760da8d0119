"""Rows of a batch: of all processes that train together, and each of them once."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(
    violation: Tensor, index: Tensor, group: Any = None
) -> tuple[Tensor, Tensor]:
    """Join the rows of all processes, in the order of their ranks.

    Parameters
    ----------
    violation : torch.Tensor of shape (n_own, n_columns)
        The number of rows may differ between processes, and may be 0.
    index : torch.Tensor of shape (n_own,)
    group : torch.distributed.ProcessGroup, optional
        By default all processes, if torch.distributed is initialised.

    Returns
    -------
    violation : torch.Tensor of shape (n_rows, n_columns)
    index : torch.Tensor of shape (n_rows,)
        The same in all processes.
    """
    together = dist.is_available() and dist.is_initialized()
    if not together or dist.get_world_size(group) == 1:
        return violation, index
    # `all_gather` needs tensors of one shape, so the rows are padded to the longest
    # part and cut again, for which all sizes must be known first.
    sizes = _gathered(torch.tensor([len(index)], device=index.device), group)
    sizes = [int(size) for size in sizes]
    parts = [_gathered(_padded(part, max(sizes)), group) for part in (violation, index)]
    violations, indices = (
        torch.cat([rows[:size] for rows, size in zip(part, sizes, strict=True)])
        for part in parts
    )
    return violations, indices


def _gathered(own: Tensor, group: Any) -> list[Tensor]:
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, own.contiguous(), group)
    return parts


def _padded(rows: Tensor, size: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])


def once_per_row(violation: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Average the violations of rows that occur several times.

    Parameters
    ----------
    violation : torch.Tensor of shape (batch, n_columns)
    index : torch.Tensor of shape (batch,)

    Returns
    -------
    violation : torch.Tensor of shape (n_distinct, n_columns)
    index : torch.Tensor of shape (n_distinct,)
    """
    # Indexed assignment would keep just one of the steps of a repeated row.
    rows, place, times = torch.unique(index, return_inverse=True, return_counts=True)
    if len(rows) == len(index):
        return violation, index
    total = violation.new_zeros(len(rows), violation.shape[1])
    return total.index_add_(0, place, violation) / times[:, None], rows
