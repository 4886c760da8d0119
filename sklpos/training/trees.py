"""Trees of dicts, lists and tuples, such as a ``state_dict``: mapped and copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

_CONTAINERS = (dict, list, tuple)


def map_leaves(function: Callable, tree):
    """Apply a function to the leaves of nested dicts, lists and tuples.

    Parameters
    ----------
    function : callable
    tree : object
        Anything that is not a dict, list or tuple is a leaf.

    Returns
    -------
    object
        New containers.

    Examples
    --------
    >>> map_leaves(abs, {"a": [-1, (2, -3)]})
    {'a': [1, (2, 3)]}
    """
    # No call for a leaf of a dict, as a state holds many of them.
    if isinstance(tree, dict):
        return {
            key: map_leaves(function, item)
            if isinstance(item, _CONTAINERS)
            else function(item)
            for key, item in tree.items()
        }
    if isinstance(tree, (list, tuple)):
        # The constructor of a subclass, such as a named tuple, may differ.
        kind = tuple if isinstance(tree, tuple) else list
        return kind(map_leaves(function, item) for item in tree)
    return function(tree)


def copied(tree):
    """Copy the containers and the tensors of a tree; everything else is shared."""
    return map_leaves(_copy_tensor, tree)


class Copies:
    """Copies of the tensors of a tree, in memory that is used again.

    New memory for many small tensors takes longer than to copy them.

    Examples
    --------
    >>> import torch
    >>> copies, weight = Copies(), torch.zeros(2)
    >>> _ = copies.hold({"weights": [weight]})
    >>> weight += 1
    >>> copies["weights"]
    [tensor([0., 0.])]
    """

    def __init__(self):
        self._tree: dict[str, Any] = {}
        self._tensors: list[Tensor] = []
        self._forms: list[tuple] = []

    @torch.no_grad()
    def hold(self, tree: dict[str, Any]) -> Self:
        """Copy a tree of dicts, lists and tuples; an earlier one is lost.

        Parameters
        ----------
        tree : dict

        Returns
        -------
        Copies
            Itself.
        """
        live: list[Tensor] = []

        def note(leaf):
            if isinstance(leaf, Tensor):
                live.append(leaf)
            return leaf

        self._tree = map_leaves(note, tree)
        forms = [(leaf.shape, leaf.dtype, leaf.layout) for leaf in live]
        # Sparse tensors of one shape may hold different numbers of values.
        dense = all(layout is torch.strided for *_, layout in forms)
        if not dense or forms != self._forms:
            self._tensors = list(map(_copy_tensor, live))
            self._forms = forms
        elif live:
            # One call for all, as each takes longer than most of the copies.
            torch._foreach_copy_(self._tensors, live)
        return self

    def __getitem__(self, key: str) -> Any:
        tensors = iter(self._tensors)

        def kept(leaf):
            return next(tensors) if isinstance(leaf, Tensor) else leaf

        return map_leaves(kept, self._tree)[key]


def _copy_tensor(leaf):
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf
