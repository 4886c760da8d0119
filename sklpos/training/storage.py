"""State as plain containers and arrays: what pickle, joblib and skops store.

A tensor becomes an array, a module or a callback its class and its attributes; classes
of torch and of this package are stored by name. To load runs no constructor but that of
the optimizer, and no code that the file brings with it.
"""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from importlib import import_module
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import InconsistentVersionWarning
from skorch.callbacks import Callback, EarlyStopping, EpochTimer, PassthroughScoring
from skorch.history import History
from skorch.utils import noop
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from sklpos.strategies.base import ConstraintStrategy
from sklpos.version import __version__

_KIND = "__sklpos__"  # marks a dict that stands for something else
_PACKAGES = ("sklpos", "torch.nn", "torch.optim")
_TRUSTED_BY_USERS = ("sklpos.training.checkpoint",)  # which write to a path
_KNOWN = {
    f"{thing.__module__}.{thing.__qualname__}": thing
    for thing in (EarlyStopping, EpochTimer, PassthroughScoring, noop, print)
}
_OPENED = (nn.Module, Callback, ConstraintStrategy)


class VersionWarning(InconsistentVersionWarning):
    """What is loaded was stored by another version of the package."""

    def __str__(self) -> str:
        return (
            f"this {self.estimator_name} was stored by sklpos "
            f"{self.original_sklearn_version} and is loaded by sklpos "
            f"{self.current_sklearn_version}: it may not predict or train as before. "
            "Load it with the version that stored it, or fit it again."
        )


class PlainState:
    """Stored as plain containers, arrays and class references.

    Subclasses that hold something else replace `_plain_vars` and `_take_vars`.
    """

    def __getstate__(self) -> dict:
        return {"sklpos_version": __version__, "vars": _Packer().pack_vars(self)}

    def __setstate__(self, state: dict) -> None:
        stored_by = state.get("sklpos_version", "of unknown version")
        if stored_by != __version__:
            warnings.warn(
                VersionWarning(
                    estimator_name=type(self).__name__,
                    current_sklearn_version=__version__,
                    original_sklearn_version=stored_by,
                ),
                stacklevel=2,
            )
        unpacker = _Unpacker()
        self._take_vars({k: unpacker(v) for k, v in state["vars"].items()})

    def _plain_vars(self) -> dict:
        """Return the attributes to store; tensors, modules and callbacks may be in."""
        return dict(vars(self))

    def _take_vars(self, state: dict) -> None:
        """Set the attributes that `_plain_vars` returned.

        Parameters
        ----------
        state : dict
            All tensors are on the CPU.
        """
        vars(self).update(state)


class _Packer:
    """Makes things plain; what is met twice stays one."""

    def __init__(self):
        self.done: dict[int, tuple] = {}  # by id, with the thing, which keeps its id

    def __call__(self, value: Any) -> Any:
        if id(value) not in self.done:
            self.done[id(value)] = value, self._pack(value)
        return self.done[id(value)][1]

    def pack_vars(self, thing: Any) -> dict:
        return {name: self(value) for name, value in _vars_of(thing).items()}

    def _pack(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return _pack_tensor(value)
        if isinstance(value, History):
            return self._pack_history(value)
        if isinstance(value, LRScheduler):
            return None  # skorch makes a new one when training begins
        if type(value) in (list, tuple):
            return type(value)(self(item) for item in value)
        if type(value) is dict:
            return {key: self(item) for key, item in value.items()}
        if type(value) is OrderedDict:
            items = [[key, self(item)] for key, item in value.items()]
            return {_KIND: "ordered", "items": items}
        if isinstance(value, type) or value is noop or value is print:
            return _pack_name(value)
        if _is_opened(type(value)):
            return self._pack_object(value)
        return value

    def _pack_object(self, value: Any) -> dict:
        packed: dict[str, Any] = {_KIND: "object", "class": _pack_name(type(value))}
        self.done[id(value)] = value, packed  # it may contain itself
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
            return json.dumps(batches)  # thousands of records in one text, exactly
        except TypeError:  # a callback recorded something else than numbers
            return self(batches)


class _Unpacker:
    """The way back."""

    def __init__(self):
        self.done: dict[int, tuple] = {}

    def __call__(self, packed: Any) -> Any:
        if id(packed) not in self.done:
            self.done[id(packed)] = packed, self._unpack(packed)
        return self.done[id(packed)][1]

    def _unpack(self, packed: Any) -> Any:
        if type(packed) in (list, tuple):
            return type(packed)(self(item) for item in packed)
        if isinstance(packed, np.ndarray) and not packed.flags.writeable:
            return np.array(packed)  # a memory map, of which torch would warn
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
            raise ValueError(f"{packed[_KIND]!r} is not a kind of stored thing.")
        return readers[packed[_KIND]](packed)

    def _tensor(self, packed: dict) -> Tensor:
        tensor = torch.tensor(packed["values"])  # of its own, not shared with a copy
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
        return _find(packed["name"])

    def _object(self, packed: dict) -> Any:
        cls = self(packed["class"])
        if not (isinstance(cls, type) and _is_opened(cls)):
            raise ValueError(f"{cls!r} is not a class that a stored model may contain.")
        thing = cls.__new__(cls)
        self.done[id(packed)] = packed, thing
        state = {name: self(value) for name, value in packed["vars"].items()}
        _set_vars(thing, state)
        return thing


def _pack_tensor(tensor: Tensor) -> dict:
    return {
        _KIND: "tensor",
        "values": tensor.detach().cpu().numpy(),
        "is_parameter": isinstance(tensor, nn.Parameter),
        "requires_grad": tensor.requires_grad,
    }


def _pack_name(thing: Any) -> Any:
    """Return the name of what everybody has, and anything else as it is."""
    name = f"{thing.__module__}.{thing.__qualname__}"
    try:
        return {_KIND: "named", "name": name} if _find(name) is thing else thing
    except (ValueError, ImportError):
        return thing


def _find(name: str) -> Any:
    """Return a class of this package or of torch; never a function but two harmless."""
    module, _, attribute = name.rpartition(".")
    if name in _KNOWN:
        return _KNOWN[name]
    if _is_in(module, _PACKAGES) and not _is_in(module, _TRUSTED_BY_USERS):
        found = getattr(import_module(module), attribute, None)
        if isinstance(found, type) and found.__module__ == module:
            return found
    raise ValueError(f"{name!r} is not a class of {', '.join(_PACKAGES)}.")


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def _is_opened(cls: type) -> bool:
    """Whether objects of a class are stored by their attributes."""
    return issubclass(cls, _OPENED) or _is_in(cls.__module__, ("sklpos",))


def _vars_of(thing: Any) -> dict:
    if isinstance(thing, PlainState):
        return thing._plain_vars()
    state = thing.__getstate__()
    if not isinstance(thing, nn.Module):
        return state or {}
    fresh = vars(nn.Module())
    return {k: v for k, v in state.items() if k not in fresh or v != fresh[k]}


def _set_vars(thing: Any, state: dict) -> None:
    if isinstance(thing, PlainState):
        thing._take_vars(state)
    elif isinstance(thing, nn.Module):
        thing.__setstate__({**vars(nn.Module()), **state})
    elif hasattr(thing, "__setstate__"):
        thing.__setstate__(state)
    else:
        vars(thing).update(state)
