"""Strategies that are part of the module, so that the bound holds for every input."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from sklpos.nets.bounds import Bounds
from sklpos.nets.head import check_features, replace_layer
from sklpos.nets.nonnegative import NonnegativeLinear
from sklpos.nets.output_change import change_output, inverse_of, is_stuck
from sklpos.nets.outputs import BoundedOutput, starting_gain, starting_input
from sklpos.nets.stack import Stack
from sklpos.nets.unit_change import UnitChange, change_heads
from sklpos.nets.within import keep_within
from sklpos.strategies.base import ConstraintStrategy


class Architecture(ConstraintStrategy):
    """Base class of strategies that are part of the module: there is no term.

    The module is changed once before training and once after it.
    """

    # The bound holds by construction, so there are no multipliers to move.
    uses_alpha = False
    needs_dual_step = False

    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """Zeros, because the bound cannot be violated."""
        return torch.zeros_like(violation)

    def term_and_slope(self, violation: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros."""
        zero = torch.zeros_like(violation)
        return zero, zero

    @abstractmethod
    def wrap(
        self, module: nn.Module, head: str | None, *, X: Tensor, bounds: Bounds
    ) -> nn.Module:
        """Change the module before training; called once.

        Parameters
        ----------
        module : nn.Module
            The net, in scaled units.
        head : str or None
            Dotted name of its last ``nn.Linear``.
        X : torch.Tensor of shape (1, n_features)
            Any row, used to inspect the module.
        bounds : Bounds
            In scaled units.

        Returns
        -------
        nn.Module
            The module to train.
        """

    def change_unit(
        self, module: nn.Module, head: str | None, change: UnitChange, X: Tensor
    ) -> None:
        """Let the trained module compute the same in another unit, in place.

        Parameters
        ----------
        module : nn.Module
            In eval mode.
        head : str or None
            Dotted name of its last ``nn.Linear``; None for a `Stack`.
        change : UnitChange
            Of the outputs of the module.
        X : torch.Tensor of shape (n_rows, n_features)
            Some training rows.
        """
        change_heads(module, head, change)

    def initial_bias(self, bounds: Bounds, mean: Tensor) -> Tensor:
        """Bias of the head at which the fit of a new module starts.

        Parameters
        ----------
        bounds : Bounds
            In scaled units.
        mean : torch.Tensor of shape (n_outputs,)
            Mean of the targets, in scaled units: 0 unless they keep their own unit.

        Returns
        -------
        torch.Tensor of shape (n_outputs,)
            By default the mean.
        """
        return mean

    @abstractmethod
    def finalize(self, module: nn.Module, head: str | None, targets) -> nn.Module:
        """Turn a copy of the trained module into the product, in the unit of y.

        Parameters
        ----------
        module : nn.Module
            Copy of the trained module; may be changed in place.
        head : str or None
            Dotted name of its last ``nn.Linear``.
        targets : sklpos.nets.units.TargetScale
            The scaling to fold into the module.

        Returns
        -------
        nn.Module
        """


class NonnegativeWeights(Architecture):
    """Head weights of one sign, over features of one sign: bounded by construction.

    While it trains, the head computes ``lower_bound + |V| h + |v|`` over features
    ``h`` that cannot be negative, or ``upper_bound - |V| h - |v|``. With both bounds,
    the features are in [0, 1] (``nn.Hardtanh(0, 1)``, ``nn.Sigmoid`` or
    ``nn.Hardsigmoid``), and weights and bias are scaled down so that their sum does
    not exceed ``upper_bound``. Several quantiles of a target are in their order, for
    every input. Afterwards the head is a plain ``nn.Linear``.
    ``alpha`` is not used. `Stack` is made for such heads; its hidden units become
    ``nn.Hardtanh(0, 1)`` by themselves where an output has both bounds.

    Notes
    -----
    In an ordinary net such as `MLP`, the sign of the weights restricts the model: with
    one hidden layer of ReLU units it is convex in the inputs, and it needs more epochs
    than with the other strategies. With both bounds, the sum of the weights restricts
    it as well: it cannot rise from one bound to the other and fall again. Two hidden
    layers can, and ``nn.Hardtanh(0, 1)`` learns much faster than a sigmoid: on a
    smooth function of five features, cut off at 0 and 1, the test R2 of an `MLP` was
    0.73 with one hidden layer of 100 units and 0.98 with two, against 0.80 with
    sigmoids.

    References
    ----------
    .. [1] N. P. Archer, S. Wang (1993), "Application of the back propagation neural
       network algorithm with monotonicity constraints",
       doi:10.1111/j.1540-5915.1993.tb00462.x.

    Examples
    --------
    >>> NonnegativeWeights().guarantee
    'everywhere'
    """

    guarantee = "everywhere"
    keeps_signs = True
    keeps_order = True

    def wrap(
        self, module: nn.Module, head: str | None, *, X: Tensor, bounds: Bounds
    ) -> nn.Module:
        """Replace the head; refuse features outside the range that the bounds need."""
        if isinstance(module, Stack):
            return module.hold(bounds)
        check_features(module, head, X, at_most_one=bool(bounds.two_sided.any()))
        linear = module.get_submodule(head)
        return replace_layer(module, head, NonnegativeLinear(linear, bounds))

    def finalize(self, module: nn.Module, head: str | None, targets) -> nn.Module:
        """Put a plain layer back, fold, and undo what rounding did to the bounds."""
        linear = module.get_submodule(head)
        # The heads of a `Stack` are plain by now, as it has been mixed into one net.
        if isinstance(linear, NonnegativeLinear):
            linear = linear.plain()
            module = replace_layer(module, head, linear)
        targets.fold(linear)
        keep_within(linear, targets.bounds)
        return module


