"""The layers that are understood as activations, and how to add one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from sklpos.certificates.bounds.kinks import OneKink, TwoKinks
from sklpos.certificates.bounds.relaxations import Relaxation, Smooth

Curvature = float | Callable[[Tensor, Tensor], Tensor]

# Turning point of a function that never falls.
_RISING = -math.inf
# Range and step of the grid on which a given curvature is checked.
_REACH = 20.0
_STEP = 0.01


def _distance(low: Tensor, high: Tensor) -> Tensor:
    """Distance of each interval from 0."""
    return torch.maximum(low, -high).clamp(min=0)


# Bounds of |g''| on an interval at distance t from 0. The constants are the suprema:
# tanh at atanh(1 / sqrt 3), sigmoid at log(2 + sqrt 3), the others at 0. The decay
# follows from sigmoid'(t) <= exp(-t) and 1 - tanh(t)**2 <= 4 exp(-2 t).
def _tanh_curvature(low, high):
    decay = 8 * torch.exp(-2 * _distance(low, high))
    return decay.clamp(max=4 / (3 * math.sqrt(3)))


def _sigmoid_curvature(low, high):
    return torch.exp(-_distance(low, high)).clamp(max=1 / (6 * math.sqrt(3)))


def _softplus_curvature(low, high, *, beta):
    return beta * torch.exp(-beta * _distance(low, high)).clamp(max=0.25)


def _silu_curvature(low, high):
    t = _distance(low, high)
    return ((2 + t) * torch.exp(-t)).clamp(max=0.5)


def _gelu_curvature(low, high):
    # Farther out it is 0, but not inf * 0.
    t = _distance(low, high).clamp(max=100.0)
    density = torch.exp(-t.square() / 2) / math.sqrt(2 * math.pi)
    return ((2 + t.square()) * density).clamp(max=math.sqrt(2 / math.pi))


def _elu_curvature(low, high, *, alpha):
    return torch.where(low < 0, abs(alpha) * torch.exp(high.clamp(max=0)), 0.0)


def _relu(_: nn.ReLU) -> Relaxation:
    return OneKink()


def _leaky_relu(layer: nn.LeakyReLU) -> Relaxation:
    return OneKink(layer.negative_slope)


def _hardtanh(layer: nn.Hardtanh) -> Relaxation:
    return TwoKinks(layer.min_val, layer.max_val)


def _hardsigmoid(_: nn.Hardsigmoid) -> Relaxation:
    return TwoKinks(0.0, 1.0, gain=1 / 6, offset=0.5)


def _tanh(_: nn.Tanh) -> Relaxation:
    return Smooth(torch.tanh, _tanh_curvature, _RISING)


def _sigmoid(_: nn.Sigmoid) -> Relaxation:
    return Smooth(torch.sigmoid, _sigmoid_curvature, _RISING)


def _softplus(layer: nn.Softplus) -> Relaxation:
    """Relaxation without torch's threshold, above which it computes the identity."""
    beta = layer.beta

    def function(z):
        return torch.logaddexp(beta * z, torch.zeros_like(z)) / beta

    # The distance to the identity is largest at the threshold.
    jump = math.log1p(math.exp(-layer.threshold)) / abs(beta)
    curvature = partial(_softplus_curvature, beta=abs(beta))
    return Smooth(function, curvature, _RISING, error=jump)


def _silu(_: nn.SiLU) -> Relaxation:
    # The turning point is where SiLU has its minimum; likewise for GELU.
    return Smooth(functional.silu, _silu_curvature, turning=-1.2784645427610738)


def _gelu(layer: nn.GELU) -> Relaxation:
    if layer.approximate == "none":
        return Smooth(functional.gelu, _gelu_curvature, turning=-0.7517915246935646)
    function = partial(functional.gelu, approximate=layer.approximate)
    # A constant: the decay of the exact GELU does not hold for its approximation.
    supremum = math.sqrt(2 / math.pi)
    return Smooth(function, supremum, turning=-0.7524614220710162)


