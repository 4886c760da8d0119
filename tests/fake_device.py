"""A second device, imitated in pure Python, for tests on a machine without a GPU.

The device is called ``"fakegpu"``. A tensor on it is a :class:`DeviceTensor`: an
empty shell that reports the device and keeps its numbers in a hidden CPU tensor.
Every operation is carried out on the hidden tensors, so results equal those of the
CPU bit for bit, *after* the checks that a real accelerator makes: an operation with
tensors on two devices raises, and so does a CPU generator for a device operation.
Code that passes on the fake device puts every tensor where it belongs.

Two ways to use it::

    with fake_device() as device:          # in a process made for the purpose
        module.to(device)

    @runs_on_fake_device                   # in a test: no effect on other tests
    def test_something(device): ...

Registering a device cannot be undone and changes the whole process: from then on
``torch.accelerator`` finds an accelerator, and autograd starts a thread for it, after
which a *forked* child can no longer call ``backward``. It must also come before the
first backward pass of the process, which fixes the number of autograd threads. So
`runs_on_fake_device` runs the body of a test in one helper process, started at the
first such test; the process of the test session is never touched.

Not imitated: ``device.type == "cuda"`` branches, automatic mixed precision, streams,
pinned memory, and generators on the device.
"""

import functools
import inspect
import multiprocessing
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from device_traffic import COPIES, INDEXING, note, note_operation
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "fakegpu"
HELPER_TIMEOUT = 300

_FUSED = {"aten::_fused_adam_", "aten::_fused_adamw_"}
# The process that made torch know the device; a fork of it may not use the device.
_REGISTERED: list[int] = []
_REGISTER = "_setup_privateuseone_for_python_backend"
AVAILABLE = hasattr(backend_registration, _REGISTER)


class DeviceTensor(torch.Tensor):
    """A tensor on the fake device; ``hidden`` is the CPU tensor with its numbers."""

    hidden: torch.Tensor

    @staticmethod
    def __new__(cls, hidden: torch.Tensor) -> "DeviceTensor":
        """Wrap `hidden`, which nobody else may hold as a CPU tensor."""
        shell = torch.Tensor._make_wrapper_subclass(
            cls,
            hidden.size(),
            strides=hidden.stride(),
            storage_offset=hidden.storage_offset(),
            dtype=hidden.dtype,
            device=torch.device(DEVICE, 0),
        )
        shell.hidden = hidden
        return shell

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _execute(func, args, kwargs or {})

    @property
    def is_cuda(self) -> bool:
        """True: libraries ask this before they move a tensor to the CPU."""
        return True

    def numpy(self, *args, **kwargs):
        """Raise, as on every accelerator."""
        raise TypeError(f"can't convert {self.device} tensor to numpy: use .cpu()")

    __array__ = numpy

    def tolist(self) -> list:
        """Return the numbers, which torch refuses to do for a subclass."""
        note("read", "tolist")
        return self.hidden.tolist()

    def pin_memory(self, device=None):
        """Raise: only memory of the CPU can be pinned."""
        raise RuntimeError(f"cannot pin a tensor of {self.device}, only dense CPU ones")

    @property
    def data(self) -> "DeviceTensor":
        """The tensor without its gradient; assignment replaces the numbers."""
        return self.detach()

    @data.setter
    def data(self, value: "DeviceTensor") -> None:
        if value.size() != self.size():
            raise NotImplementedError("assignment to data changed a tensor's shape")
        self.hidden = value.hidden

    def __reduce_ex__(self, protocol):
        """Pickle as torch does for devices whose storage it cannot read."""
        if isinstance(self, torch.nn.Parameter):
            parts = self.detach(), self.requires_grad, OrderedDict()
            return torch._utils._rebuild_parameter, parts
        parts = self.hidden, self.dtype, str(self.device), self.requires_grad
        return torch._utils._rebuild_device_tensor_from_cpu_tensor, parts

    def __repr__(self) -> str:
        return f"DeviceTensor({self.hidden!r})"


class _DeviceMode(TorchDispatchMode):
    """Sees what no `DeviceTensor` takes part in: factories and moves to the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if _names_device(kwargs) or _on_device(tree_leaves((args, kwargs))):
            return _execute(func, args, kwargs)
        return func(*args, **kwargs)


class _ConstructorMode(TorchFunctionMode):
    """Sees the constructors that bypass dispatch: they build on the CPU, then move."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.new_tensor:
            kwargs = {"device": args[0].device, "dtype": args[0].dtype} | kwargs
            func, args = torch.tensor, args[1:]
        if func not in {torch.tensor, torch.as_tensor} or not _names_device(kwargs):
            return func(*args, **kwargs)
        tensor = func(*args, **_on_cpu(kwargs)).detach().to(kwargs["device"])
        return tensor.requires_grad_(kwargs.get("requires_grad", False))


