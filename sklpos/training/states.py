"""States of modules and optimizers, loaded as they were saved."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer


def load_state(part, state: dict) -> None:
    """Load a ``state_dict``, bit for bit.

    An optimizer casts all it loads to the dtype of the weights, also what it keeps in
    float32 beside weights in float64, as NAdam does: that is undone.

    Parameters
    ----------
    part : nn.Module or torch.optim.Optimizer
    state : dict
        From its ``state_dict``.

    Examples
    --------
    >>> import torch
    >>> weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    >>> optimizer = torch.optim.NAdam([weight])
    >>> weight.grad = weight.detach()
    >>> optimizer.step()
    >>> load_state(optimizer, optimizer.state_dict())
    >>> optimizer.state[weight]["mu_product"].dtype
    torch.float32
    """
    part.load_state_dict(state)
    if not isinstance(part, Optimizer):
        return
    weights = [weight for group in part.param_groups for weight in group["params"]]
    for number, saved in state["state"].items():
        live = part.state[weights[number]]
        for name, value in saved.items():
            if isinstance(value, Tensor) and value.dtype != live[name].dtype:
                live[name] = value.to(live[name].device, copy=True)
