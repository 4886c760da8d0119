"""The weights of several nets in one tensor, and their step of Adam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam


class JointWeights:
    """Trained weights of nets of the same shapes: one row of a matrix per net.

    The weights of the nets become views of it, until they are released.

    Parameters
    ----------
    nets : sequence of ConstrainedNet
        Trained by Adam or AdamW, before the first step.

    Attributes
    ----------
    values, gradient : torch.Tensor of shape (n_nets, n_weights)
    by_name : dict of str to torch.Tensor of shape (n_nets, ...)
        Views of `values`, leaves of autograd.

    Notes
    -----
    torch's kernels take one learning rate for all weights. So the fused kernel, at
    rate 1 and without decay, writes the direction of each net into a matrix of zeros,
    which a matrix of rates then scales.
    """

    def __init__(self, nets: Sequence[Any]):
        tables = [_trained(net.plain_module_) for net in nets]
        parts = [torch.cat([w.detach().flatten() for w in t.values()]) for t in tables]
        self.nets = nets
        self.tables = tables
        self.values = torch.stack(parts)
        self.gradient = torch.zeros_like(self.values)
        first = tables[0].values()
        sizes = [weight.numel() for weight in first]
        self.by_name = {
            name: part.unflatten(1, weight.shape).detach().requires_grad_()
            for part, (name, weight) in zip(
                self.values.split(sizes, dim=1), tables[0].items(), strict=True
            )
        }
        for number, table in enumerate(tables):
            for name, weight in table.items():
                weight.data = self.by_name[name].detach()[number]
        self._find_groups(sizes)
        moments = (torch.zeros_like(self.values) for _ in range(3))
        self.direction, self.mean, self.square = moments
        self.n_steps = torch.zeros(len(nets))
        # Lists for the kernel, which has one entry per net, as a net may make fewer
        # steps than the others; made once, since that takes as long as the kernel.
        lists = self.direction, self.gradient, self.mean, self.square, self.n_steps
        self._lists = [list(part.unbind()) for part in lists]

    def _find_groups(self, sizes: list[int]) -> None:
        """Number of the parameter group of each column."""
        groups = self.nets[0].optimizer_.param_groups
        of_weight = {id(w): i for i, g in enumerate(groups) for w in g["params"]}
        numbers = [of_weight[id(weight)] for weight in self.tables[0].values()]
        self.group = torch.repeat_interleave(torch.tensor(numbers), torch.tensor(sizes))
        self.decoupled = type(self.nets[0].optimizer_) is not Adam

    def read_rates(self) -> None:
        """Take over the learning rates and decays that the optimizers have now."""
        rate, decay = (
            self.values.new_tensor(
                [[g[name] for g in net.optimizer_.param_groups] for net in self.nets]
            )
            for name in ("lr", "weight_decay")
        )
        self.rate = rate[:, self.group]
        self.decay = (1 - rate * decay if self.decoupled else decay)[:, self.group]

    @torch.no_grad()
    def step(self, number: int) -> None:
        """Make a step of Adam.

        Parameters
        ----------
        number : int
            Of the first so many nets.
        """
        group = self.nets[0].optimizer_.param_groups[0]
        values, gradient = self.values[:number], self.gradient[:number]
        if not self.decoupled:
            gradient.addcmul_(values, self.decay[:number])
        # Before the kernel, whose bias correction needs the number of this step.
        self.n_steps[:number] += 1
        *lists, steps = (part[:number] for part in self._lists)
        torch._fused_adamw_(
            *lists,
            [],  # largest averages, for `amsgrad` only
            steps,
            lr=1.0,
            beta1=float(group["betas"][0]),
            beta2=float(group["betas"][1]),
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )
        if self.decoupled:
            values.mul_(self.decay[:number])
        direction = self.direction[:number]
        values.addcmul_(direction, self.rate[:number])
        direction.zero_()

    def release(self) -> None:
        """Give each net weights of its own again, and the state of its optimizer."""
        for number, (net, table) in enumerate(zip(self.nets, self.tables, strict=True)):
            moments = (self._of_net(m, number) for m in (self.mean, self.square))
            for weight, mean, square in zip(table.values(), *moments, strict=True):
                weight.data = weight.data.clone()
                net.optimizer_.state[weight] = {
                    "step": self.n_steps[number].clone(),
                    "exp_avg": mean,
                    "exp_avg_sq": square,
                }

    def _of_net(self, matrix: Tensor, number: int) -> list[Tensor]:
        weights = self.tables[number].values()
        parts = matrix[number].split([weight.numel() for weight in weights])
        return [p.view(w.shape).clone() for p, w in zip(parts, weights, strict=True)]


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    weights = module.named_parameters()
    return {name: weight for name, weight in weights if weight.requires_grad}
