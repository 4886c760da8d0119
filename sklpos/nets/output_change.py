"""Output activations in another unit, while training goes on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sklpos.nets.bounds import Bounds
from sklpos.nets.outputs import BoundedOutput, output_activation

# Distances from a bound, in deviations of y.
_INSIDE, _STUCK = 1e-3, 0.03


@torch.no_grad()
def change_output(output: BoundedOutput, bounds: Bounds, gain: Tensor) -> None:
    """Put other numbers for the same bounds and the gain, in place.

    Parameters
    ----------
    output : BoundedOutput
    bounds : Bounds
    gain : torch.Tensor of shape (n_outputs,)
    """
    twin = BoundedOutput(nn.Identity(), output.function, bounds, gain=gain)
    for name, value in twin.named_buffers():
        getattr(output, name).copy_(value)
    output.has_gain = twin.has_gain


@torch.no_grad()
def inverse_of(output: BoundedOutput, values: Tensor) -> Tensor:
    """What the module behind an activation has to yield for some outputs.

    Parameters
    ----------
    output : BoundedOutput
    values : torch.Tensor of shape (..., n_outputs)
        Within the bounds, in deviations of y; those that are nearer to a bound than
        0.001 are moved to that distance.

    Returns
    -------
    torch.Tensor of the same shape
    """
    value = (values - output.offset) / (output.sign * output.scale)
    edge = (_INSIDE / output.scale).clamp(max=_INSIDE)
    inside = torch.maximum(value, edge)
    inverted = output_activation(output.function)[1](inside)
    z = torch.where(output.one_sided, inverted, value)
    z = torch.where(output.two_sided, torch.logit(inside.minimum(1 - edge)), z)
    return z / output.gain


def is_stuck(output: BoundedOutput, values: Tensor) -> Tensor:
    """Whether outputs are at a bound, where the activation has no slope.

    Parameters
    ----------
    output : BoundedOutput
    values : torch.Tensor of shape (..., n_outputs)

    Returns
    -------
    torch.Tensor of bool of the same shape
    """
    room = output.sign * (values - output.offset)
    both = torch.minimum(room, output.scale - room)
    room = torch.where(output.two_sided, both, room)
    return (room < _STUCK) & (output.one_sided | output.two_sided)
