"""A module read as a chain of affine maps and activations, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sklpos.certificates.bounds.activations import find_relaxation, known_activations
from sklpos.certificates.bounds.relaxations import Relaxation
from sklpos.nets.modules import has_own_forward, layers_of
from sklpos.nets.units import InputScale

_DROPOUTS = (nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout)
# Roundings of one batch-norm value.
_NORM_TERMS = 8
# Roundings of one scaled value and of its conversion to the dtype of the net.
_SCALER_TERMS = 4


@dataclass(frozen=True, eq=False)
class Affine:
    """``x -> weight @ x + bias``, and how its computation is rounded.

    Attributes
    ----------
    weight : Tensor of shape (n_out, n_in)
        float64.
    bias : Tensor of shape (n_out,)
    bias_size : Tensor of shape (n_out,)
        Sum of the absolute terms that make the bias.
    n_terms : int
        Largest number of roundings of one output, relative to the absolute terms.
    stored : bool
        Whether the bias is a parameter, as opposed to computed and rounded.
    """

    weight: Tensor
    bias: Tensor
    bias_size: Tensor
    n_terms: int
    stored: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out)."""
        return x @ self.weight.T + self.bias

    def rows(self, index: Tensor) -> Affine:
        """Select some of the outputs."""
        parts = self.weight[index], self.bias[index], self.bias_size[index]
        return Affine(*parts, self.n_terms, self.stored)


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

    def output(self, index: int) -> Network:
        """Select the network of one of the outputs."""
        *features, head = self.layers
        head = head.rows(torch.tensor([index]))
        return replace(self, layers=(*features, head), n_outputs=1)

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
    layers = [layer for part in parts for layer in _read(*part, take)]
    affine = [layer for layer in layers if isinstance(layer, Affine)]
    if not affine or not isinstance(layers[0], Affine):
        raise ValueError("the module must begin with nn.Linear to be certified.")
    if not isinstance(layers[-1], Affine):
        # Searches pick one output by its row of the last layer.
        layers.append(_unit(affine[-1].bias))
    return Network(
        tuple(layers),
        n_features=affine[0].weight.shape[1],
        n_outputs=len(layers[-1].bias),
        dtype=next(module.parameters()).dtype,
    )


def fold_inputs(network: Network, scale: InputScale) -> Network:
    """Fold scalers before a network into its first layer.

    Parameters
    ----------
    network : Network
    scale : InputScale

    Returns
    -------
    Network
    """
    first, *rest = network.layers
    weight, bias = scale.fold(first.weight, first.bias)
    # The scalers' rounding is relative to their own terms, which may cancel in the sum.
    size = first.weight.abs() @ torch.as_tensor(scale.offset_size)
    n_terms = first.n_terms + _SCALER_TERMS * len(scale.steps)
    folded = Affine(weight, bias, first.bias_size + size, n_terms, first.stored)
    return replace(network, layers=(folded, *rest))


def refuse_hooks(module: nn.Module, name: str = "") -> None:
    """Raise ValueError if a module may compute something other than its type does.

    Parameters
    ----------
    module : nn.Module
    name : str, default=""
        Its dotted name, for the message.
    """
    if has_own_forward(module):
        raise _refusal(module, name, "has a hook or a forward of its own")


def _keep(tensor: Tensor) -> Tensor:
    return tensor


def _exact(tensor: Tensor) -> Tensor:
    # To the CPU before float64, which some devices do not have.
    return tensor.detach().cpu().double()


def _check_eval_mode(module: nn.Module) -> None:
    for layer, name in layers_of(module):
        if layer.training and type(layer) in (nn.BatchNorm1d, *_DROPOUTS):
            raise _refusal(layer, name, "is in training mode; call eval() first")


def _check_no_weights_in_activations(module: nn.Module) -> None:
    """Refuse activations with weights, which would get no gradient."""
    for layer, name in layers_of(module):
        if type(layer) not in _READERS and any(True for _ in layer.parameters()):
            raise _refusal(layer, name, "has weights, which cannot be trained with")


def _check_finite(network: Network) -> None:
    affine = [layer for layer in network.layers if isinstance(layer, Affine)]
    for layer in affine:
        if not (layer.weight.isfinite().all() and layer.bias.isfinite().all()):
            raise ValueError("the module has parameters that are NaN or infinite.")


def _read(layer: nn.Module, name: str, take) -> list[Affine | Relaxation]:
    reader = _READERS.get(type(layer))
    if reader is not None:
        return reader(layer, name, take)
    relaxation = find_relaxation(layer)
    if relaxation is None:
        raise _refusal(layer, name, "is not understood")
    return [relaxation]


def _refusal(layer, name, reason) -> ValueError:
    return ValueError(
        f"cannot certify: {type(layer).__name__}{f' ({name!r})' if name else ''} "
        f"{reason}. Understood are nn.Sequential and MLP of Linear, BatchNorm1d, "
        f"Dropout, Flatten, Identity and {', '.join(known_activations())}; see "
        "register_relaxation for other activations."
    )


def _nothing(layer: nn.Module, name: str, take) -> list:
    return []


def _linear(layer: nn.Linear, name: str, take) -> list[Affine]:
    weight = take(layer.weight)
    bias = weight.new_zeros(len(weight)) if layer.bias is None else take(layer.bias)
    return [Affine(weight, bias, bias.abs(), layer.in_features + 1)]


def _batch_norm(layer: nn.BatchNorm1d, name: str, take) -> list[Affine]:
    if layer.running_mean is None:
        raise _refusal(layer, name, "keeps no running statistics")
    scale = (take(layer.running_var) + layer.eps).rsqrt()
    shift = torch.zeros_like(scale)
    if layer.affine:
        scale, shift = scale * take(layer.weight), take(layer.bias)
    offset = take(layer.running_mean) * scale
    size = shift.abs() + offset.abs()
    bias = shift - offset
    return [Affine(torch.diag(scale), bias, size, _NORM_TERMS, stored=False)]


def _flatten(layer: nn.Flatten, name: str, take) -> list:
    # Rows are flat already, so any other way of flattening would merge them.
    if (layer.start_dim, layer.end_dim) not in ((1, -1), (1, 1)):
        raise _refusal(layer, name, "does more than flatten rows")
    return []


def _unit(like: Tensor) -> Affine:
    zero = torch.zeros_like(like)
    return Affine(torch.diag(zero + 1), zero, zero, 0)


_READERS = {
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.Flatten: _flatten,
    nn.Identity: _nothing,
    **dict.fromkeys(_DROPOUTS, _nothing),
}
