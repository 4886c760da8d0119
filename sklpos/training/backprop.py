"""Backpropagation through plain layers: what autograd computes, without its graph.

In a small net the bookkeeping of autograd takes longer than the arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sklpos.nets.modules import MLP

_ATEN = torch.ops.aten

# Gradient of the loss with respect to what enters a layer, from that of its output.
_BACKWARD = {
    nn.Linear: lambda layer, gradient, output: gradient @ layer.weight,
    nn.Identity: lambda layer, gradient, output: gradient,
    nn.ReLU: lambda layer, gradient, output: _ATEN.threshold_backward.default(
        gradient, output, 0
    ),
    nn.Tanh: lambda layer, gradient, output: _ATEN.tanh_backward.default(
        gradient, output
    ),
    nn.Sigmoid: lambda layer, gradient, output: _ATEN.sigmoid_backward.default(
        gradient, output
    ),
}
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class Backprop:
    """Forward and backward pass through a row of plain layers.

    Outputs and gradients are those of autograd, bit for bit: the kernels are the same.

    Parameters
    ----------
    layers : list of nn.Module
        Linear layers, ReLU, tanh, sigmoid and identity, first one first.

    References
    ----------
    .. [1] D. E. Rumelhart, G. E. Hinton, R. J. Williams (1986), "Learning
       representations by back-propagating errors", doi:10.1038/323533a0.

    Examples
    --------
    >>> layer = nn.Linear(2, 1)
    >>> passes = Backprop.of(layer)
    >>> output = passes.forward(torch.tensor([[1.0, 2.0]]))
    >>> passes.backward(torch.ones_like(output))
    >>> layer.weight.grad
    tensor([[1., 2.]])
    """

    def __init__(self, layers: list[nn.Module]):
        self.layers = layers

    @classmethod
    def of(cls, module: nn.Module) -> Backprop | None:
        """Return the passes of a module, None unless it is plain and nobody watches it.

        Parameters
        ----------
        module : nn.Module
            An `MLP` or ``nn.Sequential``, without hooks, all of whose weights train.
        """
        layers = _in_a_row(module)
        known = all(type(layer) in _BACKWARD for layer in layers)
        return cls(layers) if known and not _is_watched(module) else None

    @torch.no_grad()
    def forward(self, X: Tensor) -> Tensor:
        """Map (n_samples, n_features) to the outputs; keeps what `backward` needs."""
        self._values = [X]
        for layer in self.layers:
            self._values.append(layer.forward(self._values[-1]))
        return self._values[-1]

    @torch.no_grad()
    def backward(self, gradient: Tensor) -> None:
        """Add to the ``grad`` of all weights.

        Parameters
        ----------
        gradient : torch.Tensor
            Of the loss, with respect to the outputs.
        """
        *inputs, output = self._values
        for layer, source in zip(self.layers[::-1], inputs[::-1], strict=True):
            if type(layer) is nn.Linear:
                _accumulate(layer.weight, gradient.t() @ source)
                _accumulate(layer.bias, gradient.sum(0))
            if source is not inputs[0]:
                gradient = _BACKWARD[type(layer)](layer, gradient, output)
            output = source


def _in_a_row(module: nn.Module) -> list[nn.Module]:
    if type(module) is MLP:
        return [*_in_a_row(module.features), module.head]
    if type(module) is nn.Sequential:
        return [layer for part in module for layer in _in_a_row(part)]
    return [module]


def _is_watched(module: nn.Module) -> bool:
    """Whether something else happens in a pass, or to a gradient."""
    of_all = any(getattr(nn.modules.module, f"_global{hooks}") for hooks in _HOOKS)
    if of_all or torch.is_autocast_enabled("cpu"):
        return True
    if any(vars(part)[hooks] for part in module.modules() for hooks in _HOOKS):
        return True
    return any(
        not weight.requires_grad
        or weight._backward_hooks
        or weight._post_accumulate_grad_hooks
        for weight in module.parameters()
    )


def _accumulate(weight: Tensor | None, gradient: Tensor) -> None:
    if weight is not None:
        weight.grad = gradient if weight.grad is None else weight.grad + gradient
