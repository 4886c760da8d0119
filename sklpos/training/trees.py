"""Nested dicts, lists and tuples: copied, and made fit for a file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

_ARRAY = "__ndarray__"  # marks a tensor that was numpy's
_SCALARS = (bool, int, float, str, type(None))


def map_leaves(function: Callable, tree):
    """Apply a function to what dicts, lists and tuples hold, however deep.

    Parameters
    ----------
    function : callable
    tree : object
        What is no dict, list or tuple is a leaf.

    Returns
    -------
    object
        New containers.

    Examples
    --------
    >>> map_leaves(abs, {"a": [-1, (2, -3)]})
    {'a': [1, (2, 3)]}
    """
    if isinstance(tree, dict):
        return {key: map_leaves(function, item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        kind = tuple if isinstance(tree, tuple) else list
        return kind(map_leaves(function, item) for item in tree)
    return function(tree)


def copied(tree):
    """Return new containers with copies of the tensors; all else is shared."""
    return map_leaves(_copy_tensor, tree)


def to_storable(tree):
    """Return a tree of what ``torch.load(weights_only=True)`` reads.

    Parameters
    ----------
    tree : object
        Of numbers, strings, arrays and tensors.

    Returns
    -------
    object

    Raises
    ------
    TypeError
        If something else is in it.
    """
    return map_leaves(_to_storable, tree)


def from_storable(tree):
    """Return the tree that `to_storable` was given, tensors on the CPU.

    Parameters
    ----------
    tree : object

    Returns
    -------
    object
    """
    if isinstance(tree, dict) and tree.keys() == {_ARRAY}:
        return tree[_ARRAY].numpy()[()]  # without axes it was a scalar
    if isinstance(tree, dict):
        return {key: from_storable(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(map(from_storable, tree))
    return tree


def _copy_tensor(leaf):
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _to_storable(leaf):
    if isinstance(leaf, (np.ndarray, np.generic)):
        return {_ARRAY: torch.as_tensor(np.asarray(leaf))}
    if isinstance(leaf, Tensor):
        return leaf.detach().cpu()
    if isinstance(leaf, _SCALARS):
        return leaf
    raise TypeError(
        f"a file stores numbers, strings, arrays and tensors, not {leaf!r}."
    )
