"""What crosses to and from the imitated device, and how many kernels it would start.

Each operation of torch on the device is one event of a `Traffic`:

- ``"kernel"``: an operation that computes. A real device starts at least one kernel for
  it; views and allocations start none.
- ``"read"``: numbers come back, so the program waits for everything that the device
  still has to do: ``item()``, ``cpu()``, ``tolist()``, and operations whose result has
  a size that depends on numbers, such as ``nonzero`` or indexing by a mask.
- ``"upload"``: numbers of the CPU go to the device.

Marks of a test, such as ``"step begins"``, are events as well.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

COPIES = {"aten::_to_copy", "aten::copy_", "aten::_copy_from"}
# Their result is a number, or has a size, that only the device knows.
_ANSWERS = {
    "aten::_local_scalar_dense",
    "aten::_unique2",
    "aten::bincount",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::unique_consecutive",
    "aten::unique_dim",
}
INDEXING = {
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
}
_ALLOCATIONS = {
    "aten::_unsafe_view",
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::lift_fresh",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::resize_",
    "aten::set_",
}


@dataclass
class Traffic:
    """Events in their order, each a kind and a name."""

    events: list[tuple[str, str]] = field(default_factory=list)

    def count(self, kind: str) -> int:
        return self.names(kind).total()

    def names(self, kind: str) -> Counter:
        return Counter(name for own, name in self.events if own == kind)

    def between(self, begin: str, end: str) -> list["Traffic"]:
        """The parts that begin and end at a mark."""
        parts, is_open = [], False
        for event in self.events:
            if event[0] == end:
                is_open = False
            if event[0] == begin:
                is_open = True
                parts.append(Traffic())
            elif is_open:
                parts[-1].events.append(event)
        return parts

    def inside(self, begin: str, end: str) -> "Traffic":
        """From the first of one mark to the last of another one."""
        kinds = [kind for kind, _ in self.events]
        last = len(kinds) - kinds[::-1].index(end)
        return Traffic(self.events[kinds.index(begin) : last])

    def after(self, mark: str) -> "Traffic":
        """What follows the last of a mark."""
        kinds = [kind for kind, _ in self.events]
        return Traffic(self.events[len(kinds) - kinds[::-1].index(mark) :])


_OPEN: list[Traffic] = []
# Autograd computes in a thread of its own.
_LOCK = threading.Lock()


@contextmanager
def watched_traffic() -> Iterator[Traffic]:
    """Record the events of the imitated device while the context is open."""
    traffic = Traffic()
    _OPEN.append(traffic)
    try:
        yield traffic
    finally:
        _OPEN.remove(traffic)


def note(kind: str, name: str = "") -> None:
    """Record an event, or a mark."""
    with _LOCK:
        for traffic in _OPEN:
            traffic.events.append((kind, name))


def note_operation(func: Any, args: tuple, kwargs: dict) -> None:
    """Record an operation that involves the device."""
    name = func._schema.name
    if not _OPEN or func.is_view:
        return
    short = name.removeprefix("aten::")
    if name in COPIES:
        note(_direction(name, args, kwargs), short)
        return
    if name in _ANSWERS or _has_open_size(name, args, kwargs):
        note("read", short)
    if name in INDEXING and any(not _is_there(leaf) for leaf in _tensors(args[1])):
        note("upload", short)
    if name not in _ALLOCATIONS:
        note("kernel", short)


def _direction(name: str, args: tuple, kwargs: dict) -> str:
    target = args[0] if name == "aten::copy_" else kwargs.get("device")
    source = args[1] if name == "aten::copy_" else args[0]
    if not _is_there(source):
        return "upload"
    to_cpu = target is not None and not _is_there(target)
    return "read" if to_cpu else "kernel"


def _is_there(place: Any) -> bool:
    """Whether a tensor, or a device, is not the CPU."""
    device = place.device if isinstance(place, torch.Tensor) else torch.device(place)
    return device.type != "cpu"


def _has_open_size(name: str, args: tuple, kwargs: dict) -> bool:
    if name == "aten::repeat_interleave":
        return kwargs.get("output_size") is None
    masks = _tensors(args[1]) if name in INDEXING else []
    return any(mask.dtype in (torch.bool, torch.uint8) for mask in masks)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
