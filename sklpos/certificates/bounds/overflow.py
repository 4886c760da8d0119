"""The largest inputs for which no sum of a network can overflow."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sklpos.certificates.bounds.layers import Affine
from sklpos.certificates.bounds.network import Network, read_network
from sklpos.nets.default_device import tensors_on_cpu
from sklpos.nets.input_map import InputMap
from sklpos.nets.outputs import BoundedOutput

# Computed sums are larger than exact ones by their rounding, which is far below this.
_SAFETY = 2.0
# Relaxations of smooth functions take this for infinity.
_REMOTE = 1e300
# Smallest factor of one step of the search, where sums overflow in float64 as well.
_LEAST_FACTOR = 2.0**-64
# Most nets are linear in far inputs, which takes two steps.
_MAX_STEPS = 64


def largest_input(network: Network) -> float:
    """Largest size of a feature for which no sum of a network can overflow.

    The values of every layer are bounded by intervals. No partial sum of an output is
    larger than the sum of its absolute terms, whatever the order of summation.

    Parameters
    ----------
    network : Network

    Returns
    -------
    float
        0 if even small inputs may overflow.

    Examples
    --------
    >>> linear = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.constant_(linear.weight, 5.0)
    >>> f"{largest_input(read_network(linear)):.1e}"
    '1.7e+37'
    """
    most = min(torch.finfo(network.dtype).max / _SAFETY, _REMOTE)
    # Far enough out for sums to grow linearly, but not yet to overflow in float64.
    size, held = most**0.5, 0.0
    for _ in range(_MAX_STEPS):
        room = _room(network, size, most)
        if room >= 1:
            held = size
        if 1 <= room < 1.1:
            break
        # A little less than there is room for, as the next sum is rounded.
        size *= max(0.99 * room, _LEAST_FACTOR)
    # Down to a number that every dtype holds, so that comparisons are exact.
    mantissa, exponent = math.frexp(held)
    return math.ldexp(math.floor(256 * mantissa) / 256, exponent)


def largest_input_of(module: nn.Module, inputs: InputMap | None = None) -> float:
    """Largest size of a feature for which no sum of a module can overflow.

    Parameters
    ----------
    module : nn.Module
        In eval mode. Behind an output activation of this package, which turns every
        number into one within its bounds, the module that yields its input counts.
    inputs : InputMap, optional
        The scalers before the module.

    Returns
    -------
    float
        Infinite if nothing is known, because a layer is not understood.
    """
    plain = module.module if type(module) is BoundedOutput else module
    try:
        network = read_network(plain)
    except ValueError:
        return math.inf
    # A prediction asks for it, and does not change the default device itself.
    with tensors_on_cpu():
        largest = largest_input(network)
    return largest if inputs is None else inputs.largest_before(largest)


def overflow_assumption(largest: float) -> str:
    """Up to which size of the features a proof holds, in words.

    Parameters
    ----------
    largest : float
        Unit of X; infinite if it is not known.

    Returns
    -------
    str
    """
    if math.isinf(largest):
        return "no overflow"
    return f"features between {-largest:.3g} and {largest:.3g}, as sums may overflow"


def _room(network: Network, size: float, most: float) -> float:
    """Factor by which the largest sum may grow, for features of a given size."""
    largest = size
    above = torch.full((network.n_features,), size, dtype=torch.float64)
    below = above
    for layer in network.layers:
        reach = torch.maximum(above, below)
        if isinstance(layer, Affine):
            reach = layer.positive @ reach - layer.negative @ reach + layer.bias_size
            above, below = _reach(layer, above, below)
        else:
            low, high = layer.image(-below, above)
            above, below = high.clamp(min=0), (-low).clamp(min=0)
            reach = torch.maximum(above, below)
        # Too large even for the float64 of this search.
        if not reach.isfinite().all():
            return 0.0
        largest = max(largest, float(reach.max()))
    return most / largest


def _reach(layer: Affine, above: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """How far an affine layer goes above and below 0, also when it is rounded.

    Terms of the other sign are left out. So nothing cancels, and rounding is relative.
    """
    rise, fall = layer.positive, layer.negative
    up = rise @ above - fall @ below
    down = rise @ below - fall @ above
    return up + layer.bias_size, down + layer.bias_size
