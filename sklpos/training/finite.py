"""What training leaves: finite numbers, and none that slow down every pass."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from sklpos.nets.placement import fetched


def infinite_buffers(net: Any) -> set[str]:
    """Names of the buffers of a module that are not finite before it trains.

    The mask of an attention layer, for instance, is infinite on purpose.

    Parameters
    ----------
    net : ConstrainedNet

    Returns
    -------
    set of str
    """
    buffers = dict(net.module_.named_buffers())
    known = zip(buffers, _are_finite(buffers.values()), strict=True)
    return {name for name, finite in known if not finite}


def check_weights(net: Any, masks: set[str]) -> None:
    """Look at what the last step left; losses are computed before a step.

    Parameters
    ----------
    net : ConstrainedNet
    masks : set of str
        Buffers that may be infinite.

    Raises
    ------
    DivergenceError
        If a weight or another buffer is not finite.
    """
    buffers = dict(net.module_.named_buffers())
    changing = [buffers[name] for name in buffers.keys() - masks]
    if not all(_are_finite([*net.module_.parameters(), *changing])):
        raise net.divergence("a weight is no longer a finite number after")


@torch.no_grad()
def flush_subnormals(net: Any) -> None:
    """Set trained weights to 0 that are too small for the full speed of a processor.

    Decay brings the weights of units that never fire there, in tens of thousands of
    steps. Passes through a net with such weights take several times as long.

    Parameters
    ----------
    net : ConstrainedNet
    """
    for weight in net.module_.parameters():
        if weight.requires_grad and _is_dense(weight):
            tiny = torch.finfo(weight.dtype).tiny
            weight.masked_fill_(weight.abs() < tiny, 0)


def _are_finite(tensors: Collection[Tensor]) -> list[bool]:
    # torch does not look into sparse tensors, which no step of training changes.
    known = [values.isfinite().all() for values in tensors if _is_dense(values)]
    found = iter(fetched(*known))
    return [not _is_dense(values) or bool(next(found)) for values in tensors]


def _is_dense(values: Tensor) -> bool:
    return values.layout is torch.strided
