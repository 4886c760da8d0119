"""A module behind an output activation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sklpos.nets.bounds import Bounds


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
# Outputs with both bounds have a function of their own, which cannot be chosen.
_FORWARD = {name: act for name, (act, _) in OUTPUT_ACTIVATIONS.items()}
_FORWARD["sigmoid"] = torch.sigmoid


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
    """A module behind an output activation, which keeps its outputs within bounds.

    With ``z`` the output of the module, times the gain, an output is

    - ``lower + scale * act(z)`` with a lower bound,
    - ``upper - scale * act(-z)`` with an upper bound,
    - ``lower + (upper - lower) * sigmoid(z)`` with both, whatever the activation,
    - ``shift + scale * z`` without bounds.

    It is within its bounds in its own dtype, without a tolerance.

    Parameters
    ----------
    module : nn.Module
        Yields ``z`` of shape (n_samples, n_outputs).
    function : {"softplus", "exp", "relu", "square"}
        The activation of outputs with one bound.
    bounds : Bounds
        Unit of the output.
    shift, scale : float or ndarray of shape (n_outputs,), default=0.0 and 1.0
        Unit of the output; the scale is positive.
    gain : float or torch.Tensor of shape (n_outputs,), default=1.0
        Positive.

    Attributes
    ----------
    pieces : tuple of (str, str)
        Functions other than the identity, each with the name of the buffer that marks
        its outputs, or ``""`` for all outputs.

    Examples
    --------
    >>> bounds = Bounds.read([0.0, None, 0.0], [None, 1.0, 5.0], n_outputs=3)
    >>> output = BoundedOutput(nn.Identity(), "relu", bounds)
    >>> output(torch.tensor([[-9.0, -9.0, -99.0], [9.0, 9.0, 99.0]]))
    tensor([[ 0., -8.,  0.],
            [ 9.,  1.,  5.]])
    """

    def __init__(
        self,
        module: nn.Module,
        function: str,
        bounds: Bounds,
        *,
        shift: ArrayLike = 0.0,
        scale: ArrayLike = 1.0,
        gain: ArrayLike | Tensor = 1.0,
    ):
        super().__init__()
        # An unknown name raises here, not in the first forward pass.
        output_activation(function)
        self.module = module
        self.function = function
        like = next(module.parameters(), torch.empty(0))
        rounded = bounds.in_dtype(like.dtype)
        buffers = _layout(
            *(
                torch.as_tensor(values).to(like).expand(len(bounds))
                for values in (rounded.lower, rounded.upper, shift, scale, gain)
            )
        )
        for name, value in buffers.items():
            self.register_buffer(name, value.clone())
        # Python values: torch.export cannot branch on those of tensors.
        self.has_gain = bool((self.gain != 1).any())
        marks = {"one_sided": function, "two_sided": "sigmoid"}
        self.pieces = tuple(
            (name, "" if buffers[mark].all() else mark)
            for mark, name in marks.items()
            if buffers[mark].any()
        )

    @property
    def lower(self) -> Tensor:
        """Smallest output in its own dtype, (n_outputs,); ``-inf`` where free."""
        bounded = self.two_sided | (self.one_sided & (self.sign > 0))
        return torch.where(bounded, self.offset, -torch.inf)

    @property
    def upper(self) -> Tensor:
        """Largest output in its own dtype, (n_outputs,); ``inf`` where free."""
        mirrored = self.one_sided & (self.sign < 0)
        one_sided = torch.where(mirrored, self.offset, torch.inf)
        return torch.where(self.two_sided, self.offset + self.scale, one_sided)

    def forward(self, X: Tensor) -> Tensor:  # noqa: D102
        z = self.module(X)
        value = self._activated(self.gain * z if self.has_gain else z)
        return self.offset + self.sign * self.scale * value

    def _activated(self, z: Tensor) -> Tensor:
        value = z
        for name, mark in self.pieces:
            act = _FORWARD[name]
            if not mark:
                return act(z)
            # Masked before act as well: exp of another output may overflow, and where()
            # would pass its gradient on as 0 * inf = NaN.
            own = getattr(self, mark)
            value = torch.where(own, act(torch.where(own, z, 0.0)), value)
        return value


def starting_gain(bounds: Bounds) -> Tensor:
    """Gain at which an output with far bounds follows its input, as others do.

    The sigmoid of a wide range is steep: a step on the weights that suits one output
    would throw another across all of its range.

    Parameters
    ----------
    bounds : Bounds
        In scaled units.

    Returns
    -------
    torch.Tensor of shape (n_outputs,)
        float64, at most 1: the one for a slope of at most 1 at the scaled mean.
    """
    width = torch.as_tensor(bounds.upper - bounds.lower)
    place = _place_of_mean(bounds)
    slope = width * place * (1 - place)
    return torch.where(width.isfinite(), 1 / slope.clamp(min=1.0), 1.0)


def _place_of_mean(bounds: Bounds) -> Tensor:
    """Where 0 lies between both bounds, from 0 to 1."""
    lower, upper = torch.as_tensor(bounds.sides)
    width = upper - lower
    # Near a bound, the slope of an activation vanishes.
    margin = 0.1 / width.clamp(min=1.0)
    place = -lower / width.clamp(min=torch.finfo(width.dtype).tiny)
    return torch.minimum(place.clamp(min=margin), 1 - margin)


def starting_input(function: str, bounds: Bounds) -> Tensor:
    """Input of the output activation at which the output is 0, the scaled mean.

    Parameters
    ----------
    function : {"softplus", "exp", "relu", "square"}
    bounds : Bounds
        In scaled units.

    Returns
    -------
    torch.Tensor of shape (n_outputs,)
        float64; finite even if 0 is on a bound or outside.
    """
    lower, upper = torch.as_tensor(bounds.sides)
    inside = torch.logit(_place_of_mean(bounds)) / starting_gain(bounds)
    has_upper = torch.isfinite(upper)
    _, inverse = output_activation(function)
    start = inverse(torch.where(has_upper, upper, -lower).clamp(min=0.1))
    beyond = torch.where(has_upper, -start, start)
    one_sided = torch.where(torch.as_tensor(bounds.bounded), beyond, 0.0)
    return torch.where(torch.as_tensor(bounds.two_sided), inside, one_sided)


def _layout(
    lower: Tensor, upper: Tensor, shift: Tensor, scale: Tensor, gain: Tensor
) -> dict[str, Tensor]:
    """Buffers of an output ``offset + sign * scale * function(gain * z)``.

    None is infinite, because training takes an infinite number for a divergence.
    """
    has_lower, has_upper = torch.isfinite(lower), torch.isfinite(upper)
    both = has_lower & has_upper
    mirrored = has_upper & ~has_lower
    nearer = torch.where(has_lower, lower, torch.where(has_upper, upper, shift))
    sign = torch.where(mirrored, -torch.ones_like(lower), 1.0)
    return {
        "one_sided": has_lower ^ has_upper,
        "two_sided": both,
        "offset": nearer,
        "scale": torch.where(both, _width(lower, upper), scale),
        "sign": sign,
        "gain": sign * gain,
    }


def _width(lower: Tensor, upper: Tensor) -> Tensor:
    """Largest width such that ``lower + width`` is not rounded to above upper."""
    width = upper - lower
    while (above := lower + width > upper).any():
        width = torch.where(
            above, torch.nextafter(width, torch.zeros_like(width)), width
        )
    return width
