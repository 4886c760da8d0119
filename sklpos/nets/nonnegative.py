"""Linear layers whose outputs cannot leave their bounds, whatever their features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sklpos.nets.blocks import Blocks
from sklpos.nets.bounds import Bounds


class NonnegativeLinear(nn.Linear):
    """Linear layer whose bounded outputs cannot leave their bounds.

    The features are at least 0; for an output with both bounds they are also at most 1.
    With weights ``W`` and bias ``b``, an output is

    - ``lower + (|W| h + |b|)`` with a lower bound,
    - ``upper - (|W| h + |b|)`` with an upper bound,
    - ``lower + (|W| h + |b|) * min(1, (upper - lower) / (sum |W| + |b|))`` with both,
    - ``W h + b`` without bounds.

    Without a bias, 0 takes the place of the bound that a cone starts from, and an
    output with both bounds turns to the one that is further from 0.

    A subclass and not a parametrization, because torch cannot pickle those.

    Parameters
    ----------
    linear : nn.Linear
        The layer to start from: with its absolute weights, and its bias clipped to
        the bounds.
    bounds : Bounds
        Of the outputs.

    Raises
    ------
    ValueError
        If there is no bias, and an output of 0 is outside the bounds.

    Examples
    --------
    >>> linear = nn.Linear(1, 1)
    >>> _ = nn.init.constant_(linear.weight, -6.0), nn.init.constant_(linear.bias, 3.0)
    >>> layer = NonnegativeLinear(linear, Bounds.read(1.0, 5.0, n_outputs=1))
    >>> layer(torch.tensor([[0.0], [0.5], [1.0]])).ravel().tolist()
    [2.0, 3.5, 5.0]
    """

    def __init__(self, linear: nn.Linear, bounds: Bounds):
        has_bias = linear.bias is not None
        super().__init__(linear.in_features, linear.out_features, bias=has_bias)
        self.to(linear.weight)
        if not has_bias:
            _check_contains_zero(bounds)
        rounded = bounds.in_dtype(linear.weight.dtype)
        lower, upper = torch.as_tensor(rounded.sides).to(linear.weight)
        for name, value in _cones(lower, upper, has_bias=has_bias).items():
            self.register_buffer(name, value)
        self._note_kinds()
        self._start_from(linear)

    def _note_kinds(self) -> None:
        # Python flags, as reading them from tensors would wait for the device.
        self.all_bounded = bool(self.bounded.all())
        self.has_two_sided = bool(self.two_sided.any())
        self.only_rises = bool((self.sign == 1).all())

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        # Files of the first version have no flags.
        self._note_kinds()

    @torch.no_grad()
    def _start_from(self, linear: nn.Linear) -> None:
        # `effective` takes the absolute weights: clamping negative weights to 0 would
        # start with half of the features switched off.
        self.weight.copy_(linear.weight)
        if linear.bias is not None:
            # |b| has no gradient at 0, so it starts a little inside the bound.
            inside = (self.sign * (linear.bias - self.offset)).clamp(min=1e-2)
            self.bias.copy_(torch.where(self.bounded, inside, linear.bias))

    def reset_parameters(self) -> None:
        """Leave the parameters alone, and torch's global generator with them."""

    @property
    def keeps_one_side(self) -> bool:
        """Whether each output has one bound."""
        return bool((self.bounded & ~self.two_sided).all())

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the plain layer that computes the same."""
        weight = self.weight.abs()
        bias = None if self.bias is None else self.bias.abs()
        gain = self._gain(weight, bias)
        if gain is not None:
            weight = gain[:, None] * weight
            bias = None if bias is None else gain * bias
        bias = None if bias is None else self.offset + bias
        if self.all_bounded:
            return weight, bias
        weight = torch.where(self.bounded[:, None], weight, self.weight)
        if bias is not None:
            bias = torch.where(self.bounded, bias, self.bias)
        return weight, bias

    def pull_back(
        self, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Gradients of the parameters, from those of the effective layer.

        Parameters
        ----------
        weight : torch.Tensor of shape (out_features, in_features)
        bias : torch.Tensor of shape (out_features,) or None

        Returns
        -------
        tuple of (torch.Tensor, torch.Tensor or None)
            The same numbers as those of autograd.
        """
        if self.has_two_sided:
            # The factor depends on all weights of an output.
            with torch.enable_grad():
                effective = self.effective()
            n_parts = 1 if bias is None else 2
            own = (self.weight, self.bias)[:n_parts]
            gradients = (weight, bias)[:n_parts]
            found = torch.autograd.grad(effective[:n_parts], own, gradients)
            return (*found, None)[:2]
        slope = self._slope(self.weight, self.sign[:, None], self.bounded[:, None])
        if bias is not None:
            bias = bias * self._slope(self.bias, self.sign, self.bounded)
        return weight * slope, bias

    def _slope(self, value: Tensor, sign: Tensor, bounded: Tensor) -> Tensor:
        slope = value.sgn()
        if not self.only_rises:
            slope = sign * slope
        return slope if self.all_bounded else torch.where(bounded, slope, 1.0)

    def _gain(self, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """Sign of each cone, times the factor that keeps it below its other end."""
        if not self.has_two_sided:
            return None if self.only_rises else self.sign
        total = weight.sum(dim=1) if bias is None else weight.sum(dim=1) + bias
        # Not `width / total`, which is infinite where all weights are 0. The smallest
        # number is for a width of 0.
        largest = torch.maximum(total, self.width).clamp(
            min=torch.finfo(total.dtype).tiny
        )
        return self.sign * torch.where(self.two_sided, self.width / largest, 1.0)

    def forward(self, features: Tensor) -> Tensor:
        """Apply the effective layer."""
        return nn.functional.linear(features, *self.effective())

    def plain(self) -> nn.Linear:
        """Make the plain ``nn.Linear`` that computes the same, but for rounding."""
        weight, bias = self.effective()
        # The usual constructor would draw from torch's global generator.
        linear = nn.utils.skip_init(
            nn.Linear,
            self.in_features,
            self.out_features,
            bias=bias is not None,
            dtype=weight.dtype,
            device=weight.device,
        )
        linear.weight.data.copy_(weight)
        if bias is not None:
            linear.bias.data.copy_(bias)
        return linear


class NonnegativeBlocks(NonnegativeLinear):
    """Layers of equal size, each over its own block of the features.

    The members of a `Stack` have one head each; this is all of them at once.

    Parameters
    ----------
    linear : nn.Linear
        Its rows are the outputs of the first block, then those of the second, and so
        on; its ``in_features`` is the width of one block.
    bounds : Bounds
        Of the outputs of all blocks.
    n_blocks : int

    Examples
    --------
    >>> linear = nn.Linear(1, 2)
    >>> _ = nn.init.ones_(linear.weight), nn.init.ones_(linear.bias)
    >>> layer = NonnegativeBlocks(linear, Bounds.read(0.0, None, 2), n_blocks=2)
    >>> layer(torch.tensor([[1.0, 3.0]])).tolist()
    [[2.0, 4.0]]
    """

    def __init__(self, linear: nn.Linear, bounds: Bounds, n_blocks: int):
        super().__init__(linear, bounds)
        self.n_blocks = n_blocks

    def forward(self, features: Tensor) -> Tensor:
        """Map (n_samples, n_blocks * width) to (n_samples, n_blocks * n_outputs)."""
        weight, bias = self.effective()
        return Blocks(weight, self.n_blocks)(features, bias)


def _cones(lower: Tensor, upper: Tensor, *, has_bias: bool) -> dict[str, Tensor]:
    """Where the cone of each output starts, which way it opens, and how far it goes.

    No number is infinite, because training takes that for a divergence.
    """
    bounded = torch.isfinite(lower) | torch.isfinite(upper)
    two_sided = torch.isfinite(lower) & torch.isfinite(upper)
    rises = torch.isfinite(lower) & (has_bias | (upper >= -lower))
    start = torch.where(rises, lower, upper) if has_bias else torch.zeros_like(lower)
    end = torch.where(rises, upper, lower)
    return {
        "bounded": bounded,
        "two_sided": two_sided,
        "offset": torch.where(bounded, start, 0.0),
        "sign": torch.where(rises | ~bounded, 1.0, -torch.ones_like(lower)),
        "width": torch.where(two_sided, (end - start).abs(), 1.0),
    }


@torch.no_grad()
def keep_within(linear: nn.Linear, bounds: Bounds) -> None:
    """Clip the bias and shrink weights until rounding cannot break a bound, in place.

    Weights that move an output towards a bound keep a reserve for the rounding of the
    sum, in any order: ``b + sum(w) <= upper - (k + 2) * eps * (|b| + sum |w|)`` for k
    features in [0, 1]. Terms of one sign need none to stay on their side of the bias,
    so an output whose weights move it away from its only bound is left as it is.

    Parameters
    ----------
    linear : nn.Linear
        Over features in [0, 1], or over non-negative ones where all weights of an
        output move it away from its only bound.
    bounds : Bounds
        Unit of the output.

    Raises
    ------
    ValueError
        If two bounds are so close that the reserve takes all of their distance.
    """
    dtype = linear.weight.dtype
    unit = (linear.in_features + 2) * torch.finfo(dtype).eps
    _check_far_apart(bounds, unit, dtype)
    bounds = bounds.in_dtype(dtype)
    lower, upper = torch.as_tensor(bounds.sides)
    # To the CPU before float64, which some accelerators do not have.
    weight = linear.weight.cpu().double()
    bias = torch.zeros_like(lower)
    if linear.bias is not None:
        bias = linear.bias.cpu().double().clamp(lower, upper)
        linear.bias.copy_(bias)
    reserve = unit * (bias.abs() + weight.abs().sum(dim=1))
    up = _largest_share(upper - bias - reserve, weight.clamp(min=0))
    down = _largest_share(bias - lower - reserve, -weight.clamp(max=0))
    linear.weight.copy_(torch.where(weight > 0, up, down) * weight)


def _largest_share(room: Tensor, weight: Tensor) -> Tensor:
    """Largest factor, at most 1, for which weights sum up to the room at most."""
    total = weight.sum(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)
    return (room / total).clamp(0, 1)[:, None]


def _check_far_apart(bounds: Bounds, unit: float, dtype: torch.dtype) -> None:
    distance = bounds.upper - bounds.lower
    # Equal bounds are meant to leave a constant.
    close = (distance > 0) & (unit * bounds.size >= distance)
    if close.any():
        lower, upper = bounds.sides[:, close][:, 0]
        raise ValueError(
            f"strategy='nonnegative_weights' has no room between lower_bound={lower} "
            f"and upper_bound={upper}, too close for the rounding of {dtype}; use "
            "dtype='float64' or subtract a constant from y and its bounds."
        )


def _check_contains_zero(bounds: Bounds) -> None:
    if (bounds.lower > 0).any() or (bounds.upper < 0).any():
        raise ValueError(
            "strategy='nonnegative_weights' with a head without bias requires "
            "lower_bound <= 0 <= upper_bound, because its output can be 0; give the "
            "head a bias or move the bounds."
        )
