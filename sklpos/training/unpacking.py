"""Objects put together from plain containers and arrays, which a file may choose."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from skorch.history import History
from torch import Tensor, nn

from sklpos.training.earlier import MOVED, upgraded
from sklpos.training.names import find_name, is_opened, is_usual
from sklpos.training.packing import KIND
from sklpos.training.schema import (
    brief,
    check_attribute_names,
    check_object,
    check_value,
)

# What stands for an object of each kind, besides the kind itself.
_CONTENT = {
    "tensor": {"values": np.ndarray, "is_parameter": bool, "requires_grad": bool},
    "history": {"epochs": list, "batches": str | list},
    "ordered": {"items": list},
    "named": {"name": str},
    "object": {"class": dict | type, "vars": dict},
}
# Names of containers that say nothing to a reader of an error.
_SILENT = ("_modules", "_parameters", "_buffers")


class Unpacker:
    """Puts together what a `Packer` took apart.

    Attributes
    ----------
    path : list
        Names of attributes that lead to the object that is put together at present;
        after an error, to the one that could not be.
    """

    def __init__(self):
        self.done: dict[int, tuple] = {}
        self.path: list[Any] = []

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

    def unpack_items(self, named: dict) -> dict:
        """Put the values of a dict together.

        Parameters
        ----------
        named : dict

        Returns
        -------
        dict
        """
        found = {}
        for name, value in named.items():
            self.path.append(name)
            found[name] = self(value)
            self.path.pop()
        return found

    @property
    def place(self) -> str:
        """Where in the file the object is that could not be put together."""
        names = (brief(name).strip("'") for name in self.path if name not in _SILENT)
        return ".".join(names)

    def _unpack(self, packed: Any) -> Any:
        if type(packed) in (list, tuple):
            return type(packed)(self(item) for item in packed)
        if isinstance(packed, np.ndarray) and not packed.flags.writeable:
            # torch warns of read-only arrays, such as memory maps.
            return np.array(packed)
        if type(packed) is not dict:
            return packed
        if KIND not in packed:
            return self.unpack_items(packed)
        readers = {
            "tensor": self._tensor,
            "history": self._history,
            "ordered": self._ordered,
            "named": self._named,
            "object": self._object,
        }
        kind = packed[KIND]
        if not isinstance(kind, str) or kind not in readers:
            raise ValueError(f"{brief(kind)} is not a known kind of stored object.")
        content = _CONTENT[kind]
        if packed.keys() != {KIND, *content}:
            raise ValueError(f"a stored {kind} consists of {', '.join(content)}.")
        for name, hint in content.items():
            check_value(name, packed[name], hint)
        return readers[kind](packed)

    def _tensor(self, packed: dict) -> Tensor:
        # A copy, because ``torch.as_tensor`` would share memory with the array.
        values = packed["values"]
        if values.dtype.kind not in "biufc":
            raise ValueError(f"{brief(values)} is not an array of numbers.")
        tensor = torch.tensor(values)
        if packed["requires_grad"] and not (
            tensor.is_floating_point() or tensor.is_complex()
        ):
            raise ValueError(f"{brief(values)} has no gradient.")
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
        return find_name(MOVED.get(name, name))

    def _object(self, packed: dict) -> Any:
        cls = self(packed["class"])
        if not (isinstance(cls, type) and is_opened(cls)):
            raise ValueError(
                f"{brief(cls)} is not a class that a stored model may contain."
            )
        # Without the constructor, which might act on values that the file chose.
        thing = cls.__new__(cls)
        self.done[id(packed)] = packed, thing
        state = upgraded(cls, self.unpack_items(packed["vars"]))
        check_attribute_names(cls, state)
        _set_vars(thing, state)
        check_object(thing, usual=is_usual(cls))
        return thing


def _set_vars(thing: Any, state: dict) -> None:
    if hasattr(thing, "plain_vars"):
        thing.take_vars(state)
    elif isinstance(thing, nn.Module):
        thing.__setstate__({**vars(nn.Module()), **state})
    elif hasattr(thing, "__setstate__"):
        thing.__setstate__(state)
    else:
        vars(thing).update(state)
