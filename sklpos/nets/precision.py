"""Lower precision by torch's autocast: where it is on, and where it must not be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Each has a flag of its own; weights may be on any of them.
_DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")


def autocast_types() -> list[str]:
    """Device types for which autocast is on.

    Returns
    -------
    list of str

    Examples
    --------
    >>> with torch.autocast("cpu"):
    ...     autocast_types()
    ['cpu']
    """
    return [kind for kind in _DEVICE_TYPES if torch.is_autocast_enabled(kind)]


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in the dtype of the weights, even if the caller uses autocast.

    A guarantee about predictions holds in the dtype in which it was checked.

    Examples
    --------
    >>> layer = torch.nn.Linear(1, 1)
    >>> with torch.autocast("cpu"), full_precision():
    ...     layer(torch.ones(1, 1)).dtype
    torch.float32
    """
    active = autocast_types()
    # Almost always there is none, and a prediction of a row takes microseconds.
    if not active:
        yield
        return
    kind, *_ = active
    # By recursion, since the autocast of each device type is a context of its own.
    with torch.autocast(kind, enabled=False), full_precision():
        yield
