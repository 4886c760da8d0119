"""The product: a copy of the trained module in the unit of y."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sklpos.nets.copies import copy_module
from sklpos.nets.mixing import plain_net
from sklpos.nets.stack import Stack
from sklpos.strategies.architecture import Architecture


@torch.no_grad()
def make_product(net) -> tuple[nn.Module, str | None]:
    """Copy the trained module into the unit of y, with a plain head.

    Parameters
    ----------
    net : ConstrainedNet

    Returns
    -------
    module : nn.Module
        In eval mode; not repaired.
    head : str or None
        Dotted name of its last ``nn.Linear``; None if it has none.
    """
    module, head = net.plain_module_, net.head
    # The training state is never folded, so that training can resume bit for bit.
    if isinstance(module, Stack):
        module, head = plain_net(module), "head"
    else:
        _detach_outputs(module)
        module = copy_module(module, {})
    if isinstance(net.strategy_, Architecture):
        module = net.strategy_.finalize(module, head, net.targets)
    else:
        net.targets.fold(module.get_submodule(head))
    return module.eval(), head


def _detach_outputs(module: nn.Module) -> None:
    """Detach what a module keeps of its last forward pass, such as attention weights.

    torch copies no tensor that has a history.
    """
    for layer in module.modules():
        for name, value in vars(layer).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                vars(layer)[name] = value.detach()
