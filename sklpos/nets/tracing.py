"""Run a module on a few rows, and see what its layers do with them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sklpos.nets.misfit import misfit


@dataclass(frozen=True)
class Call:
    """One call of a layer during a forward pass."""

    name: str
    layer: nn.Module
    input: Tensor
    output: Tensor
    version: int = 0

    def gives(self, output: object) -> bool:
        """Whether an output is that of this call, unchanged or only reshaped.

        Parameters
        ----------
        output : object
            What a later layer, or the whole module, returned.

        Returns
        -------
        bool
        """
        own = self.output
        if not isinstance(output, Tensor) or not isinstance(own, Tensor):
            return False
        # An operation in place, such as `F.relu_`, raises the version of the tensor.
        if _version_of(own) != self.version or output.numel() != own.numel():
            return False
        # The same memory, not equal values: an operation in between must be noticed.
        return output is own or _is_same_memory(output.reshape(own.shape), own)


@torch.no_grad()
def trace(module: nn.Module, X: Tensor) -> tuple[Tensor, list[Call]]:
    """Run a module in eval mode and record the calls of its layers, in order.

    Parameters
    ----------
    module : nn.Module
        Left in eval mode.
    X : torch.Tensor of shape (n_samples, n_features)
        A few rows.

    Returns
    -------
    output : torch.Tensor
    calls : list of Call
    """
    calls: list[Call] = []
    with ExitStack() as hooks:
        for name, layer in module.named_modules():
            # Containers are left out: their last layer has the same output.
            if not list(layer.children()):
                # A default argument, as a closure would see the last name only.
                def record(layer, args, output, name=name):
                    if args and isinstance(args[0], Tensor):
                        version = _version_of(output)
                        calls.append(Call(name, layer, args[0], output, version))

                hooks.callback(layer.register_forward_hook(record).remove)
        try:
            output = module.eval()(X)
        except Exception as error:
            # torch names the shapes of matrices, not the argument that is wrong.
            raise misfit(module, X, error) from error
    return output, calls


def _is_same_memory(one: Tensor, other: Tensor) -> bool:
    return (
        one.data_ptr() == other.data_ptr()
        and one.stride() == other.stride()
        and one.dtype == other.dtype
    )


def _version_of(output: object) -> int:
    """Number of operations in place on a tensor; they are not counted for inference."""
    counted = isinstance(output, Tensor) and not output.is_inference()
    return output._version if counted else 0
