"""Steps of torch's fused Adam, without what its method does around the kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim import Adam, AdamW
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
)

_KERNELS = {Adam: torch._fused_adam_, AdamW: torch._fused_adamw_}


def step_optimizer(optimizer: torch.optim.Optimizer, closure: Callable) -> None:
    """Make a step; that of fused Adam and AdamW without preparations for others.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Of weights of one dtype, on one device.
    closure : callable
        Computes the gradients.
    """
    if not _is_plain(optimizer):
        optimizer.step(closure)
        return
    closure()
    with torch.no_grad():
        for group in optimizer.param_groups:
            _step_group(optimizer, group)


def _is_plain(optimizer) -> bool:
    """Whether its method would do nothing else, and has allocated its tensors."""
    hooks = (
        _global_optimizer_pre_hooks,
        _global_optimizer_post_hooks,
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        "step" in vars(optimizer),  # wrapped by a schedule
    )
    return (
        type(optimizer) in _KERNELS
        and not any(hooks)
        and all(_is_ready(optimizer, group) for group in optimizer.param_groups)
    )


def _is_ready(optimizer, group: dict) -> bool:
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
    torch._foreach_add_(steps, 1)
    _KERNELS[type(optimizer)](
        weights,
        [weight.grad for weight in weights],
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        steps,
        lr=group["lr"],
        beta1=float(group["betas"][0]),
        beta2=float(group["betas"][1]),
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )
