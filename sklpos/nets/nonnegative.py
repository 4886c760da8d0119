"""Linear layers whose outputs cannot leave their bounds, whatever their features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sklpos.nets.blocks import Blocks
from sklpos.nets.bounds import Bounds
from sklpos.nets.cones import LEAST_START, check_contains_zero, cones
from sklpos.nets.order import accumulate, differences, largest_in_group


class NonnegativeLinear(nn.Linear):
    """Linear layer whose bounded outputs cannot leave their bounds.

    The features are at least 0; for an output with both bounds they are also at most 1.
    With weights ``W`` and bias ``b``, an output is

    - ``lower + (|W| h + |b|)`` with a lower bound,
    - ``upper - (|W| h + |b|)`` with an upper bound,
    - ``lower + (|W| h + |b|) * min(1, (upper - lower) / (sum |W| + |b|))`` with both,
    - ``W h + b`` without bounds.

    Of outputs in an order, each is the one before plus ``|W| h + |b|``; the last one
    carries the upper bound, from which they go down if it is the only one.

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
        like = {"dtype": linear.weight.dtype, "device": linear.weight.device}
        super().__init__(linear.in_features, linear.out_features, bias=has_bias, **like)
        if not has_bias:
            check_contains_zero(bounds)
        self.n_ordered = bounds.n_ordered
        for name, value in self.cones(bounds).items():
            self.register_buffer(name, value)
        self._note_kinds()
        self.start_from(linear)

    def cones(self, bounds: Bounds) -> dict[str, Tensor]:
        """Buffers for bounds of the outputs.

        Parameters
        ----------
        bounds : Bounds

        Returns
        -------
        dict
        """
        rounded = bounds.in_dtype(self.weight.dtype)
        lower, upper = torch.as_tensor(rounded.sides).to(self.weight)
        has_bias = self.bias is not None
        return cones(lower, upper, self.n_ordered, has_bias=has_bias)

    def _note_kinds(self) -> None:
        # Python flags, as reading them from tensors would wait for the device.
        self.all_bounded = bool(self.bounded.all())
        self.has_two_sided = bool(self.two_sided.any())
        self.only_rises = bool((self.sign == 1).all())

    def __setstate__(self, state: dict) -> None:
        # Files of earlier versions have neither an order nor flags.
        super().__setstate__({"n_ordered": 1, **state})
        if "all_bounded" not in state:
            self._note_kinds()

    @torch.no_grad()
    def start_from(self, linear: nn.Linear) -> None:
        """Take the weights of another layer, as they are made from one.

        Parameters
        ----------
        linear : nn.Linear
        """
        # `effective` takes the absolute weights: clamping negative weights to 0 would
        # start with half of the features switched off.
        self.weight.copy_(self.steps(linear.weight))
        if linear.bias is not None:
            steps = self.steps(self.sign * (linear.bias - self.offset))
            inside = steps.clamp(min=LEAST_START)
            self.bias.copy_(torch.where(self.bounded, inside, steps))

    def steps(self, values: Tensor) -> Tensor:
        """What outputs in an order add to the one before.

        Parameters
        ----------
        values : torch.Tensor of shape (out_features, ...)

        Returns
        -------
        torch.Tensor of the same shape
        """
        if self.n_ordered == 1:
            return values
        return differences(values, self.n_ordered, falls=not self.only_rises)

    def _sums(self, steps: Tensor, *, back: bool = False) -> Tensor:
        """Sums of steps, or the gradients of steps from those of their sums."""
        if self.n_ordered == 1:
            return steps
        falls = not self.only_rises
        return accumulate(steps, self.n_ordered, falls=falls != back)

    def reset_parameters(self) -> None:
        """Leave the parameters alone, and torch's global generator with them."""

    @property
    def keeps_one_side(self) -> bool:
        """Whether each output has one bound."""
        return bool((self.bounded & ~self.two_sided).all())

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the plain layer that computes the same."""
        weight = self._cone(self.weight, self.bounded[:, None])
        bias = None if self.bias is None else self._cone(self.bias, self.bounded)
        gain = self._gain(weight, bias)
        if gain is not None:
            weight = gain[:, None] * weight
            bias = None if bias is None else gain * bias
        return weight, None if bias is None else self.offset + bias

    def _cone(self, value: Tensor, bounded: Tensor) -> Tensor:
        """Weights or biases of one sign, where they have to be."""
        size = value.abs()
        if not self.all_bounded:
            size = torch.where(bounded, size, value)
        return self._sums(size)

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
            own = self._slope(self.bias, self.sign, self.bounded)
            bias = self._sums(bias, back=True) * own
        return self._sums(weight, back=True) * slope, bias

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
        if self.n_ordered > 1:
            total = largest_in_group(total, self.n_ordered)
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
