"""A module read as a chain of affine maps and activations, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sklpos.certificates.bounds.layers import (
    DROPOUTS,
    READERS,
    Affine,
    identity,
    read_layer,
    refusal,
)
from sklpos.certificates.bounds.relaxations import Relaxation
from sklpos.nets.input_map import InputMap
from sklpos.nets.modules import has_own_forward, layers_of


@dataclass(frozen=True, eq=False)
class Network:
    """A module as a chain of layers.

    Attributes
    ----------
    layers : tuple of Affine or Relaxation
    n_features, n_outputs : int
    dtype : torch.dtype
        Dtype in which the module predicts; the layers are in float64.

    Examples
    --------
    >>> read_network(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)))
    Network(3 -> 2 -> OneKink -> 1, predicts in float32)
    """

    layers: tuple[Affine | Relaxation, ...]
    n_features: int
    n_outputs: int
    dtype: torch.dtype

    def __call__(self, X: Tensor) -> Tensor:
        """Map (..., n_features) to (..., n_outputs), exactly, in float64."""
        for layer in self.layers:
            X = layer(X)
        return X

    def outputs(self, index: ArrayLike) -> Network:
        """Select the network of some of the outputs."""
        *features, head = self.layers
        head = head.rows(torch.as_tensor(index))
        return replace(self, layers=(*features, head), n_outputs=len(head.bias))

    def mirrored(self) -> Network:
        """Network of ``(f, -f)``: an upper bound of f is a lower one of -f."""
        *features, head = self.layers
        weight, bias = (torch.cat([p, -p]) for p in (head.weight, head.bias))
        size, terms = head.bias_size.repeat(2), head.weight_size
        terms = None if terms is None else terms.repeat(2, 1)
        both = replace(
            head, weight=weight, bias=bias, bias_size=size, weight_size=terms
        )
        return replace(self, layers=(*features, both), n_outputs=2 * self.n_outputs)

    def __repr__(self) -> str:
        parts = [str(self.n_features)]
        for layer in self.layers:
            affine = isinstance(layer, Affine)
            parts.append(str(len(layer.bias)) if affine else type(layer).__name__)
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Network({' -> '.join(parts)}, predicts in {dtype})"


def read_network(module: nn.Module) -> Network:
    """Read a module as a chain of layers, exactly, in float64.

    The layers that are understood are ``nn.Linear``; ``nn.BatchNorm1d`` and dropout in
    eval mode; ``nn.Identity`` and ``nn.Flatten``; the activations of
    `known_activations`; and ``nn.Sequential`` or the package's `MLP` of these.
    Subclasses are not, because they may compute something else.

    Parameters
    ----------
    module : nn.Module
        In eval mode.

    Returns
    -------
    Network
        Ends in an affine layer.

    Raises
    ------
    ValueError
        If a layer is not understood; the message names it.
    """
    network = _read_chain(module, _exact)
    _check_eval_mode(module)
    _check_finite(network)
    return network


def trainable_network(module: nn.Module) -> Network:
    """Read a module as a chain of its own tensors, for bounds in a training loss.

    Parameters
    ----------
    module : nn.Module
        As in `read_network`, but in any mode; it is read as if in eval mode.

    Returns
    -------
    Network
        In the dtype and on the device of the module; gradients flow to its weights.

    Raises
    ------
    ValueError
        If a layer is not understood, or an activation has weights.
    """
    network = _read_chain(module, _keep)
    _check_no_weights_in_activations(module)
    return network


def _read_chain(module: nn.Module, take: Callable[[Tensor], Tensor]) -> Network:
    parts = list(layers_of(module))
    for part in parts:
        refuse_hooks(*part)
    layers = [layer for part in parts for layer in read_layer(*part, take)]
    affine = [layer for layer in layers if isinstance(layer, Affine)]
    if not affine or not isinstance(layers[0], Affine):
        raise ValueError("the module must begin with nn.Linear to be certified.")
    if not isinstance(layers[-1], Affine):
        # Searches pick one output by its row of the last layer.
        layers.append(identity(affine[-1].bias))
    return Network(
        tuple(layers),
        n_features=affine[0].weight.shape[1],
        n_outputs=len(layers[-1].bias),
        dtype=next(module.parameters()).dtype,
    )


def fold_inputs(network: Network, scale: InputMap) -> Network:
    """Fold the steps before a network into its first layer.

    Parameters
    ----------
    network : Network
    scale : InputMap

    Returns
    -------
    Network
    """
    first, *rest = network.layers
    weight, bias = scale.fold(first.weight, first.bias)
    # The rounding of the steps is relative to their own terms, which may cancel.
    weight_size, size = scale.fold_sizes(first.weight)
    # A constant is computed if it comes from a step.
    computed = (weight_size == 0).all(1) & (size > 0)
    folded = Affine(
        weight,
        bias,
        first.bias_size + size,
        first.n_terms + scale.n_terms,
        first.stored and not computed.any(),
        weight_size,
    )
    layers = folded, *rest
    return replace(network, layers=layers, n_features=scale.n_features)


def refuse_hooks(module: nn.Module, name: str = "") -> None:
    """Raise ValueError if a module may compute something other than its type does.

    Parameters
    ----------
    module : nn.Module
    name : str, default=""
        Its dotted name, for the message.
    """
    if has_own_forward(module):
        raise refusal(module, name, "has a hook or a forward of its own")


def _keep(tensor: Tensor) -> Tensor:
    return tensor


def _exact(tensor: Tensor) -> Tensor:
    # To the CPU before float64, which some devices do not have.
    return tensor.detach().cpu().double()


def _check_eval_mode(module: nn.Module) -> None:
    for layer, name in layers_of(module):
        if layer.training and type(layer) in (nn.BatchNorm1d, *DROPOUTS):
            raise refusal(layer, name, "is in training mode; call eval() first")


def _check_no_weights_in_activations(module: nn.Module) -> None:
    """Refuse activations with weights, which would get no gradient."""
    for layer, name in layers_of(module):
        if type(layer) not in READERS and any(True for _ in layer.parameters()):
            raise refusal(layer, name, "has weights, which cannot be trained with")


def _check_finite(network: Network) -> None:
    affine = [layer for layer in network.layers if isinstance(layer, Affine)]
    for layer in affine:
        # The ends are NaN if any number is; a mask of a large matrix takes longer.
        ends = [end for part in (layer.weight, layer.bias) for end in part.aminmax()]
        if not torch.stack(ends).isfinite().all():
            raise ValueError("the module has parameters that are NaN or infinite.")
