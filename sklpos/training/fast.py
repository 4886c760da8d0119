"""Training steps of small nets without bookkeeping: backpropagation and Adam.

In a small net the bookkeeping of autograd and of the optimizer takes longer than the
arithmetic. Everything here computes what torch computes, with the same kernels, bit for
bit, and gives way to torch where anything unusual is asked for. Measured on steps of
nets 10-100-1 and 10-64-64-1: the backward pass is 1.2 to 1.3 times as fast, the step of
Adam 1.15 to 1.2 times, dropping the gradients 1.1 times.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
)

from sklpos.nets.modules import MLP

_ATEN = torch.ops.aten

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_KERNELS = {Adam: torch._fused_adam_, AdamW: torch._fused_adamw_}


def _through_linear(layer: nn.Linear, gradient: Tensor, output: Tensor) -> Tensor:
    return gradient @ layer.weight


def _through_identity(layer: nn.Identity, gradient: Tensor, output: Tensor) -> Tensor:
    return gradient


def _through_relu(layer: nn.ReLU, gradient: Tensor, output: Tensor) -> Tensor:
    return _ATEN.threshold_backward.default(gradient, output, 0)


def _through_tanh(layer: nn.Tanh, gradient: Tensor, output: Tensor) -> Tensor:
    return _ATEN.tanh_backward.default(gradient, output)


def _through_sigmoid(layer: nn.Sigmoid, gradient: Tensor, output: Tensor) -> Tensor:
    return _ATEN.sigmoid_backward.default(gradient, output)


# Gradient of the loss with respect to what enters a layer, from that of its output.
_BACKWARD = {
    nn.Linear: _through_linear,
    nn.Identity: _through_identity,
    nn.ReLU: _through_relu,
    nn.Tanh: _through_tanh,
    nn.Sigmoid: _through_sigmoid,
}


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
            # The gradient with respect to X is not needed.
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
    # Autocast would choose kernels of a lower precision.
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


def step_optimizer(optimizer: torch.optim.Optimizer, closure: Callable) -> None:
    """Make a step; for fused Adam and AdamW, call their kernel directly.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Its weights have one dtype and are on one device.
    closure : callable
        Computes the gradients.
    """
    if not _is_plain(optimizer):
        optimizer.step(closure)
        return
    # Outside of `no_grad`, as the closure computes gradients.
    closure()
    with torch.no_grad():
        for group in optimizer.param_groups:
            _step_group(optimizer, group)


def ignores_loss(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step does not use the loss that its closure returns.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer

    Returns
    -------
    bool
    """
    return type(optimizer) in _KERNELS


def _is_plain(optimizer) -> bool:
    """Whether ``step()`` would do nothing but call the kernel."""
    hooks = (
        _global_optimizer_pre_hooks,
        _global_optimizer_post_hooks,
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        _is_overridden(optimizer),
    )
    return (
        type(optimizer) in _KERNELS
        and not any(hooks)
        and all(_is_ready(optimizer, group) for group in optimizer.param_groups)
    )


def _is_overridden(optimizer) -> bool:
    """Whether ``step`` of this instance is more than torch's own."""
    attributes = vars(optimizer)
    own = attributes.get("step")
    if own is None:
        return False
    # torch's schedules wrap it only to note that a step was made before theirs, or
    # they warn. So the first step goes through the wrapper, and the others need not.
    by_torch = getattr(own, "__wrapped__", None) is type(optimizer).step
    return not (by_torch and attributes.get("_opt_called", False))


def _is_ready(optimizer, group: dict) -> bool:
    # torch allocates the averages of a weight in its first step.
    return (
        group["fused"]
        and not group["amsgrad"]
        and all(weight in optimizer.state for weight in group["params"])
    )


def _step_group(optimizer, group: dict) -> None:
    weights = [weight for weight in group["params"] if weight.grad is not None]
    if not weights:
        return
    states = [optimizer.state[weight] for weight in weights]
    steps = [state["step"] for state in states]
    # Before the kernel, whose bias correction needs the number of this step.
    torch._foreach_add_(steps, 1)
    _KERNELS[type(optimizer)](
        weights,
        [weight.grad for weight in weights],
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],  # largest averages, for `amsgrad` only
        steps,
        lr=group["lr"],
        beta1=float(group["betas"][0]),
        beta2=float(group["betas"][1]),
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )


def drop_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Set the gradients to None, without a record for torch's profiler.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    """
    # An optimizer that has its own method may do more in it.
    if type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = None
