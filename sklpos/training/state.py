"""The state from which training resumes, in one format: read, restored, made storable.

The net uses it to undo an epoch that was interrupted, and a `TrainingCheckpoint` writes
it to a file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

from sklpos.training.trees import Copies, copied, map_leaves

# Key of a tensor that stands for a numpy array.
_ARRAY = "__ndarray__"
_SCALARS = (bool, int, float, str, type(None))


def training_state(net, copies: Copies | None = None) -> dict[str, Any]:
    """State from which training resumes.

    Parameters
    ----------
    net : ConstrainedNet
    copies : Copies, optional
        Memory for the copies of tensors, which holds one state at a time.

    Returns
    -------
    dict
        ``"parts"`` are the states of module, criterion, constraints and optimizer;
        ``"frozen"`` names the weights that do not train, ``"best"`` holds multipliers
        that belong to the best epoch so far, ``"history"`` has one record per epoch and
        ``"callbacks"`` the attributes of each callback. Tensors are copies.
    """
    weights = net.plain_module_.named_parameters()
    parts = {name: part.state_dict() for name, part in trained_parts(net).items()}
    return {
        # Copies of the tensors, because the optimizer changes them in place.
        "parts": copied(parts) if copies is None else copies.hold(parts),
        "frozen": [name for name, weight in weights if not weight.requires_grad],
        "best": net.constraint_best_,
        "history": list(net.history),
        "callbacks": {
            name: attributes_of(callback) for name, callback in net.callbacks_
        },
    }


def load_training_state(net, state: dict[str, Any]) -> None:
    """Restore what `training_state` returned.

    Parameters
    ----------
    net : ConstrainedNet
        Built like the net that the state was taken from.
    state : dict
    """
    for name, part in trained_parts(net).items():
        load_state(part, state["parts"][name])
    for name, weight in net.plain_module_.named_parameters():
        weight.requires_grad_(name not in state["frozen"])
    for name, callback in net.callbacks_:
        _set_attributes(callback, state["callbacks"].get(name, {}))
    net.constraint_best_ = state["best"]
    net.history[:] = state["history"]


def trained_parts(net) -> dict[str, nn.Module | Optimizer]:
    """Parts of a net that change while it trains, by name.

    Parameters
    ----------
    net : ConstrainedNet

    Returns
    -------
    dict
    """
    parts = {
        "module": net.plain_module_,
        "criterion": net.criterion_,
        "constraint": net.constraint_,
        "domain_constraint": net.domain_constraint_,
        "optimizer": net.optimizer_,
    }
    return {name: part for name, part in parts.items() if part is not None}


def has_state(value: Any) -> bool:
    """Whether an attribute is an object with a ``state_dict``, such as a schedule."""
    return hasattr(value, "load_state_dict") and not isinstance(value, type)


def attributes_of(callback: Callback) -> dict[str, Any]:
    """All attributes of a callback; of those with a ``state_dict``, a copy of that.

    Parameters
    ----------
    callback : Callback

    Returns
    -------
    dict
    """
    return {
        name: copied(value.state_dict()) if has_state(value) else value
        for name, value in vars(callback).items()
    }


def _set_attributes(callback: Callback, values: dict[str, Any]) -> None:
    # Attributes that were set after the state was taken.
    for name in vars(callback).keys() - values.keys():
        delattr(callback, name)
    for name, value in values.items():
        live = getattr(callback, name, None)
        # A schedule must stay the same object, which is tied to the optimizer.
        if has_state(live) and isinstance(value, dict):
            live.load_state_dict(value)
        else:
            setattr(callback, name, value)


def load_state(part, state: dict) -> None:
    """Load a ``state_dict``, bit for bit.

    An optimizer casts everything it loads to the dtype of the weights, even tensors
    that it keeps in float32 for weights in float64, as NAdam does. This is undone.

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


def to_storable(tree):
    """Convert a tree to one that ``torch.load(weights_only=True)`` reads.

    Parameters
    ----------
    tree : object
        A tree of numbers, strings, arrays and tensors.

    Returns
    -------
    object

    Raises
    ------
    TypeError
        If it contains anything else.
    """
    return map_leaves(_to_storable, tree)


def from_storable(tree):
    """Convert a tree back that `to_storable` made; tensors are on the CPU.

    Parameters
    ----------
    tree : object

    Returns
    -------
    object
    """
    if isinstance(tree, dict) and _is_array(tree):
        # An array without axes was a numpy scalar, which `[()]` makes of it again.
        return tree[_ARRAY].numpy()[()]
    if isinstance(tree, dict):
        return {key: from_storable(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(map(from_storable, tree))
    return tree


def _is_array(tree: dict) -> bool:
    return tree.keys() == {_ARRAY} and isinstance(tree[_ARRAY], Tensor)


def _compact(tensor: Tensor) -> Tensor:
    # A view would store all that it is a view of, or each of its numbers once.
    alone = tensor.nbytes == tensor.untyped_storage().nbytes()
    return tensor if alone else tensor.clone(memory_format=torch.contiguous_format)


def _to_storable(leaf):
    if isinstance(leaf, (np.ndarray, np.generic)):
        return {_ARRAY: _compact(torch.as_tensor(np.asarray(leaf)))}
    if isinstance(leaf, Tensor):
        return _compact(leaf.detach().cpu())
    if isinstance(leaf, _SCALARS):
        return leaf
    raise TypeError(
        f"a file stores numbers, strings, arrays and tensors, not {leaf!r}."
    )
