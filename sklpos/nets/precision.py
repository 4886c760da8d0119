"""Lower precision by torch's autocast: where it is on, and where it must not be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


def autocast_state() -> dict[str, Any]:
    """Everything that the autocast contexts of the present thread have set.

    Returns
    -------
    dict
    """
    kinds = [
        (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        for kind in _DEVICE_TYPES
    ]
    return {
        "kinds": kinds,
        "caches": torch.is_autocast_cache_enabled(),
        "nesting": _nesting(),
    }


def set_autocast_state(state: dict[str, Any]) -> None:
    """Go back to a state, whatever contexts were left open since.

    Parameters
    ----------
    state : dict
        From `autocast_state`.
    """
    for kind, enabled, dtype in state["kinds"]:
        if torch.is_autocast_enabled(kind) is not enabled:
            torch.set_autocast_enabled(kind, enabled)
        if torch.get_autocast_dtype(kind) is not dtype:
            torch.set_autocast_dtype(kind, dtype)
    torch.set_autocast_cache_enabled(state["caches"])
    depth = _nesting()
    for _ in range(depth - state["nesting"]):
        torch.autocast_decrement_nesting()
    # A context drops its copies of the weights only where it is the outermost one.
    if depth > state["nesting"] == 0:
        torch.clear_autocast_cache()


def _nesting() -> int:
    """Number of autocast contexts that are open."""
    # torch tells it only where it counts. In one line, which no trace function cuts.
    return torch.autocast_increment_nesting() + torch.autocast_decrement_nesting() >> 1