def _elu(layer: nn.ELU) -> Relaxation:
    alpha = layer.alpha
    function = partial(functional.elu, alpha=alpha)
    # With a negative alpha the function falls until 0.
    turning = _RISING if alpha >= 0 else 0.0
    return Smooth(function, partial(_elu_curvature, alpha=alpha), turning)


_RELAXATIONS: dict[type[nn.Module], Callable[[nn.Module], Relaxation]] = {
    nn.ReLU: _relu,
    nn.LeakyReLU: _leaky_relu,
    nn.Hardtanh: _hardtanh,
    nn.ReLU6: _hardtanh,
    nn.Hardsigmoid: _hardsigmoid,
    nn.ELU: _elu,
    nn.Sigmoid: _sigmoid,
    nn.Tanh: _tanh,
    nn.Softplus: _softplus,
    nn.SiLU: _silu,
    nn.GELU: _gelu,
}


def known_activations() -> list[str]:
    """Names of the layers that have a relaxation."""
    return sorted(layer_type.__name__ for layer_type in _RELAXATIONS)


def find_relaxation(layer: nn.Module) -> Relaxation | None:
    """Find the relaxation of a layer by its exact type; None if there is none.

    Parameters
    ----------
    layer : nn.Module

    Returns
    -------
    Relaxation or None
    """
    factory = _RELAXATIONS.get(type(layer))
    return None if factory is None else factory(layer)


def register_relaxation(
    layer_type: type[nn.Module],
    function: Callable[[Tensor], Tensor] | None = None,
    *,
    curvature: Curvature,
    turning: float | None = None,
) -> None:
    """Let certificates understand another elementwise activation.

    Parameters
    ----------
    layer_type : type
        Subclass of ``nn.Module``; its subclasses are not included.
    function : callable, optional
        What the layer computes, as a function of a float64 tensor. By default its own
        ``forward``.
    curvature : float or callable
        Bound of ``|g''|`` everywhere, or a function of tensors ``(low, high)`` that
        bounds it on each interval. Certificates are only valid if this bound is.
    turning : float, optional
        The function falls up to here and rises afterwards; ``-inf`` if it never falls.
        Without it, nothing is known about the function over infinite intervals.

    Raises
    ------
    TypeError
        If `layer_type` is not a class of modules.
    ValueError
        If second differences on [-20, 20] exceed the curvature. This is checked only
        if a function is given.

    Examples
    --------
    >>> import math, torch
    >>> class Sine(torch.nn.Module):
    ...     def forward(self, z):
    ...         return torch.sin(z)
    >>> register_relaxation(Sine, torch.sin, curvature=1.0)
    >>> unregister_relaxation(Sine)
    """
    if not (isinstance(layer_type, type) and issubclass(layer_type, nn.Module)):
        raise TypeError(f"layer_type={layer_type!r} must be a subclass of nn.Module.")
    if function is not None:
        _try_out(function, curvature)

    def relaxation(layer: nn.Module) -> Relaxation:
        # A copy in float64, as the layer itself stays in the dtype of the net.
        own = copy.deepcopy(layer).cpu().double() if function is None else function
        return Smooth(own, curvature, turning)

    _RELAXATIONS[layer_type] = relaxation


def unregister_relaxation(layer_type: type[nn.Module]) -> None:
    """Remove an activation; unknown ones are ignored.

    Parameters
    ----------
    layer_type : type
    """
    _RELAXATIONS.pop(layer_type, None)


def _try_out(function, curvature) -> None:
    z = torch.arange(-_REACH, _REACH, _STEP, dtype=torch.float64)
    second = (function(z + _STEP) - 2 * function(z) + function(z - _STEP)).abs()
    bound = curvature
    if callable(curvature):
        bound = curvature(z - _STEP, z + _STEP)
    excess = second / _STEP**2 - bound
    # Second differences are rounded, so a small excess proves nothing.
    if bool((excess > 1e-6 * (1 + excess.abs())).any()):
        raise ValueError(
            f"curvature is too small: the function's second derivative exceeds it near "
            f"z = {z[excess.argmax()].item():.2f}."
        )
