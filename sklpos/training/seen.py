"""Tensors as they were, to notice that somebody has changed one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Seen:
    """A tensor as it was, to notice a change.

    Attributes
    ----------
    values : torch.Tensor
        A copy of one on the CPU, where numpy can write into the same memory; of one
        elsewhere, itself.
    version : int
        torch counts how often it changed a tensor.

    Examples
    --------
    >>> values = torch.zeros(1)
    >>> seen = Seen.of(values)
    >>> seen.still(values), seen.still(values.add_(1))
    (True, False)
    """

    values: Tensor
    version: int

    @classmethod
    def of(cls, values: Tensor) -> Seen:
        """Look at a tensor.

        Parameters
        ----------
        values : torch.Tensor

        Returns
        -------
        Seen
        """
        return cls(values.clone() if values.is_cpu else values, values._version)

    def still(self, values: Tensor) -> bool:
        """Whether a tensor holds the numbers that were seen.

        Parameters
        ----------
        values : torch.Tensor

        Returns
        -------
        bool
        """
        if values.is_cpu:
            return torch.equal(self.values, values)
        # Comparing the numbers would wait for the device.
        return values is self.values and values._version == self.version
