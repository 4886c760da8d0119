"""The gradients of all weights in one tensor, so that one message averages them."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor


class JointGradients:
    """The gradients of several weights, one after the other in one tensor.

    Each step copies them into it once; the gradients that it leaves in the weights are
    parts of it.

    Examples
    --------
    >>> weights = [torch.zeros(2), torch.zeros(1)]
    >>> weights[0].grad = torch.tensor([2.0, 4.0])
    >>> JointGradients().average(weights, lambda joined: joined.div_(2))
    >>> weights[0].grad, weights[1].grad
    (tensor([1., 2.]), None)
    """

    def __init__(self):
        self._layout: list[tuple] = []

    def average(
        self,
        weights: list[Tensor],
        average: Callable[[Tensor], object],
        *,
        fresh: bool = False,
    ) -> None:
        """Average the gradients of weights, in place.

        Parameters
        ----------
        weights : list of torch.Tensor
            A gradient of None counts as zero, and stays None if it is so in all
            processes.
        average : callable
            Takes the joined gradients, and replaces them by their mean.
        fresh : bool, default=False
            Put them into a new tensor, so that those of the last step, which somebody
            may have kept, stay as they are.
        """
        if not weights:
            return
        self._lay_out(weights, fresh)
        missing = self._copy_from(weights)
        average(self._joined)
        # Read only if a gradient is missing, since that waits for a device.
        unused = {k for k in missing if not self._used[k]}
        for k, (weight, part) in enumerate(zip(weights, self._parts, strict=True)):
            # A weight that no process used must stay without a gradient.
            weight.grad = None if k in unused else part.to(weight.dtype)

    def _lay_out(self, weights: list[Tensor], fresh: bool) -> None:
        """Make room for the gradients, unless it is there."""
        layout = [(weight.shape, weight.dtype, weight.device) for weight in weights]
        if layout == self._layout and not fresh:
            return
        self._layout = layout
        sizes = [shape.numel() for shape, _, _ in layout]
        dtype = reduce(torch.promote_types, (dtype for _, dtype, _ in layout))
        # Behind the gradients: in how many processes each weight has one.
        n_values = sum(sizes) + len(weights)
        self._joined = torch.empty(n_values, dtype=dtype, device=weights[0].device)
        *parts, self._used = self._joined.split([*sizes, len(weights)])
        self._parts = [
            part.view(shape) for part, (shape, _, _) in zip(parts, layout, strict=True)
        ]

    def _copy_from(self, weights: list[Tensor]) -> list[int]:
        """Copy the gradients, and find the weights that have none."""
        own = [weight.grad for weight in weights]
        missing = [k for k, gradient in enumerate(own) if gradient is None]
        self._used.fill_(1)
        for k in missing:
            self._used[k] = 0
            own[k] = torch.zeros_like(weights[k])
        # Those of an embedding may be sparse.
        dense = [gradient.detach().to_dense() for gradient in own]
        torch._foreach_copy_(self._parts, dense)
        return missing
