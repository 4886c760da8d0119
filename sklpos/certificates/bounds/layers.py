"""Layers of a module, read one by one as affine maps and activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sklpos.certificates.bounds.activations import find_relaxation, known_activations
from sklpos.certificates.bounds.relaxations import Relaxation
from sklpos.nets.lazy import lazy
from sklpos.nets.mixing import feature_layers, member_heads
from sklpos.nets.stack import Stack

#: Layers that do nothing in eval mode.
DROPOUTS = (nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout)
# Roundings of one batch-norm value.
_NORM_TERMS = 8


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
    weight_size : Tensor of shape (n_out, n_in) or None
        Sums of the absolute terms that make the weights; None if each is one number.
    """

    weight: Tensor
    bias: Tensor
    bias_size: Tensor
    n_terms: int
    stored: bool = True
    weight_size: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out)."""
        return x @ self.weight.T + self.bias

    @lazy
    def positive(self) -> Tensor:
        """The weights that are positive, and 0 elsewhere."""
        return self.weight.clamp(min=0)

    @lazy
    def negative(self) -> Tensor:
        """The weights that are negative, and 0 elsewhere."""
        return self.weight.clamp(max=0)

    @lazy
    def sizes(self) -> Tensor:
        """Absolute terms of the weights, to which rounding is relative."""
        return self.weight.abs() if self.weight_size is None else self.weight_size

    def rows(self, index: Tensor) -> Affine:
        """Select some of the outputs."""
        parts = self.weight[index], self.bias[index], self.bias_size[index]
        size = None if self.weight_size is None else self.weight_size[index]
        return Affine(*parts, self.n_terms, self.stored, size)


def read_layer(
    layer: nn.Module, name: str, take: Callable[[Tensor], Tensor]
) -> list[Affine | Relaxation]:
    """Read one layer.

    Parameters
    ----------
    layer : nn.Module
    name : str
        Its dotted name, for messages.
    take : callable
        What to take of its parameters and buffers.

    Returns
    -------
    list of Affine or Relaxation
        Empty if the layer changes nothing.

    Raises
    ------
    ValueError
        If the layer is not understood.
    """
    reader = READERS.get(type(layer))
    if reader is not None:
        return reader(layer, name, take)
    relaxation = find_relaxation(layer)
    if relaxation is None:
        raise refusal(layer, name, "is not understood")
    return [relaxation]


def refusal(layer: nn.Module, name: str, reason: str) -> ValueError:
    """Make the error that refuses a layer.

    Parameters
    ----------
    layer : nn.Module
    name : str
        Its dotted name.
    reason : str

    Returns
    -------
    ValueError
    """
    return ValueError(
        f"cannot certify: {type(layer).__name__}{f' ({name!r})' if name else ''} "
        f"{reason}. Understood are nn.Sequential and MLP of Linear, BatchNorm1d, "
        f"Dropout, Flatten, Identity and {', '.join(known_activations())}; "
        "register_relaxation adds other activations."
    )


def _nothing(layer: nn.Module, name: str, take) -> list:
    return []


def _linear(layer: nn.Linear, name: str, take) -> list[Affine]:
    weight = take(layer.weight)
    bias = weight.new_zeros(len(weight)) if layer.bias is None else take(layer.bias)
    return [Affine(weight, bias, bias.abs(), layer.in_features + 1)]


def _batch_norm(layer: nn.BatchNorm1d, name: str, take) -> list[Affine]:
    if layer.running_mean is None:
        raise refusal(layer, name, "keeps no running statistics")
    scale = (take(layer.running_var) + layer.eps).rsqrt()
    shift = torch.zeros_like(scale)
    if layer.affine:
        scale, shift = scale * take(layer.weight), take(layer.bias)
    offset = take(layer.running_mean) * scale
    size = shift.abs() + offset.abs()
    bias = shift - offset
    return [Affine(torch.diag(scale), bias, size, _NORM_TERMS, stored=False)]


def _stack(layer: Stack, name: str, take) -> list[Affine | Relaxation]:
    """Read a stack while it trains: the outputs of its members."""
    parts = [*feature_layers(layer).values(), member_heads(layer), layer.output]
    chain = []
    for part in parts:
        if isinstance(part, nn.Module):
            chain += read_layer(part, name, take)
        else:
            weight, bias = map(take, part)
            n_terms = weight.shape[1] + 1
            chain.append(Affine(weight, bias, bias.abs(), n_terms, stored=False))
    return chain


def _flatten(layer: nn.Flatten, name: str, take) -> list:
    # Rows are flat already, so any other way of flattening would merge them.
    if (layer.start_dim, layer.end_dim) not in ((1, -1), (1, 1)):
        raise refusal(layer, name, "does more than flatten rows")
    return []


def identity(like: Tensor) -> Affine:
    """Make the affine map that changes nothing.

    Parameters
    ----------
    like : Tensor of shape (n_outputs,)
        Has its dtype and device.

    Returns
    -------
    Affine
    """
    zero = torch.zeros_like(like)
    return Affine(torch.diag(zero + 1), zero, zero, 0)


#: How layers other than activations are read, by their exact type.
READERS = {
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.Flatten: _flatten,
    nn.Identity: _nothing,
    Stack: _stack,
    **dict.fromkeys(DROPOUTS, _nothing),
}
