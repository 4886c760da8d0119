"""Find, read, write and replace the head of a module, its last ``nn.Linear``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklpos.nets.shapes import RESHAPING
from sklpos.nets.tracing import trace

# Smallest and largest output for any input.
_RANGES: dict[type[nn.Module], Callable[[nn.Module], tuple[float, float]]] = {
    nn.ReLU: lambda layer: (0.0, inf),
    nn.Hardtanh: lambda layer: (layer.min_val, layer.max_val),
    nn.Sigmoid: lambda layer: (0.0, 1.0),
    nn.Hardsigmoid: lambda layer: (0.0, 1.0),
    nn.Softmax: lambda layer: (0.0, 1.0),
    # It is log(1 + exp(beta * x)) / beta.
    nn.Softplus: lambda layer: (0.0, inf) if layer.beta > 0 else (-inf, 0.0),
}
# In eval mode they pass on their input, whatever its range.
_PASSING_ON = (nn.Identity, nn.Dropout, nn.Flatten)


def find_head(module: nn.Module, X: Tensor, n_outputs: int) -> str:
    """Find the ``nn.Linear`` whose output is the module's output.

    Parameters
    ----------
    module : nn.Module
        Its outputs are (n_samples, n_outputs), see `with_matrix_outputs`.
    X : torch.Tensor of shape (1, n_features)
        Any row.
    n_outputs : int

    Returns
    -------
    str
        Its dotted name, for ``module.get_submodule``.

    Raises
    ------
    ValueError
        If the module ends in something else.
    """
    # Two rows, because any order of the numbers of one row may look the same.
    output, calls = trace(module, torch.cat([X, X]))
    giving = (call for call in reversed(calls) if call.gives(output))
    last = next((c for c in giving if type(c.layer) not in RESHAPING), None)
    if last is None or type(last.layer) is not nn.Linear:
        ending = "an operation" if last is None else type(last.layer).__name__
        raise ValueError(
            f"module must end in a plain nn.Linear with {n_outputs} outputs, but it "
            f"ends in {ending}; drop what follows the last nn.Linear "
            "(strategy='activation' puts an activation there itself)."
        )
    # A head that is also a hidden layer would change its own features when repaired.
    if sum(call.layer is last.layer for call in calls) > 1 or last.input.dim() != 2:
        raise ValueError(
            "module must apply its last nn.Linear once, to (n_samples, n_hidden) "
            "features."
        )
    return last.name


def check_features(
    module: nn.Module, head: str, X: Tensor, *, at_most_one: bool
) -> None:
    """Raise ValueError if the features that enter the head can leave their range.

    Parameters
    ----------
    module : nn.Module
        The last layer before the head must be a known activation; dropout, identity
        and flatten may follow it.
    head : str
        Dotted name of the last ``nn.Linear``.
    X : torch.Tensor of shape (1, n_features)
        Any row.
    at_most_one : bool
        Whether the range is [0, 1] instead of all non-negative numbers.
    """
    low, high = _feature_range(module, head, X)
    if at_most_one and not (low >= 0 and high <= 1):
        raise ValueError(
            "strategy='nonnegative_weights' with both bounds needs features in [0, 1]: "
            "put nn.Hardtanh(0, 1), nn.Sigmoid or nn.Hardsigmoid before the last "
            "nn.Linear, as module=MLP, "
            "module__activation=functools.partial(nn.Hardtanh, 0, 1) does."
        )
    if not low >= 0:
        raise ValueError(
            "strategy='nonnegative_weights' needs features that cannot be negative: "
            "put an nn.ReLU, nn.Sigmoid or nn.Softplus layer before the last "
            "nn.Linear."
        )


def _feature_range(module: nn.Module, head: str, X: Tensor) -> tuple[float, float]:
    """Range of what enters the head, infinite where it is not known."""
    _, calls = trace(module, X)
    source = next(call for call in calls if call.name == head).input
    # Identity and dropout return their very input in eval mode, so several calls may
    # have the same output; backwards, they come in the right order.
    for call in reversed(calls):
        if call.output is not source:
            continue
        if not isinstance(call.layer, _PASSING_ON):
            return _output_range(call.layer)
        source = call.input
    return -inf, inf


def _output_range(layer: nn.Module) -> tuple[float, float]:
    # Base classes as well: nn.ReLU6 is an nn.Hardtanh.
    known = (_RANGES[kind] for kind in type(layer).__mro__ if kind in _RANGES)
    return next(known, lambda layer: (-inf, inf))(layer)


def replace_layer(module: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Replace a layer of a module, in place.

    Parameters
    ----------
    module : nn.Module
    name : str
        Dotted name of the layer to replace; ``""`` is the module itself.
    layer : nn.Module

    Returns
    -------
    nn.Module
        The module, or the new layer if it replaces the whole module.
    """
    if not name:
        return layer
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, layer)
    return module


@contextmanager
def head_input(module: nn.Module, head: str) -> Iterator[list[Tensor]]:
    """Collect the features that enter the head while the context is open.

    Parameters
    ----------
    module : nn.Module
    head : str
        Dotted name of the head.

    Yields
    ------
    list of torch.Tensor of shape (batch, n_hidden)
        Grows by one tensor per forward pass.
    """
    seen: list[Tensor] = []
    hook = module.get_submodule(head).register_forward_pre_hook(
        lambda layer, args: seen.append(args[0])
    )
    try:
        yield seen
    finally:
        hook.remove()


def read_head(head: nn.Linear) -> NDArray:
    """Read the weights of a head, with the bias as last column if it has one.

    Parameters
    ----------
    head : nn.Linear

    Returns
    -------
    ndarray of shape (n_outputs, n_hidden) or (n_outputs, n_hidden + 1)
        float64.
    """
    parts = [head.weight] if head.bias is None else [head.weight, head.bias]
    # To the CPU before float64, which some accelerators do not have.
    parts = [part.detach().cpu().double().reshape(len(part), -1) for part in parts]
    return torch.cat(parts, dim=1).numpy()


@torch.no_grad()
def write_head(head: nn.Linear, coef: NDArray) -> None:
    """Set the weights and the bias of a head, in place.

    Parameters
    ----------
    head : nn.Linear
    coef : ndarray of shape (n_outputs, n_hidden) or (n_outputs, n_hidden + 1)
        As `read_head` returns it.
    """
    values = torch.as_tensor(coef)
    head.weight.copy_(values[:, : head.in_features])
    if head.bias is not None:
        head.bias.copy_(values[:, -1])
