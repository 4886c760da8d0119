"""Digest of stored state, by which damage and later changes are found."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

# Compared by value and not by type: a loader may return a number as its base class.
_NUMBERS = bool, int, float, complex
_CONTAINERS = dict, list, tuple, set, frozenset


def state_digest(tree: Any) -> str:
    """Digest of plain containers, numbers, text and arrays.

    It is the same before and after pickle, joblib and skops. It tells an accident from
    an honest file, but whoever changes a file on purpose can compute it, too.

    Parameters
    ----------
    tree : dict
        Of other objects in it, only that there is one counts.

    Returns
    -------
    str

    Examples
    --------
    >>> state_digest({"a": [1, 2]}) == state_digest({"a": [1, np.int64(2)]})
    True
    >>> state_digest({"a": [1, 2]}) == state_digest({"a": (1, 2)})
    False
    """
    return _digest(tree, {}).hex()


def _digest(tree: Any, known: dict[int, tuple[Any, bytes]]) -> bytes:
    """Digest of a container, from those of its parts."""
    if id(tree) not in known:
        # What contains itself; objects are held, because ids are used again.
        known[id(tree)] = tree, b"itself"
        written: list[bytes] = []
        for part in _parts(tree):
            own = _bytes_of(part)
            own = _digest(part, known) if own is None else own
            # Its length keeps a part from passing into the next one.
            written += b"%d:" % len(own), own
        digest = hashlib.blake2b(b"".join(written), digest_size=16)
        known[id(tree)] = tree, digest.digest()
    return known[id(tree)][1]


def _parts(tree: Any) -> list:
    """The kind of a container, and what it holds."""
    if isinstance(tree, dict):
        return ["dict", *(item for pair in tree.items() for item in pair)]
    if isinstance(tree, np.ndarray):
        return ["array", tree.shape, *tree.ravel().tolist()]
    if isinstance(tree, (set, frozenset)):
        # Sets have no order of their own.
        return ["set", *sorted(tree, key=repr)]
    return ["list" if isinstance(tree, list) else "tuple", *tree]


def _bytes_of(value: Any) -> bytes | None:
    """The bytes of a value; None for a container."""
    # Most values are names, and most others are containers.
    if isinstance(value, str):
        return b"str" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, _CONTAINERS):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    for kind in _NUMBERS:
        if isinstance(value, kind):
            return kind.__repr__(value).encode()
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            return None
        return f"{value.dtype.str}{value.shape}".encode() + value.tobytes()
    if isinstance(value, bytes):
        return b"bytes" + value
    return b"None" if value is None else b"object"
