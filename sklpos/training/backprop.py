"""Forward and backward passes of small nets without a graph.

In a small net the bookkeeping of autograd takes longer than the arithmetic. Everything
here computes what torch computes, with the same kernels, bit for bit, and gives way to
torch where anything unusual is asked for. Measured on steps of nets 10-100-1 and
10-64-64-1: the backward pass is 1.2 to 1.3 times as fast.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sklpos.nets.any_rows import TensorRows
from sklpos.nets.modules import MLP
from sklpos.nets.precision import autocast_types

_ATEN = torch.ops.aten

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def _through_identity(layer: nn.Identity, gradient: Tensor, output: Tensor) -> Tensor:
    return gradient


def _through_relu(layer: nn.ReLU, gradient: Tensor, output: Tensor) -> Tensor:
    return _ATEN.threshold_backward.default(gradient, output, 0)


def _through_tanh(layer: nn.Tanh, gradient: Tensor, output: Tensor) -> Tensor:
    return _ATEN.tanh_backward.default(gradient, output)


def _through_sigmoid(layer: nn.Sigmoid, gradient: Tensor, output: Tensor) -> Tensor:
    return _ATEN.sigmoid_backward.default(gradient, output)


# Gradient of the loss with respect to what enters an activation, from that of its
# output.
_BACKWARD = {
    nn.Identity: _through_identity,
    nn.ReLU: _through_relu,
    nn.Tanh: _through_tanh,
    nn.Sigmoid: _through_sigmoid,
}
_KNOWN = {nn.Linear, *_BACKWARD}


class Backprop:
    """Forward and backward pass through a sequence of plain layers.

    Outputs and gradients are those of autograd, bit for bit: the kernels are the same.

    Parameters
    ----------
    layers : list of nn.Module
        Linear layers, ReLU, tanh, sigmoid and identity, in the order of the forward
        pass.

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
        # Kept, because looking them up in modules takes a noticeable part of a step.
        self.weights = [
            (layer.weight, layer.bias) if type(layer) is nn.Linear else (None, None)
            for layer in layers
        ]
        # The same numbers, of which autograd builds no graph.
        self.numbers = [tuple(map(_without_graph, pair)) for pair in self.weights]

    @classmethod
    def of(cls, module: nn.Module) -> Backprop | None:
        """Passes of a module, or None unless it is plain and has no hooks.

        Parameters
        ----------
        module : nn.Module
            An `MLP` or ``nn.Sequential``, without hooks, all of whose weights train.
        """
        layers = _in_a_row(module)
        # Exact types, because a subclass may compute something else.
        known = all(type(layer) in _KNOWN for layer in layers)
        return cls(layers) if known and not is_watched(module) else None

    def keep_rows(self, X: TensorRows) -> None:
        """Do nothing: these passes read the rows of a batch as they are.

        Parameters
        ----------
        X : torch.Tensor or SparseTensor of shape (n_samples, n_features)
        """

    def forward(self, X: Tensor, index: Tensor | None = None) -> Tensor:
        """Outputs for a batch; keeps what `backward` needs.

        Parameters
        ----------
        X : torch.Tensor of shape (batch, n_features)
        index : torch.Tensor of shape (batch,), optional
            Not used here.

        Returns
        -------
        torch.Tensor of shape (batch, n_outputs)
        """
        self._values = [X]
        for layer, (weight, bias) in zip(self.layers, self.numbers, strict=True):
            if weight is None:
                X = layer.forward(X)
            else:
                X = nn.functional.linear(X, weight, bias)
            self._values.append(X)
        return X

    def backward(self, gradient: Tensor) -> None:
        """Add to the ``grad`` of all weights.

        Parameters
        ----------
        gradient : torch.Tensor
            Of the loss, with respect to the outputs.
        """
        *inputs, output = self._values
        parts = self.layers[::-1], self.weights[::-1], inputs[::-1]
        for layer, (weight, bias), source in zip(*parts, strict=True):
            if weight is None:
                gradient = _BACKWARD[type(layer)](layer, gradient, output)
            else:
                accumulate(weight, torch.mm(gradient.t(), source))
                accumulate(bias, gradient.sum(0))
                # That with respect to X is not needed.
                if source is not inputs[0]:
                    gradient = torch.mm(gradient, weight.detach())
            output = source


def _in_a_row(module: nn.Module) -> list[nn.Module]:
    if type(module) is MLP:
        return [*_in_a_row(module.features), module.head]
    if type(module) is nn.Sequential:
        return [layer for part in module for layer in _in_a_row(part)]
    return [module]


def is_watched(module: nn.Module) -> bool:
    """Whether something else happens in a pass, or to a gradient.

    Parameters
    ----------
    module : nn.Module

    Returns
    -------
    bool
        True if there are hooks, if autocast is on, or if a weight does not train.
    """
    # Autocast would choose kernels of a lower precision.
    of_all = any(getattr(nn.modules.module, f"_global{hooks}") for hooks in _HOOKS)
    if of_all or autocast_types():
        return True
    return any(map(_is_part_watched, module.modules()))


def _is_part_watched(part: nn.Module) -> bool:
    own = vars(part)
    if any(own[hooks] for hooks in _HOOKS):
        return True
    return any(
        not weight.requires_grad
        or weight._backward_hooks
        or weight._post_accumulate_grad_hooks
        for weight in own["_parameters"].values()
        if weight is not None
    )


def _without_graph(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.detach()


def accumulate(weight: Tensor | None, gradient: Tensor) -> None:
    """Add to the gradient of a weight.

    Parameters
    ----------
    weight : torch.Tensor or None
        None for a bias that a layer does not have.
    gradient : torch.Tensor
        Of its shape.
    """
    if weight is not None:
        weight.grad = gradient if weight.grad is None else weight.grad + gradient
