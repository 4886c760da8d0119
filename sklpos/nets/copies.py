"""Copies of modules and optimizers that cost little more than their tensors.

`partial_fit` makes them in every call, and ``copy.deepcopy`` takes several times as
long as a step of a small net: most of it for the dozen empty dicts of each module.
Anything unusual is left to ``copy.deepcopy``.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)
_EMPTY = (dict, OrderedDict, set, list, tuple)
# Of the state of an optimizer; `LBFGS` and others keep more than that.
_KNOWN_OPTIMIZERS = (Adam, AdamW)


def copy_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy a module, as ``copy.deepcopy`` does.

    Parameters
    ----------
    module : nn.Module
    memo : dict
        Copies that exist, by the ``id`` of the original; those made here are added.

    Returns
    -------
    nn.Module

    Examples
    --------
    >>> layer = nn.Linear(1, 1)
    >>> twin = copy_module(layer, {})
    >>> bool(twin.weight == layer.weight), twin.weight is layer.weight
    (True, False)
    """
    if id(module) in memo:
        return memo[id(module)]
    if not _is_usual(type(module)):
        return copy.deepcopy(module, memo)
    twin = object.__new__(type(module))
    memo[id(module)] = twin
    vars(twin).update(copy_values(module.__getstate__(), memo))
    return twin


def copy_values(values: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    """Copy the values of a dict, such as the attributes of a module.

    Parameters
    ----------
    values : dict
    memo : dict
        See `copy_module`.

    Returns
    -------
    dict
    """
    return {name: _copy_value(value, memo) for name, value in values.items()}


def copy_optimizer(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer | None:
    """Copy an optimizer, for copies of its weights.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    memo : dict
        The copies of the weights, see `copy_module`.

    Returns
    -------
    torch.optim.Optimizer or None
        None unless it is an Adam or AdamW all of whose weights have been copied.
    """
    groups = optimizer.param_groups
    weights = [weight for group in groups for weight in group["params"]]
    usual = type(optimizer) in _KNOWN_OPTIMIZERS
    if not usual or any(id(weight) not in memo for weight in weights):
        return None
    state: dict = defaultdict(dict)
    for weight, own in optimizer.state.items():
        state[memo[id(weight)]] = copy_values(own, memo)
    twin = object.__new__(type(optimizer))
    twin.__setstate__(
        {
            "defaults": dict(optimizer.defaults),
            "state": state,
            "param_groups": [
                {**group, "params": [memo[id(weight)] for weight in group["params"]]}
                for group in groups
            ],
        }
    )
    return twin


def _is_usual(cls: type) -> bool:
    """Whether copying the attributes of a module copies it."""
    return not hasattr(cls, "__deepcopy__") and all(
        getattr(cls, name) is getattr(nn.Module, name)
        for name in ("__reduce__", "__reduce_ex__", "__getstate__")
    )


def _copy_value(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if type(value) in _EMPTY and not value:
        return type(value)()
    if type(value) in (dict, OrderedDict):
        return _copy_dict(value, memo)
    if type(value) in (Tensor, nn.Parameter):
        return _copy_tensor(value, memo)
    if isinstance(value, nn.Module):
        return copy_module(value, memo)
    return copy.deepcopy(value, memo)


def _copy_dict(value: dict, memo: dict[int, Any]) -> dict:
    if id(value) not in memo:
        # Known before it is filled, as it may contain itself.
        twin = memo[id(value)] = type(value)()
        twin.update(copy_values(value, memo))
    return memo[id(value)]


def _copy_tensor(value: Tensor, memo: dict[int, Any]) -> Tensor:
    if id(value) in memo:
        return memo[id(value)]
    if not _owns_its_numbers(value):
        return copy.deepcopy(value, memo)
    twin = value.detach().clone(memory_format=torch.preserve_format)
    if type(value) is nn.Parameter:
        twin = nn.Parameter(twin, requires_grad=value.requires_grad)
    else:
        twin.requires_grad_(value.requires_grad)
    memo[id(value)] = twin
    return twin


def _owns_its_numbers(value: Tensor) -> bool:
    """Whether a tensor has no graph, no attributes, and shares memory with no other."""
    return (
        value.is_leaf
        and value.layout is torch.strided
        and not vars(value)
        and value.untyped_storage().nbytes() == value.nbytes
    )
