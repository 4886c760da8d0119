"""Rows that a module cannot take, in words."""

from __future__ import annotations

import functools
import re

import torch
from torch import Tensor, nn

from sklpos.nets.hints import shortened
from sklpos.nets.modules import MLP
from sklpos.nets.stack import Stack

# Longer messages of torch list whole shapes of weights.
_LONGEST = 150


def takes_any_shape(module: object) -> bool:
    """Whether a module may take rows that are images or sequences.

    Parameters
    ----------
    module : type, callable or nn.Module
        Any but those of this package may.

    Returns
    -------
    bool

    Examples
    --------
    >>> takes_any_shape(MLP), takes_any_shape(nn.Conv1d(1, 1, 1))
    (False, True)
    """
    while isinstance(module, functools.partial):
        module = module.func
    kind = module if isinstance(module, type) else type(module)
    return kind not in (MLP, Stack)


def check_dimensions(module: object, X) -> bool:
    """Refuse images and sequences for a module of this package.

    Parameters
    ----------
    module : type, callable or nn.Module
    X : array-like of shape (n_samples, ...)

    Returns
    -------
    bool
        Whether X may have more than two dimensions.

    Raises
    ------
    ValueError
    """
    any_shape = takes_any_shape(module)
    if not any_shape and getattr(X, "ndim", 2) > 2:
        raise ValueError(
            f"Found X with dim {X.ndim}, but this module takes (n_samples, "
            "n_features); flatten the rows, or pass a module for them, such as a "
            "convolutional net."
        )
    return any_shape


def misfit(module: nn.Module, X: Tensor, error: Exception) -> ValueError:
    """Make the error about a module that failed on rows.

    Parameters
    ----------
    module : nn.Module
    X : torch.Tensor of shape (n_samples, ...)
    error : Exception
        What the module raised.

    Returns
    -------
    ValueError
    """
    if "indices" in str(error) and any(
        isinstance(layer, nn.Embedding) for layer in module.modules()
    ):
        dtype = str(X.dtype).removeprefix("torch.")
        return ValueError(
            "module has an nn.Embedding, which takes integers, but every X reaches "
            f"a module as {dtype}; write X.long() in its forward."
        )
    shape = tuple(X.shape[1:])
    rows = f"{shape[0]} features" if len(shape) == 1 else f"rows of shape {shape}"
    said = f"{type(error).__name__}: {shortened(str(error), _LONGEST)}"
    # torch speaks of two matrices.
    widths = re.search(r"multiplied \(\d+x(\d+) and (\d+)x\d+\)", str(error))
    if widths:
        said = f"an nn.Linear of {widths[2]} inputs gets {widths[1]} values"
    return ValueError(f"module cannot take X with {rows}: {said}")


@torch.inference_mode()
def check_row(module: nn.Module, X) -> None:
    """Raise ValueError if a module cannot take rows of this shape.

    Parameters
    ----------
    module : nn.Module
        Left in eval mode.
    X : ndarray, torch.Tensor or ItemTensor of shape (n_samples, ...)

    Raises
    ------
    ValueError
    """
    row = torch.as_tensor(X[:1]).to(next(module.parameters()))
    try:
        module.eval()(row)
    except Exception as error:
        raise misfit(module, row, error) from error
