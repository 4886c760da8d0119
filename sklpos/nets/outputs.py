"""A module behind an output activation."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sklpos.nets.bounds import Bounds
from sklpos.nets.order import running_max
from sklpos.nets.output_functions import OUTPUT_ACTIVATIONS, output_activation

# Distance from a bound, in deviations of y.
_INSIDE = 1e-3


# Outputs with both bounds have a function of their own, which cannot be chosen.
_FORWARD = {name: act for name, (act, _) in OUTPUT_ACTIVATIONS.items()}
_FORWARD["sigmoid"] = torch.sigmoid


class BoundedOutput(nn.Module):
    """A module behind an output activation, which keeps its outputs within bounds.

    With ``z`` the output of the module, times the gain, an output is

    - ``lower + scale * act(z)`` with a lower bound,
    - ``upper - scale * act(-z)`` with an upper bound,
    - ``lower + (upper - lower) * sigmoid(z)`` with both, whatever the activation,
    - ``shift + scale * z`` without bounds.

    It is within its bounds in its own dtype, without a tolerance. In an order, an
    output that is less than the one before is replaced by that.

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

    # Files of earlier versions do not have it.
    n_ordered: int = 1

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
        self.n_ordered = bounds.n_ordered
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
        output = self.activate(self.module(X))
        if self.n_ordered == 1:
            return output
        return running_max(output, self.n_ordered)

    def activate(self, z: Tensor) -> Tensor:
        """Outputs for what the module yields, each on its own.

        Parameters
        ----------
        z : torch.Tensor of shape (..., n_outputs)

        Returns
        -------
        torch.Tensor of the same shape
        """
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
    place = _place_of(torch.zeros(()), bounds)
    slope = width * place * (1 - place)
    return torch.where(width.isfinite(), 1 / slope.clamp(min=1.0), 1.0)


def _place_of(mean: Tensor, bounds: Bounds) -> Tensor:
    """Where a mean lies between both bounds, from 0 to 1."""
    lower, upper = torch.as_tensor(bounds.sides)
    width = upper - lower
    # Near a bound, the slope of an activation vanishes.
    margin = 0.1 / width.clamp(min=1.0)
    place = (mean - lower) / width.clamp(min=torch.finfo(width.dtype).tiny)
    return torch.minimum(place.clamp(min=margin), 1 - margin)


def starting_input(function: str, bounds: Bounds, mean: Tensor) -> Tensor:
    """Input of the output activation at which the output is the mean of the targets.

    Parameters
    ----------
    function : {"softplus", "exp", "relu", "square"}
    bounds : Bounds
        In scaled units.
    mean : torch.Tensor of shape (n_outputs,)
        In scaled units.

    Returns
    -------
    torch.Tensor of shape (n_outputs,)
        float64; finite even if the mean is on a bound or outside.
    """
    lower, upper = torch.as_tensor(bounds.sides)
    mean = mean.to(lower)
    inside = torch.logit(_place_of(mean, bounds)) / starting_gain(bounds)
    has_upper = torch.isfinite(upper)
    _, inverse = output_activation(function)
    distance = torch.where(has_upper, upper - mean, mean - lower)
    start = inverse(distance.clamp(min=0.1))
    beyond = torch.where(has_upper, -start, start)
    one_sided = torch.where(torch.as_tensor(bounds.bounded), beyond, mean)
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