class Activation(Architecture):
    """Output activation: ``lower_bound + scale * act(z)``, or its mirror image.

    It is ``upper_bound - scale * act(-z)`` with an upper bound alone, the scaled
    sigmoid ``lower_bound + (upper_bound - lower_bound) * sigmoid(gain * z)`` with both,
    and the identity without bounds. The gain keeps the slope at the mean of y at 1
    standard deviation of y or less, so that bounds may be far away. The head is no
    longer the last layer: an exported model ends in the activation. Quantiles of one
    target are at least the one before, by their running maximum. ``alpha`` is not used.

    Parameters
    ----------
    function : {"softplus", "exp", "relu", "square"}, default="softplus"
        The activation ``act``; outputs with both bounds do not use it.

    References
    ----------
    .. [1] C. Dugas et al. (2001), "Incorporating second-order functional knowledge
       for better option pricing", Advances in Neural Information Processing
       Systems 13.

    Examples
    --------
    >>> Activation(function="exp").guarantee
    'everywhere'
    """

    guarantee = "everywhere"
    keeps_order = True
    needs_head = False
    # In another unit the head cannot compute quite the same, see `change_unit`.
    unit_tolerance = 10.0

    def __init__(self, function: str = "softplus"):
        self.function = function

    def wrap(
        self, module: nn.Module, head: str | None, *, X: Tensor, bounds: Bounds
    ) -> nn.Module:
        """Put the activation behind the module, or behind each member of a `Stack`."""
        gain = starting_gain(bounds)
        if isinstance(module, Stack):
            # Of its dtype and on its device, but without the members.
            output = BoundedOutput(module, self.function, bounds, gain=gain)
            output.module = nn.Identity()
            module.output = output
            return module
        return BoundedOutput(module, self.function, bounds, gain=gain)

    def initial_bias(self, bounds: Bounds, mean: Tensor) -> Tensor:
        """Input of the activation at which the output is the scaled mean."""
        return starting_input(self.function, bounds, mean)

    @torch.no_grad()
    def change_unit(
        self, module: nn.Module, head: str | None, change: UnitChange, X: Tensor
    ) -> None:
        """Change the activation, and the head so that predictions stay.

        With ``"softplus"`` they stay exactly at two points only, a deviation above and
        below the mean of what enters it. Without a head they are not kept, and with one
        they begin at the mean of y again if they are at a bound in the new unit.
        """
        is_stack = isinstance(module, Stack)
        output = module.output if is_stack else module
        n_copies = module.n_members if is_stack else 1
        points = self._points((module.heads if is_stack else module.module)(X))
        apart = points.unflatten(1, (n_copies, -1))
        gain, offset = change.tensors(points)
        kept = gain * output.activate(apart).flatten(1) + offset
        bounds = change.split(n_copies)[0].bounds
        change_output(output, bounds, starting_gain(bounds))
        kept = kept.unflatten(1, (n_copies, -1))
        low, high = inverse_of(output, kept).flatten(1)
        slope = (high - low) / (points[1] - points[0])
        middle = (low + high) / 2
        # Without a slope of the activation, training would stay where it is.
        stuck = is_stuck(output, kept).all(0).flatten()
        mean = self.initial_bias(bounds, torch.zeros(len(bounds))).to(points)
        slope = torch.where(stuck, 1.0, slope)
        middle = torch.where(stuck, mean.repeat(n_copies), middle)
        start = middle - slope * points.mean(0)
        inf = np.full(len(change.bounds), np.inf)
        free = Bounds(-inf, inf)
        entering = UnitChange(
            *(part.cpu().double().numpy() for part in (slope, start)), free, free
        )
        if is_stack or head is not None:
            change_heads(module if is_stack else module.module, head, entering)

    def _points(self, entering: Tensor) -> Tensor:
        """Two inputs of the activation of each output, at which it is not constant."""
        if self.function in ("relu", "square"):
            # They are homogeneous: a factor of the input is one of the output.
            one = torch.ones_like(entering[:1])
            return torch.cat([one, 2 * one])
        mean, spread = entering.mean(dim=0), entering.std(dim=0, correction=0)
        spread = spread.clamp(min=1e-3)
        return torch.stack([mean - spread, mean + spread])

    def finalize(self, module: nn.Module, head: str | None, targets) -> nn.Module:
        """Give the output the unit of y; only free outputs can take the shift."""
        # A `Stack` has been mixed into one net by now, without an activation.
        inner = module.module if isinstance(module, BoundedOutput) else module
        # Nothing can be folded into the head, whose output enters the activation.
        return BoundedOutput(
            inner,
            self.function,
            targets.bounds,
            shift=targets.shift,
            scale=targets.scale,
            gain=starting_gain(targets.scaled_bounds),
        )
