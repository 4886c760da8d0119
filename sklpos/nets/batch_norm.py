"""Batch norm, which takes a variance over the rows of a batch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sklpos.nets.tracing import trace


def norm_over_rows(module: nn.Module, X: Tensor) -> str | None:
    """Find a layer that cannot train on a batch of one row.

    Batch norm over the pixels of an image has several values per row, and is fine.

    Parameters
    ----------
    module : nn.Module
        Left in eval mode.
    X : torch.Tensor of shape (1, ...)
        Any row.

    Returns
    -------
    str or None
        Name of the class of the layer; None if there is none.
    """
    # A module may keep some of them in eval mode, by a `train` of its own.
    module.train()
    training = {
        name
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.training
    }
    if not training:
        return None
    for call in trace(module, X)[1]:
        # One value per channel, as of the shape (1, n_channels).
        single = call.input.numel() == call.input.shape[1]
        if call.name in training and single:
            return type(call.layer).__name__
    return None
