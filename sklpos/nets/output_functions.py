"""Output activations and their inverses, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sklpos.nets.rules import OneOf, check_rules


def _inverse_softplus(value: Tensor) -> Tensor:
    # log(exp(value) - 1) without overflow for large values, and precise for small ones.
    return value + torch.log(-torch.expm1(-value))


OUTPUT_ACTIVATIONS: dict[str, tuple[Callable, Callable]] = {
    "softplus": (nn.functional.softplus, _inverse_softplus),
    "exp": (torch.exp, torch.log),
    "relu": (torch.relu, torch.positive),
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
    known = OneOf(tuple(OUTPUT_ACTIVATIONS))
    check_rules({"function": name}, {"function": known}, "strategy Activation")
    return OUTPUT_ACTIVATIONS[name]
