"""The module that `repair_head` is given: copied, checked and inspected."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from sklpos.nets.bounded import BoundedModel
from sklpos.nets.bounds import Bounds
from sklpos.nets.head import find_head
from sklpos.nets.shapes import with_matrix_outputs
from sklpos.nets.tracing import trace


def read_module(
    module: nn.Module,
    row: NDArray,
    lower_bound: ArrayLike | None,
    upper_bound: ArrayLike | None,
) -> BoundedModel:
    """Copy a module, put the copy into eval mode and find its head.

    Parameters
    ----------
    module : nn.Module
        Not changed, and not run.
    row : ndarray of shape (1, ...)
        One row.
    lower_bound, upper_bound : float, array-like of shape (n_outputs,) or None

    Returns
    -------
    BoundedModel
        Of a module whose outputs are (n_samples, n_outputs), see `with_matrix_outputs`.

    Raises
    ------
    ValueError
        If the module does not end in a plain ``nn.Linear``, or cannot be repaired for
        another reason.
    """
    _check_dtypes(module)
    own = _copied(module).eval()
    example = torch.as_tensor(row).to(next(own.parameters()))
    own = with_matrix_outputs(own, example)
    _check_repeatable(own, example)
    n_outputs = trace(own, example)[0].shape[1]
    head = find_head(own, example, n_outputs)
    _check_own_weights(own, own.get_submodule(head))
    bounds = Bounds.read(lower_bound, upper_bound, n_outputs)
    return BoundedModel(own, head, bounds=bounds, scale=np.ones(n_outputs))


def copy_modes(source: nn.Module, target: nn.Module) -> None:
    """Put each submodule of a copy into the mode of the original, in place.

    Parameters
    ----------
    source, target : nn.Module
        Of the same structure.
    """
    # Not `train(mode)`, which a module may override, for example to freeze a layer.
    for theirs, ours in zip(source.modules(), target.modules(), strict=True):
        ours.training = theirs.training


def _check_dtypes(module: nn.Module) -> None:
    if not isinstance(module, nn.Module):
        raise ValueError(f"module={module!r} must be an nn.Module.")
    if next(module.parameters(), None) is None:
        raise ValueError("module has no weights; it must end in nn.Linear.")
    for name, weight in module.named_parameters():
        if weight.dtype not in (torch.float32, torch.float64):
            dtype = str(weight.dtype).removeprefix("torch.")
            raise ValueError(
                f"module holds {name!r} in {dtype}, which is too coarse to hold a "
                "bound exactly; pass module.float(), or a copy in float32."
            )


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    # torch cannot copy weights that are computed, as by `weight_norm`.
    except RuntimeError as error:
        raise ValueError(f"module cannot be copied: {error}") from error


def _check_repeatable(module: nn.Module, row: Tensor) -> None:
    output, again = (trace(module, row)[0] for _ in range(2))
    # Not `torch.equal`, for which NaN differs from NaN.
    if not torch.allclose(output, again, rtol=0, atol=0, equal_nan=True):
        raise ValueError(
            "module predicts something else each time, even in eval mode; remove the "
            "layers that draw random numbers there."
        )


def _check_own_weights(module: nn.Module, head: nn.Linear) -> None:
    """Refuse a head that shares a weight with another layer."""
    own = set(map(id, head.parameters()))
    # Without recursion, because every container around the head has its weights, too.
    for name, layer in module.named_modules():
        if layer is not head and own & set(map(id, layer.parameters(recurse=False))):
            raise ValueError(
                f"module shares a weight of its last nn.Linear with {name!r}, which "
                "the repair would change as well; give the last layer its own weight."
            )
