"""A module behind an output activation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def _inverse_softplus(value: Tensor) -> Tensor:
    return value + torch.log(-torch.expm1(-value))


OUTPUT_ACTIVATIONS: dict[str, tuple[Callable, Callable]] = {
    "softplus": (nn.functional.softplus, _inverse_softplus),
    "exp": (torch.exp, torch.log),
    "relu": (torch.relu, lambda value: value),
    "square": (torch.square, torch.sqrt),
}


def output_activation(name: str) -> tuple[Callable, Callable]:
    """Return an output activation and its inverse.

    Parameters
    ----------
    name : {"softplus", "exp", "relu", "square"}

    Returns
    -------
    activation, inverse : callable

    Raises
    ------
    ValueError
        For another name.
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
        Bound, in the unit of the output.
    """

    def __init__(self, module: nn.Module, function: str, lower_bound: Tensor):
        super().__init__()
        output_activation(function)
        self.module = module
        self.function = function
        self.register_buffer("bounded", torch.isfinite(lower_bound))
        self.has_free = not bool(self.bounded.all())  # torch.export needs a plain bool
        self.register_buffer("offset", torch.where(self.bounded, lower_bound, 0.0))
        self.register_buffer("scale", torch.ones_like(lower_bound))

    def forward(self, X: Tensor) -> Tensor:  # noqa: D102
        z = self.module(X)
        act, _ = output_activation(self.function)
        if self.has_free:  # exp of a free output may overflow
            bounded = torch.where(self.bounded, z, 0.0)
            return self.offset + self.scale * torch.where(self.bounded, act(bounded), z)
        return self.offset + self.scale * act(z)
