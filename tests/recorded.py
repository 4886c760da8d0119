"""Recording a step on any device, as a CUDA graph does: by operations and memory.

Between the start and the end of a record, every operation is noted with its arguments
and its results. A replay runs them again, on the same tensors and with the same Python
numbers, and puts what they compute where it was the first time. So whatever a real
graph would not notice (other tensors, other numbers, other branches) goes wrong here,
too; and an answer read from the imitated device raises.
"""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from sklpos.training import captured

_ANSWERS = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::_unique2",
}


class _Notes(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        known = all(leaf.is_cpu for leaf in tree_leaves(args) if torch.is_tensor(leaf))
        if func._schema.name in _ANSWERS and not known:
            raise RuntimeError(f"{func._schema.name} while a graph is recorded")
        result = func(*args, **kwargs)
        # By their memory: a weight may be given another one.
        call = tree_map(_alias, (args, kwargs, result))
        self.calls.append((func, *call))
        return result


def _alias(leaf):
    return leaf.detach() if isinstance(leaf, torch.Tensor) else leaf


class Recorder:
    """Stands in for `CudaRecorder`."""

    n_records = 0
    n_replays = 0

    def __init__(self, device):
        self.device = device

    def warm_up(self, function):
        function()

    def record(self, function):
        type(self).n_records += 1
        with _Notes() as notes:
            function()
        # A graph is recorded without running, so the first replay is done already.
        waiting = iter([None])

        def replay():
            type(self).n_replays += 1
            if next(waiting, self) is self:
                _again(notes.calls)

        return replay


@torch.no_grad()
def _again(calls):
    for func, args, kwargs, before in calls:
        now = func(*args, **kwargs)
        for new, old in zip(tree_leaves(now), tree_leaves(before), strict=True):
            # A view has the new numbers already, and so has what was changed in place.
            if isinstance(new, torch.Tensor) and not _shared(new, old):
                old.copy_(new)


def _shared(new, old):
    # The memory of a tensor on the imitated device is that of a hidden one.
    new, old = getattr(new, "hidden", new), getattr(old, "hidden", old)
    return new is old or new.data_ptr() == old.data_ptr()


@contextlib.contextmanager
def recording(device="cpu"):
    """Let ``cuda_graph=True`` work on a device that has no graphs."""

    class Own(Recorder):
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(captured.RECORDERS, torch.device(device).type, Own)
        yield Own
