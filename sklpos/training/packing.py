"""Objects taken apart into plain containers and arrays, and put together again."""

from __future__ import annotations

import json
from collections import OrderedDict
from importlib import import_module
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback, EarlyStopping, EpochTimer, PassthroughScoring
from skorch.history import History
from skorch.utils import noop
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from sklpos.nets.values import finite_rows
from sklpos.strategies.base import ConstraintStrategy
from sklpos.training.earlier import MOVED, upgraded

# Key of a dict that stands for another object.
_KIND = "__sklpos__"
_PACKAGES = ("sklpos", "torch.nn", "torch.optim")
# A checkpoint writes to a path that the file would choose, so users must trust it.
_TRUSTED_BY_USERS = ("sklpos.training.checkpoint",)
# No other functions are stored; these are harmless.
_FUNCTIONS = (noop, print, finite_rows)
_KNOWN = {
    f"{thing.__module__}.{thing.__qualname__}": thing
    for thing in (EarlyStopping, EpochTimer, PassthroughScoring, *_FUNCTIONS)
}
_OPENED = (nn.Module, Callback, ConstraintStrategy)


class Packer:
    """Turns objects into plain containers; an object that is shared stays shared."""

    def __init__(self):
        # By id, together with the object, as the id of a deleted one may be reused.
        self.done: dict[int, tuple] = {}

    def __call__(self, value: Any) -> Any:
        """Take an object apart.

        Parameters
        ----------
        value : object

        Returns
        -------
        object
            Plain containers, or the object itself if its kind is not known.
        """
        if id(value) not in self.done:
            self.done[id(value)] = value, self._pack(value)
        return self.done[id(value)][1]

    def pack_vars(self, thing: Any) -> dict:
        """Take the attributes of an object apart.

        Parameters
        ----------
        thing : object

        Returns
        -------
        dict
        """
        return self.pack_items(_vars_of(thing))

    def pack_items(self, named: dict) -> dict:
        """Take the values of a dict apart.

        Parameters
        ----------
        named : dict

        Returns
        -------
        dict
        """
        return {name: self(value) for name, value in named.items()}

    def _pack(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return _pack_tensor(value)
        if isinstance(value, History):
            return self._pack_history(value)
        if isinstance(value, LRScheduler):
            # skorch makes a new one when training begins.
            return None
        if type(value) in (list, tuple):
            return type(value)(self(item) for item in value)
        if type(value) is dict:
            return self.pack_items(value)
        if type(value) is OrderedDict:
            items = [[key, self(item)] for key, item in value.items()]
            return {_KIND: "ordered", "items": items}
        if isinstance(value, type) or any(value is known for known in _FUNCTIONS):
            return _pack_name(value)
        if _is_opened(type(value)):
            return self._pack_object(value)
        return value

    def _pack_object(self, value: Any) -> dict:
        packed: dict[str, Any] = {_KIND: "object", "class": _pack_name(type(value))}
        # Before its attributes, since an object may contain itself.
        self.done[id(value)] = value, packed
        packed["vars"] = self.pack_vars(value)
        return packed

    def _pack_history(self, history: History) -> dict:
        epochs, batches = [{**row} for row in history], []
        for epoch in epochs:
            batches.append(epoch.pop("batches", []))
        return {
            _KIND: "history",
            "epochs": self(epochs),
            "batches": self._pack_batches(batches),
        }

    def _pack_batches(self, batches: list) -> Any:
        try:
            # One text for thousands of records; JSON keeps every digit of a float.
            return json.dumps(batches)
        except TypeError:
            # A callback recorded something other than numbers.
            return self(batches)


class Unpacker:
    """Puts together what a `Packer` took apart."""

    def __init__(self):
        self.done: dict[int, tuple] = {}

    def __call__(self, packed: Any) -> Any:
        """Put an object together.

        Parameters
        ----------
        packed : object

        Returns
        -------
        object
        """
        if id(packed) not in self.done:
            self.done[id(packed)] = packed, self._unpack(packed)
        return self.done[id(packed)][1]

    def _unpack(self, packed: Any) -> Any:
        if type(packed) in (list, tuple):
            return type(packed)(self(item) for item in packed)
        if isinstance(packed, np.ndarray) and not packed.flags.writeable:
            # torch warns of read-only arrays, such as memory maps.
            return np.array(packed)
        if type(packed) is not dict:
            return packed
        if _KIND not in packed:
            return {key: self(item) for key, item in packed.items()}
        readers = {
            "tensor": self._tensor,
            "history": self._history,
            "ordered": self._ordered,
            "named": self._named,
            "object": self._object,
        }
        if packed[_KIND] not in readers:
            raise ValueError(f"{packed[_KIND]!r} is not a known kind of stored object.")
        return readers[packed[_KIND]](packed)

    def _tensor(self, packed: dict) -> Tensor:
        # A copy, because ``torch.as_tensor`` would share memory with the array.
        tensor = torch.tensor(packed["values"])
        if packed["is_parameter"]:
            return nn.Parameter(tensor, requires_grad=packed["requires_grad"])
        return tensor.requires_grad_(packed["requires_grad"])

    def _history(self, packed: dict) -> History:
        text = packed["batches"]
        batches = json.loads(text) if isinstance(text, str) else self(text)
        epochs = zip(batches, self(packed["epochs"]), strict=True)
        return History({"batches": own, **epoch} for own, epoch in epochs)

    def _ordered(self, packed: dict) -> OrderedDict:
        return OrderedDict((key, self(item)) for key, item in packed["items"])

    def _named(self, packed: dict) -> Any:
        name = packed["name"]
        return _find(MOVED.get(name, name))

    def _object(self, packed: dict) -> Any:
        cls = self(packed["class"])
        if not (isinstance(cls, type) and _is_opened(cls)):
            raise ValueError(f"{cls!r} is not a class that a stored model may contain.")
        # Without the constructor, which might act on values that the file chose.
        thing = cls.__new__(cls)
        self.done[id(packed)] = packed, thing
        state = {name: self(value) for name, value in packed["vars"].items()}
        _set_vars(thing, upgraded(cls, state))
        return thing


def _pack_tensor(tensor: Tensor) -> dict:
    return {
        _KIND: "tensor",
        "values": tensor.detach().cpu().numpy(),
        "is_parameter": isinstance(tensor, nn.Parameter),
        "requires_grad": tensor.requires_grad,
    }


def _pack_name(thing: Any) -> Any:
    """Name of a class or function that can be found again, or else the object."""
    name = f"{thing.__module__}.{thing.__qualname__}"
    try:
        return {_KIND: "named", "name": name} if _find(name) is thing else thing
    except (ValueError, ImportError):
        return thing


def _find(name: str) -> Any:
    """Find a class of this package or of torch, or one of a few harmless objects."""
    module, _, attribute = name.rpartition(".")
    if name in _KNOWN:
        return _KNOWN[name]
    if _is_in(module, _PACKAGES) and not _is_in(module, _TRUSTED_BY_USERS):
        found = getattr(import_module(module), attribute, None)
        # Defined there and not imported, or a file could name any class in reach.
        if isinstance(found, type) and found.__module__ == module:
            return found
    raise ValueError(f"{name!r} is not a class of {', '.join(_PACKAGES)}.")


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def _is_opened(cls: type) -> bool:
    """Whether objects of a class are stored by their attributes."""
    return issubclass(cls, _OPENED) or _is_in(cls.__module__, ("sklpos",))


def _vars_of(thing: Any) -> dict:
    if hasattr(thing, "plain_vars"):
        return thing.plain_vars()
    state = thing.__getstate__()
    if not isinstance(thing, nn.Module):
        return state or {}
    # Attributes that every module has are left out: they are private to torch, and
    # another version may have others.
    fresh = vars(nn.Module())
    return {k: v for k, v in state.items() if k not in fresh or v != fresh[k]}


def _set_vars(thing: Any, state: dict) -> None:
    if hasattr(thing, "plain_vars"):
        thing.take_vars(state)
    elif isinstance(thing, nn.Module):
        thing.__setstate__({**vars(nn.Module()), **state})
    elif hasattr(thing, "__setstate__"):
        thing.__setstate__(state)
    else:
        vars(thing).update(state)
