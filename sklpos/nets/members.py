"""The members of one kind of a `Stack`: small nets side by side."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sklpos.nets.bounds import Bounds
from sklpos.nets.nonnegative import NonnegativeBlocks

# Weight decay of the distance between the bias of a head and its bound, if the bound is
# no more than this many deviations away from the mean of y.
_BIAS_DECAY, _NEAR = 5.0, 3.0


class Members(nn.Module):
    """The members of one kind: one hidden layer and one head each.

    Parameters
    ----------
    n_inputs : int
        Features and their encoding.
    width : int
        Hidden units of each member.
    n_members, n_outputs : int

    Attributes
    ----------
    mean : torch.Tensor of shape (n_members * width,)
        Mean of the hidden units on the training rows, before training.

    Examples
    --------
    >>> Members(3, width=4, n_members=2, n_outputs=1).hidden
    Linear(in_features=3, out_features=8, bias=True)
    """

    def __init__(self, n_inputs: int, width: int, n_members: int, n_outputs: int):
        super().__init__()
        self.hidden = nn.Linear(n_inputs, n_members * width)
        linear = nn.Linear(width, n_members * n_outputs)
        free = np.full(linear.out_features, np.inf)
        self.head = NonnegativeBlocks(linear, Bounds(-free, free), n_members)
        self.register_buffer("mean", torch.zeros(n_members * width))

    @torch.no_grad()
    def hold(self, bounds: Bounds) -> None:
        """Replace the heads by ones within bounds, as near to their means as possible.

        Parameters
        ----------
        bounds : Bounds
            Of the outputs of all members.
        """
        mean = self.head(self.mean[None])[0]
        held = NonnegativeBlocks(self.head, bounds, self.head.n_blocks)
        # Weights of one sign add up. Training would spend its first steps on it.
        self.head.weight.copy_(held.effective()[0])
        self.start(mean)
        held.start_from(self.head)
        self.head = held

    @property
    def bias_decay(self) -> float:
        """Weight decay of the biases of the heads.

        They are drawn towards a bound that they cannot cross, as they are the smallest
        (or largest) outputs there can be. With a decay of d, none gets farther than
        about 1 / d, so it is less for a bound far away. 0 unless each output has one.
        """
        if not self.head.keeps_one_side:
            return 0.0
        distance = max(_NEAR, float(self.head.offset.abs().max()))
        return _BIAS_DECAY * (_NEAR / distance) ** 3

    @torch.no_grad()
    def start(self, mean: Tensor) -> None:
        """Move the biases of the heads, which are free, to a mean of their outputs.

        Parameters
        ----------
        mean : torch.Tensor of shape (n_members * n_outputs,)
        """
        self.head.bias.copy_(mean)
        self.head.bias.sub_(self.head(self.mean[None])[0] - mean)
