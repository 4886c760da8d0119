"""The shape of a module's outputs: checked, and made (n_samples, n_outputs)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sklpos.nets.as_matrix import AsMatrix
from sklpos.nets.tracing import trace

#: Layers that pass on their numbers, in order.
RESHAPING = (nn.Identity, nn.Flatten, nn.Unflatten, AsMatrix)


def with_matrix_outputs(
    module: nn.Module, X: Tensor, n_outputs: int | None = None
) -> nn.Module:
    """Put `AsMatrix` behind a module that ends in ``squeeze`` or ``flatten``.

    Otherwise, a vector of predictions minus a matrix of targets would be one difference
    for each pair of rows.

    Parameters
    ----------
    module : nn.Module
        Left in eval mode.
    X : torch.Tensor of shape (1, ...)
        Any row.
    n_outputs : int, optional
        By default as many as the module has.

    Returns
    -------
    nn.Module
        The module itself if its outputs are (n_samples, n_outputs) already.

    Raises
    ------
    ValueError
        If it returns something else.
    """
    if n_outputs is None:
        shape = _shape(trace(module, torch.cat([X, X]))[0])
        n_outputs = shape[-1] if len(shape) > 1 else 1
    matrices = True
    # Of one row, `squeeze` drops the rows as well; more rows than outputs tell them
    # apart from outputs.
    for n_rows in (1, n_outputs + 1):
        output = trace(module, torch.cat([X] * n_rows))[0]
        if not _has_numbers(output, (n_rows, n_outputs)):
            raise ValueError(_refusal(output, n_rows, n_outputs))
        matrices &= _shape(output) == (n_rows, n_outputs)
    return module if matrices else nn.Sequential(module, AsMatrix(n_outputs))


def without_matrix_outputs(module: nn.Module, like: nn.Module) -> nn.Module:
    """Undo `with_matrix_outputs`.

    Parameters
    ----------
    module : nn.Module
        What it returned, or a copy.
    like : nn.Module
        What it was given, or a copy.

    Returns
    -------
    nn.Module
    """
    return module[0] if _is_wrapped(module) and not _is_wrapped(like) else module


def _is_wrapped(module: nn.Module) -> bool:
    layers = list(module) if type(module) is nn.Sequential else []
    return bool(layers) and type(layers[-1]) is AsMatrix


def _shape(output: object) -> tuple[int, ...]:
    return tuple(output.shape) if isinstance(output, Tensor) else ()


def _has_numbers(output: object, shape: tuple[int, int]) -> bool:
    """Whether an output has a shape, but for dimensions of size 1."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return False
    kept = [[size for size in own if size != 1] for own in (output.shape, shape)]
    return kept[0] == kept[1]


def _refusal(output: object, n_rows: int, n_outputs: int) -> str:
    wanted = f"module must map (n_samples, n_features) to (n_samples, {n_outputs})"
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        return f"{wanted}, but it returned a {kind}; return the predictions alone."
    if not output.is_floating_point():
        return f"{wanted} in floating-point numbers, but it returned {output.dtype}."
    rows = "one sample" if n_rows == 1 else f"{n_rows} samples"
    return f"{wanted}, but for {rows} it returned {tuple(output.shape)}."