def _execute(func, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Check the devices of one operation, then compute it on the hidden tensors."""
    leaves = tree_leaves((args, kwargs))
    operands = _on_device(leaves)
    stays = _names_device(kwargs) if kwargs.get("device") else bool(operands)
    name = func._schema.name
    if name not in COPIES:
        _check_one_device(name, args, leaves)
    if stays:
        _check_generator(leaves)
    _check_process()
    _check_copy(name, operands, kwargs)
    if name in _FUSED:
        _check_strides(args)
    note_operation(func, args, kwargs)

    cpu_args, cpu_kwargs = tree_map(_hidden, (args, _on_cpu(kwargs)))
    result = func(*cpu_args, **cpu_kwargs)
    if name == "aten::copy_":  # the destination, on either device
        return args[0]
    if not stays:
        return result
    shells = {id(tensor.hidden): tensor for tensor in operands}
    return tree_map(lambda leaf: _shell(leaf, shells), result)


def _check_one_device(name: str, args: tuple, leaves: list) -> None:
    """Raise where an accelerator would; numbers on the CPU may always take part."""
    cpu = [
        leaf
        for leaf in leaves
        if isinstance(leaf, torch.Tensor)
        and not isinstance(leaf, DeviceTensor)
        and leaf.dim() > 0
    ]
    # a tensor on the device may be indexed by one on the CPU, not the other way round
    indexed_on_device = name in INDEXING and isinstance(args[0], DeviceTensor)
    if cpu and _on_device(leaves) and not indexed_on_device:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found "
            f"{DEVICE}:0 and cpu! (in {name})"
        )


def _check_generator(leaves: list) -> None:
    if any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(
            f"Expected a '{DEVICE}' device type for generator but found 'cpu'"
        )


def _check_process() -> None:
    if os.getpid() != _REGISTERED[-1]:
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")


def _check_copy(name: str, operands: list, kwargs: dict[str, Any]) -> None:
    """Raise if a copy to the CPU does not wait: its numbers may be read too early."""
    to_cpu = name == "aten::_to_copy" and operands and not _names_device(kwargs)
    if to_cpu and kwargs.get("device") and kwargs.get("non_blocking"):
        raise RuntimeError("a copy to the CPU must not be non_blocking")


def _check_strides(args: tuple) -> None:
    """Raise where the fused kernel of CUDA refuses what that of the CPU takes."""
    lists = [part for part in args if isinstance(part, list | tuple) and part]
    weights, gradients, *averages = lists
    for weight, *others in zip(weights, gradients, *averages[:2], strict=True):
        for other in others:
            same = (weight.dtype, weight.shape) == (other.dtype, other.shape)
            if not (same and _strides(weight) == _strides(other)):
                raise RuntimeError(
                    "params, grads, exp_avgs, and exp_avg_sqs must have same dtype, "
                    "device, and layout"
                )


def _strides(tensor: torch.Tensor) -> list[int]:
    sizes = zip(tensor.size(), tensor.stride(), strict=True)
    return [stride for size, stride in sizes if size != 1]


def _names_device(kwargs: dict[str, Any]) -> bool:
    device = kwargs.get("device")
    return device is not None and torch.device(device).type == DEVICE


def _on_device(leaves: list) -> list[DeviceTensor]:
    return [leaf for leaf in leaves if isinstance(leaf, DeviceTensor)]


def _on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    replacement = {"device": torch.device("cpu"), "pin_memory": False}
    return {
        key: value if value is None else replacement.get(key, value)
        for key, value in kwargs.items()
    }


def _hidden(leaf: Any) -> Any:
    return leaf.hidden if isinstance(leaf, DeviceTensor) else leaf


def _shell(leaf: Any, shells: dict[int, DeviceTensor]) -> Any:
    """Wrap a result; an operation in place returns the tensor it was given."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    shell = shells.get(id(leaf))
    if shell is None:
        return DeviceTensor(leaf)
    if shell.size() != leaf.size() or shell.stride() != leaf.stride():
        raise NotImplementedError("an operation in place changed a tensor's shape")
    return shell


@functools.cache
def _register() -> None:
    """Make torch know the device, for the rest of the process."""
    getattr(backend_registration, _REGISTER)(DEVICE)
    _REGISTERED.append(os.getpid())
    with _DeviceMode():
        number = torch.ones(1).to(DEVICE).requires_grad_()
        try:
            number.backward(torch.ones(1).to(DEVICE))
        except RuntimeError as error:
            raise RuntimeError(
                "the fake device must be registered before the first backward pass "
                "of the process; use runs_on_fake_device in tests"
            ) from error


@contextmanager
def fake_device() -> Iterator[str]:
    """Give the name of the fake device, usable while the context lasts.

    The first use registers the device for the whole process, see the module.
    """
    _register()
    with _DeviceMode(), _ConstructorMode():
        yield DEVICE


def fork() -> int:
    """Fork the helper process, whose autograd has threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded")
        return os.fork()


needs_fake_device = pytest.mark.skipif(
    not AVAILABLE, reason="this torch has no devices written in Python"
)


def runs_on_fake_device(test: Callable[..., None]) -> Callable[..., None]:
    """Run ``test(device, ...)``, a function of a module, in the helper process.

    Further arguments (fixtures, parameters) must be picklable. The test is skipped
    where torch cannot imitate a device.
    """

    @functools.wraps(test)
    def in_helper(*args, **kwargs):
        call = _helper().submit(_call, in_helper, args, kwargs)
        call.result(timeout=HELPER_TIMEOUT)

    signature = inspect.signature(test)
    device, *others = signature.parameters.values()
    assert device.name == "device"
    in_helper.__signature__ = signature.replace(parameters=others)
    return needs_fake_device(in_helper)


def _call(test: Callable[..., None], args: tuple, kwargs: dict[str, Any]) -> None:
    with fake_device() as device:
        test.__wrapped__(device, *args, **kwargs)


@functools.cache
def _helper() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=warnings.simplefilter,
        initargs=("error",),
    )
