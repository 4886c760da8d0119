"""Strategies that are part of the module, so that the bound holds for every input."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from sklpos.nets.head import check_nonnegative_features, replace_layer
from sklpos.nets.outputs import BoundedOutput, output_activation
from sklpos.strategies.base import ConstraintStrategy


class Architecture(ConstraintStrategy):
    """Base class of strategies that are part of the module: there is no term.

    The module is changed once before training and once after it.
    """

    # The bound holds by construction, so there are no multipliers to move.
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
        self, module: nn.Module, head: str | None, *, X: Tensor, lower_bound: Tensor
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
        lower_bound : torch.Tensor of shape (n_outputs,)
            Bound in scaled units; ``-inf`` leaves an output free.

        Returns
        -------
        nn.Module
            The module to train.
        """

    def initial_bias(self, lower_bound: Tensor) -> Tensor:
        """Bias of the head at which the fit of a new module starts.

        Parameters
        ----------
        lower_bound : torch.Tensor of shape (n_outputs,)
            Bound in scaled units.

        Returns
        -------
        torch.Tensor of shape (n_outputs,)
            By default 0, the scaled mean of the targets.
        """
        return torch.zeros_like(lower_bound)

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


class NonnegativeLinear(nn.Linear):
    """Linear layer whose bounded outputs cannot fall below their bound.

    It computes ``|W| h + offset + |b|`` in the bounded outputs and ``W h + b`` in the
    free ones.

    A subclass and not a parametrization, because torch cannot pickle those.

    Parameters
    ----------
    linear : nn.Linear
        The layer to start from: with its absolute weights, and its bias clipped to
        the bound.
    lower_bound : torch.Tensor of shape (n_outputs,)
        Bound of the output; ``-inf`` leaves it free.
    """

    def __init__(self, linear: nn.Linear, lower_bound: Tensor):
        has_bias = linear.bias is not None
        super().__init__(linear.in_features, linear.out_features, bias=has_bias)
        self.to(linear.weight)
        self.register_buffer("bounded", torch.isfinite(lower_bound))
        self.register_buffer("offset", torch.where(self.bounded, lower_bound, 0.0))
        with torch.no_grad():
            # `effective` takes the absolute weights: clamping negative weights to 0
            # would start with half of the features switched off.
            self.weight.copy_(linear.weight)
            if has_bias:
                # |b| has no gradient at 0, so it starts a little above the bound.
                lifted = (linear.bias - self.offset).clamp(min=1e-2)
                self.bias.copy_(torch.where(self.bounded, lifted, linear.bias))

    def reset_parameters(self) -> None:
        """Leave the parameters alone, and torch's global generator with them."""

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the plain layer that computes the same."""
        bounded = self.bounded[:, None]
        weight = torch.where(bounded, self.weight.abs(), self.weight)
        if self.bias is None:
            return weight, None
        lifted = self.offset + self.bias.abs()
        return weight, torch.where(self.bounded, lifted, self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Apply the effective layer."""
        return nn.functional.linear(features, *self.effective())

    def plain(self) -> nn.Linear:
        """Make the plain ``nn.Linear`` that computes the same."""
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


class NonnegativeWeights(Architecture):
    """Head weights >= 0 and bias >= lower_bound over features that cannot be negative.

    The head computes ``|V| h + lower_bound + |v|`` while it trains and is a plain
    ``nn.Linear`` afterwards. ``alpha`` is not used. The sign of the weights restricts
    the model, which needs more epochs than with the other strategies.

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

    def wrap(
        self, module: nn.Module, head: str | None, *, X: Tensor, lower_bound: Tensor
    ) -> nn.Module:
        """Replace the head; refuse features that can be negative."""
        check_nonnegative_features(module, head, X)
        linear = module.get_submodule(head)
        _check_bias_free_bound(linear, lower_bound)
        return replace_layer(module, head, NonnegativeLinear(linear, lower_bound))

    def finalize(self, module: nn.Module, head: str | None, targets) -> nn.Module:
        """Put a plain layer back, fold, and undo the rounding of the bias."""
        linear = module.get_submodule(head).plain()
        targets.fold(linear)
        if linear.bias is not None:
            # Folding rounds the bias, which may end a hair below the bound.
            bound = targets.bound_for(linear.bias)
            linear.bias.data.copy_(torch.maximum(linear.bias, bound))
        return replace_layer(module, head, linear)


def _check_bias_free_bound(linear: nn.Linear, lower_bound: Tensor) -> None:
    if linear.bias is None and bool((lower_bound > 0).any()):
        raise ValueError(
            "strategy='nonnegative_weights' with a head without bias requires "
            "lower_bound <= 0; give the head a bias or lower the bound."
        )


class Activation(Architecture):
    """Output activation ``lower_bound + scale * act(z)``; the identity where free.

    The head is no longer the last layer: an exported model ends in the activation.
    ``alpha`` is not used.

    Parameters
    ----------
    function : {"softplus", "exp", "relu", "square"}, default="softplus"
        The activation ``act``.

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
    needs_head = False

    def __init__(self, function: str = "softplus"):
        self.function = function

    def wrap(
        self, module: nn.Module, head: str | None, *, X: Tensor, lower_bound: Tensor
    ) -> nn.Module:
        """Put the activation behind the module."""
        return BoundedOutput(module, self.function, lower_bound)

    def initial_bias(self, lower_bound: Tensor) -> Tensor:
        """Value of ``act^-1`` at the scaled mean."""
        # The scaled mean is 0, so its distance to the bound is -lower_bound. The clamp
        # keeps the start finite if the mean is on the bound.
        above = torch.where(torch.isfinite(lower_bound), -lower_bound, 1.0)
        start = output_activation(self.function)[1](above.clamp(min=0.1))
        return torch.where(torch.isfinite(lower_bound), start, 0.0)

    def finalize(self, module: nn.Module, head: str | None, targets) -> nn.Module:
        """Give the output the unit of y; only free outputs can take the shift."""
        # Nothing can be folded into the head, whose output enters the activation.
        offset = targets.bound_for(module.offset)
        shift = torch.as_tensor(targets.shift).to(module.offset)
        module.offset.copy_(torch.where(module.bounded, offset, shift))
        module.scale.copy_(torch.as_tensor(targets.scale).to(module.scale))
        return module
