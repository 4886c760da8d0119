"""A module behind an output activation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def _inverse_softplus(value: Tensor) -> Tensor:
    # log(exp(value) - 1) without overflow for large values, and precise for small ones.
    return value + torch.log(-torch.expm1(-value))


def _same(value: Tensor) -> Tensor:
    return value


OUTPUT_ACTIVATIONS: dict[str, tuple[Callable, Callable]] = {
    "softplus": (nn.functional.softplus, _inverse_softplus),
    "exp": (torch.exp, torch.log),
    "relu": (torch.relu, _same),
    "square": (torch.square, torch.sqrt),
}


def output_activation(name: str) -> tuple[Callable, Callable]:
    """Look up an output activation and its inverse.

    Parameters
    ----------
    name : {"softplus", "exp", "relu", "square"}

    Returns
    -------
    activation, inverse : callable

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if name not in OUTPUT_ACTIVATIONS:
        raise ValueError(
            f"function={name!r} is not an activation of this strategy; choose one of "
            f"{sorted(OUTPUT_ACTIVATIONS)}."
        )
    return OUTPUT_ACTIVATIONS[name]


class BoundedOutput(nn.Module):
    """A module behind an output activation: ``lower_bound + scale * act(z)``.

    Outputs with the bound ``-inf`` are ``shift + scale * z``.

    Parameters
    ----------
    module : nn.Module
        Yields ``z`` of shape (n_samples, n_outputs).
    function : {"softplus", "exp", "relu", "square"}
        The activation.
    lower_bound : torch.Tensor of shape (n_outputs,)
        Unit of the output; ``-inf`` leaves an output free.
    """

    def __init__(self, module: nn.Module, function: str, lower_bound: Tensor):
        super().__init__()
        # An unknown name raises here, not in the first forward pass.
        output_activation(function)
        self.module = module
        self.function = function
        self.register_buffer("bounded", torch.isfinite(lower_bound))
        # A plain bool: torch.export cannot branch on the value of a tensor.
        self.has_free = not bool(self.bounded.all())
        self.register_buffer("offset", torch.where(self.bounded, lower_bound, 0.0))
        self.register_buffer("scale", torch.ones_like(lower_bound))

    def forward(self, X: Tensor) -> Tensor:  # noqa: D102
        z = self.module(X)
        act, _ = output_activation(self.function)
        if self.has_free:
            # Masked before act as well: exp of a free output may overflow, and where()
            # would pass its gradient on as 0 * inf = NaN.
            bounded = torch.where(self.bounded, z, 0.0)
            return self.offset + self.scale * torch.where(self.bounded, act(bounded), z)
        return self.offset + self.scale * act(z)
