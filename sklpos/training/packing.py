"""Objects taken apart into plain containers and arrays."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

from skorch.history import History
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from sklpos.training.names import find_name, function_name, is_opened

#: Key of a dict that stands for another object.
KIND = "__sklpos__"


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
        # A copy, as another thread may have an attribute computed meanwhile.
        return {name: self(value) for name, value in dict(named).items()}

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
            return {KIND: "ordered", "items": items}
        if isinstance(value, type):
            return _pack_name(value)
        if (name := function_name(value)) is not None:
            return {KIND: "named", "name": name}
        if is_opened(type(value)):
            return self._pack_object(value)
        return value

    def _pack_object(self, value: Any) -> dict:
        packed: dict[str, Any] = {KIND: "object", "class": _pack_name(type(value))}
        # Before its attributes, since an object may contain itself.
        self.done[id(value)] = value, packed
        packed["vars"] = self.pack_vars(value)
        return packed

    def _pack_history(self, history: History) -> dict:
        epochs, batches = [{**row} for row in history], []
        for epoch in epochs:
            batches.append(epoch.pop("batches", []))
        return {
            KIND: "history",
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


def _pack_tensor(tensor: Tensor) -> dict:
    return {
        KIND: "tensor",
        "values": tensor.detach().cpu().numpy(),
        "is_parameter": isinstance(tensor, nn.Parameter),
        "requires_grad": tensor.requires_grad,
    }


def _pack_name(cls: type) -> Any:
    """Name of a class that can be found again, or else the class."""
    name = f"{cls.__module__}.{cls.__qualname__}"
    try:
        return {KIND: "named", "name": name} if find_name(name) is cls else cls
    except (ValueError, ImportError):
        return cls


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
