"""Linear maps of which each has a block of the features of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Blocks:
    """Linear map of each block of features by its own rows of a weight.

    Parameters
    ----------
    weight : torch.Tensor of shape (n_blocks * n_outputs, width)
    n_blocks : int

    Examples
    --------
    >>> blocks = Blocks(torch.tensor([[1.0, 1.0], [2.0, 0.0]]), n_blocks=2)
    >>> blocks(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.zeros(2))
    tensor([[3., 6.]])
    """

    def __init__(self, weight: Tensor, n_blocks: int):
        self.weight = weight.unflatten(0, (n_blocks, -1))
        self.n_blocks = n_blocks
        # Few zeros are multiplied faster than many small products are started.
        self.matrix = on_diagonal(weight) if len(weight) == n_blocks else None

    def __call__(self, features: Tensor, bias: Tensor) -> Tensor:
        """Map all blocks.

        Parameters
        ----------
        features : torch.Tensor of shape (n_samples, n_blocks * width)
        bias : torch.Tensor of shape (n_blocks * n_outputs,)

        Returns
        -------
        torch.Tensor of shape (n_samples, n_blocks * n_outputs)
        """
        if self.matrix is not None:
            return nn.functional.linear(features, self.matrix, bias)
        products = torch.bmm(self._apart(features), self.weight.transpose(1, 2))
        return products.transpose(0, 1).flatten(1) + bias

    def pull_back(
        self, gradient: Tensor, features: Tensor, out: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of features and weight, from that of the result.

        Parameters
        ----------
        gradient : torch.Tensor of shape (n_samples, n_blocks * n_outputs)
        features : torch.Tensor of shape (n_samples, n_blocks * width)
        out : torch.Tensor of the shape of features
            Memory for their gradient.

        Returns
        -------
        tuple of torch.Tensor
            Of the shapes of features and weight.
        """
        if self.matrix is not None:
            on_weight = (gradient.t() @ features).unflatten(1, (self.n_blocks, -1))
            torch.mm(gradient, self.matrix, out=out)
            return out, on_weight.diagonal().t()
        gradient = self._apart(gradient)
        products = torch.bmm(gradient, self.weight).transpose(0, 1)
        out.unflatten(1, (self.n_blocks, -1)).copy_(products)
        on_weight = torch.bmm(gradient.transpose(1, 2), self._apart(features))
        return out, on_weight.flatten(0, 1)

    def _apart(self, values: Tensor) -> Tensor:
        return values.unflatten(1, (self.n_blocks, -1)).transpose(0, 1)


def on_diagonal(weight: Tensor) -> Tensor:
    """Matrix with the rows of another one side by side on its diagonal.

    Parameters
    ----------
    weight : torch.Tensor of shape (n, width)

    Returns
    -------
    torch.Tensor of shape (n, n * width)

    Examples
    --------
    >>> on_diagonal(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 4.0]]
    """
    eye = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    return (eye[:, :, None] * weight).flatten(1)
