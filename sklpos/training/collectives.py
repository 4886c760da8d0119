"""What processes tell each other: every message of a fit by several goes through here.

All functions wait until every process of the group has called the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# The group that messages go through, in the present thread; None for torch's default.
_GROUP: ContextVar[Any] = ContextVar("group", default=None)


class LostPeersError(RuntimeError):
    """The connection to another process was lost while this one waited for it."""


@contextmanager
def through(group: Any) -> Iterator[None]:
    """Send the messages of the present thread through a group of its own.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup
        Of all processes of the default group.
    """
    token = _GROUP.set(group)
    try:
        yield
    finally:
        _GROUP.reset(token)


def gather(own: object) -> list:
    """Share an object, and collect those of all processes, by rank.

    Parameters
    ----------
    own : object
        It is sent as a pickle.

    Returns
    -------
    list
    """
    everyone = [None] * dist.get_world_size()
    with naming_losses():
        dist.all_gather_object(everyone, own, group=_GROUP.get())
    return everyone


def from_first(own: object) -> Any:
    """Take over an object of the first process.

    Parameters
    ----------
    own : object
        Of this process; only that of the first is used.

    Returns
    -------
    object
    """
    held = [own if dist.get_rank() == 0 else None]
    with naming_losses():
        dist.broadcast_object_list(held, group=_GROUP.get())
    return held[0]


def to_first(own: object) -> list | None:
    """Collect the objects of all processes in the first one.

    Parameters
    ----------
    own : object

    Returns
    -------
    list or None
        By rank; None in all processes but the first.
    """
    everyone = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    with naming_losses():
        dist.gather_object(own, everyone, group=_GROUP.get())
    return everyone


def mean(own: Tensor) -> Tensor:
    """Mean of a tensor over the processes.

    Parameters
    ----------
    own : torch.Tensor

    Returns
    -------
    torch.Tensor
    """
    return average(own.clone())


def average(own: Tensor) -> Tensor:
    """Replace a tensor by its mean over the processes.

    Parameters
    ----------
    own : torch.Tensor
        Changed in place.

    Returns
    -------
    torch.Tensor
        The same tensor.
    """
    with naming_losses():
        dist.all_reduce(own, group=_group_for(own))
    return own.div_(dist.get_world_size())


def share(tensor: Tensor) -> None:
    """Give all processes the values of the first one, in place.

    Parameters
    ----------
    tensor : torch.Tensor
        Without a gradient.
    """
    # As bytes, because torch's backends do not know every dtype.
    values = tensor.reshape(-1).clone()
    with naming_losses():
        dist.broadcast(values.view(torch.uint8), src=0, group=_group_for(tensor))
    tensor.copy_(values.view_as(tensor))


def part() -> None:
    """Wait for all processes a last time, without any data."""
    with naming_losses():
        dist.barrier(group=_GROUP.get())


def _group_for(tensor: Tensor) -> Any:
    # Only NCCL connects accelerators without a detour, and only the default group of
    # the user says which process has which of them.
    direct = tensor.is_cuda and "nccl" in dist.get_backend_config()
    return None if direct else _GROUP.get()


@contextmanager
def naming_losses() -> Iterator[None]:
    """Tell apart errors of torch that come from the connections.

    Raises
    ------
    LostPeersError
    """
    try:
        yield
    # torch has no class of its own for a connection that another process closed.
    except RuntimeError as error:
        raise LostPeersError(
            "the connection to another process of the group was lost; it may have "
            "ended: start all processes again."
        ) from error
