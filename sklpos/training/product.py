"""The product: a copy of the trained module in the unit of y."""

from __future__ import annotations

import copy

import torch
from torch import nn

from sklpos.nets.stack import Stack
from sklpos.strategies.architecture import Architecture


@torch.no_grad()
def make_product(net) -> nn.Module:
    """Copy the trained module into the unit of y, with a plain head.

    Parameters
    ----------
    net : ConstrainedNet

    Returns
    -------
    nn.Module
        In eval mode; not repaired.
    """
    # The training state is never folded, so that training can resume bit for bit.
    module = copy.deepcopy(net.plain_module_)
    if isinstance(net.strategy_, Architecture):
        module = net.strategy_.finalize(module, net.head, net.targets)
    else:
        net.targets.fold(module.get_submodule(net.head))
    return module.eval()


def product_head(net) -> str | None:
    """Dotted name of the last ``nn.Linear`` of a product.

    Parameters
    ----------
    net : ConstrainedNet

    Returns
    -------
    str or None
        None if it has none.
    """
    # The heads of the members become one layer.
    return "head" if isinstance(net.plain_module_, Stack) else net.head
