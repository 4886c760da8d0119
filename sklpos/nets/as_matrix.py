"""The layer that makes a matrix of outputs that lost a dimension."""

from __future__ import annotations

from torch import Tensor, nn


class AsMatrix(nn.Module):
    """Outputs as (n_samples, n_outputs), behind a module that drops a dimension.

    Parameters
    ----------
    n_outputs : int

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0, 1), AsMatrix(1))
    >>> import torch
    >>> net(torch.zeros(5, 3)).shape
    torch.Size([5, 1])
    """

    def __init__(self, n_outputs: int):
        super().__init__()
        self.n_outputs = n_outputs

    def forward(self, outputs: Tensor) -> Tensor:
        """Map n_samples * n_outputs numbers to (n_samples, n_outputs)."""
        return outputs.reshape(-1, self.n_outputs)

    def extra_repr(self) -> str:
        """Its parameter, for ``repr``."""
        return str(self.n_outputs)
