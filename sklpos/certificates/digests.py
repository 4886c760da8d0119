"""Digests of a module: of its weights, its layers and whatever else it predicts by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor, nn

from sklpos.nets.modules import ACTIVATIONS, MLP, hooks_of
from sklpos.nets.outputs import BoundedOutput

# Attributes that every module has; what they hold is read in other ways.
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
# Their own outputs are the same in training mode.
_WITHOUT_MODES = {
    nn.Linear,
    nn.Flatten,
    nn.Hardtanh,
    nn.Sequential,
    MLP,
    BoundedOutput,
    *ACTIVATIONS.values(),
}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype)
_ARRAYS = (Tensor, np.ndarray)
_CONTAINERS = (list, dict, set, frozenset, nn.Module)


def digests_of_module(module: nn.Module) -> dict[str, str]:
    """Digests of all that decides what a module predicts.

    Parameters
    ----------
    module : nn.Module

    Returns
    -------
    dict of str to str
        Of the "weights" and buffers; of the "layers", that is their types and
        attributes; of their "hooks", global ones included; and of the "training mode",
        where it matters.

    Examples
    --------
    >>> module = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    >>> before = digests_of_module(module)
    >>> module[1] = nn.Tanh()
    >>> after = digests_of_module(module)
    >>> [part for part in before if before[part] != after[part]]
    ['layers']
    """
    # Including the second use of a layer that is used twice.
    layers = list(module.named_modules(remove_duplicate=False))
    return {
        "weights": hexdigest([_tensors(*pair) for pair in layers]),
        "layers": hexdigest([_description(*pair) for pair in layers]),
        # The number tells a hook from another one of the same name.
        "hooks": hexdigest([(name, hooks_of(layer)) for name, layer in layers]),
        "training mode": hexdigest(
            [
                name
                for name, layer in layers
                if layer.training and type(layer) not in _WITHOUT_MODES
            ]
        ),
    }


def hexdigest(value: Any) -> str:
    """Digest of nested containers of arrays, tensors, numbers and text.

    Of other objects only the type is known, and of functions the name. It is the same
    in other processes.

    Parameters
    ----------
    value : object

    Returns
    -------
    str
    """
    digest = hashlib.blake2b(digest_size=16)
    _write(value, digest.update, {})
    return digest.hexdigest()


def _tensors(name: str, layer: nn.Module) -> list:
    parameters = layer.named_parameters(recurse=False, remove_duplicate=False)
    buffers = layer.named_buffers(recurse=False, remove_duplicate=False)
    return [name, *parameters, *buffers]


def _description(name: str, layer: nn.Module) -> list:
    own = {k: v for k, v in vars(layer).items() if k not in _OF_EVERY_MODULE}
    # The forward by its name, in case that somebody replaces it in the class.
    return [name, type(layer), type(layer).forward, own]


def _write(value: Any, write: Callable, seen: dict[int, Any]) -> None:
    """Write the bytes of a value, with marks that keep the structure apart."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, _PLAIN):
        write(f"{value!r};".encode())
    elif isinstance(value, _ARRAYS):
        write(repr((tuple(value.shape), str(value.dtype))).encode())
        write(_bytes_of(value))
    elif isinstance(value, tuple):
        # Equal ones may be one object, or not, as it happens in a process.
        _write_items(value, write, seen)
    elif id(value) in seen:
        write(f"{seen[id(value)][0]};".encode())
    elif _is_container(value):
        # Objects may refer to each other. They are held, as ids are used again.
        seen[id(value)] = len(seen), value
        _write_items(value, write, seen)
    else:
        named = value if hasattr(value, "__qualname__") else type(value)
        write(f"{named.__module__}.{named.__qualname__};".encode())


def _write_items(value: Any, write: Callable, seen: dict[int, Any]) -> None:
    write(b"(")
    for item in _items(value):
        _write(item, write, seen)
    write(b")")


def _is_container(value: Any) -> bool:
    if isinstance(value, type):
        return False
    return isinstance(value, _CONTAINERS) or is_dataclass(value) or issparse(value)


def _items(value: Any) -> list:
    if isinstance(value, nn.Module):
        pairs = list(value.named_modules(remove_duplicate=False))
        return [[_tensors(*pair), _description(*pair)] for pair in pairs]
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, dict):
        return list(value.items())
    if issparse(value):
        return [value.shape, value.indptr, value.indices, value.data]
    # Sets have no order of their own.
    return sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value


def _bytes_of(array: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(array, Tensor):
        dense = array.detach().to_dense() if array.is_sparse else array.detach()
        # As bytes, because numpy does not know every dtype of torch.
        flat = dense.cpu().contiguous().reshape(-1)
        # A single number may have a stride of 0, which cannot be viewed as bytes.
        if flat.stride() != (1,):
            flat = flat.clone(memory_format=torch.contiguous_format)
        array = flat.view(torch.uint8).numpy()
    return np.ascontiguousarray(array)
