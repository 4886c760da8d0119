"""Which training steps can be recorded as a graph, and what a record depends on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sklpos.nets.precision import autocast_types
from sklpos.training.callbacks import MultiplierAscent
from sklpos.training.epoch import EACH_BATCH
from sklpos.training.loaders import BatchLoader
from sklpos.training.stacked import StackBackprop
from sklpos.training.state import trained_parts

_HOOKS = (*EACH_BATCH, "on_violation", "on_domain_violation")
# Hyper-parameters that a record reads from tensors.
_FOLLOWED = {"params", "lr", "initial_lr"}


def is_capturable(optimizer: Callable) -> bool:
    """Whether an optimizer keeps its state where a graph can change it.

    Parameters
    ----------
    optimizer : callable
        Class of the optimizer.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_capturable(torch.optim.AdamW), is_capturable(torch.optim.LBFGS)
    (True, False)
    """
    return "capturable" in inspect.signature(optimizer).parameters


def check_recordable(net: Any, iterator: Any, devices: Mapping[str, Any]) -> None:
    """Refuse steps that do something else each time, or that need an answer.

    Parameters
    ----------
    net : ConstrainedNet
        With ``cuda_graph=True``.
    iterator : iterable of Batch
        Training batches.
    devices : mapping
        By the types of device that record.

    Raises
    ------
    ValueError
        One sentence that says what to change.
    """
    if torch.device(net.device).type not in devices:
        raise ValueError(
            f"cuda_graph=True needs a GPU of CUDA, but device={str(net.device)!r}; use "
            "device='cuda', or leave out cuda_graph."
        )
    for obstacle in _obstacles(net, iterator):
        raise ValueError(
            f"cuda_graph=True records a step once and cannot record {obstacle}; leave "
            "that out, or leave out cuda_graph."
        )


def _obstacles(net: Any, iterator: Any) -> Iterator[str]:
    """What cannot be recorded of a net, as the end of a sentence."""
    for listener in _listeners(net):
        yield f"the callback {type(listener.__self__).__name__}, which sees each batch"
    if not is_capturable(type(net.optimizer_)):
        yield f"optimizer={type(net.optimizer_).__name__}, whose state is on the CPU"
    if net.stochastic:
        yield "a module that draws random numbers, such as dropout"
    if net.autocast is not None or autocast_types():
        yield "products in lower precision (autocast)"
    if net.compile:
        yield "a module behind torch.compile, which has mode='reduce-overhead' for it"
    if net.run_.world.grouped:
        yield "the steps of several processes"
    if type(iterator) is not BatchLoader or iterator.may_repeat:
        yield "batches of a sampler or of an iterator of your own"


def _listeners(net: Any) -> list[Callable]:
    """Hooks within a step that may do anything."""
    own = MultiplierAscent.on_violation, MultiplierAscent.on_domain_violation
    return [
        listener
        for hook in _HOOKS
        for listener in net.listeners(hook)
        if getattr(listener, "__func__", listener) not in own
    ]


def recorded_state(net: Any) -> list[Any]:
    """Everything that a record depends on, but for the numbers in tensors.

    Parameters
    ----------
    net : ConstrainedNet

    Returns
    -------
    list
        See `holds`.
    """
    optimizer = net.optimizer_
    parts = [part for part in trained_parts(net).values() if part is not optimizer]
    weights = [weight for part in parts for weight in part.parameters()]
    tensors = [
        *weights,
        *(values for part in parts for values in part.buffers()),
        *(value for state in optimizer.state.values() for value in state.values()),
        *_memory_of(net.steps_.passes),
    ]
    return [
        *(layer for part in parts for layer in part.modules()),
        *((values, _address(values)) for values in tensors),
        *(weight.requires_grad for weight in weights),
        *map(_fixed_values, optimizer.param_groups),
        [callback.infeasible_rows_ for callback in _ascents(net)],
        net.strategy_.get_params(),
        type(net.steps_.passes),
    ]


def holds(before: list[Any], now: list[Any]) -> bool:
    """Whether a record made in an earlier state holds in the present one.

    Parameters
    ----------
    before, now : list
        From `recorded_state`.

    Returns
    -------
    bool
    """
    return len(before) == len(now) and all(map(_matches, before, now))


def _matches(own: Any, other: Any) -> bool:
    if isinstance(own, tuple) and isinstance(other, tuple):
        return own[0] is other[0] and own[1] == other[1]
    return own is other or (not isinstance(own, nn.Module) and own == other)


def _address(values: Any) -> int:
    # Numbers have none, and subclasses of tensors written in Python may not.
    plain = type(values) in (Tensor, nn.Parameter) and values.layout is torch.strided
    return values.data_ptr() if plain else 0


def _memory_of(passes: Any) -> list[Tensor]:
    return list(passes.encoded or ()) if isinstance(passes, StackBackprop) else []


def _fixed_values(group: dict[str, Any]) -> dict[str, Any]:
    """Hyper-parameters that a record keeps as numbers."""
    followed = _FOLLOWED
    # A record reads the decay of AdamW from a tensor, too.
    if group.get("decoupled_weight_decay"):
        followed = _FOLLOWED | {"weight_decay"}
    return {name: value for name, value in group.items() if name not in followed}


def _ascents(net: Any) -> list[MultiplierAscent]:
    return [own for _, own in net.callbacks_ if isinstance(own, MultiplierAscent)]
