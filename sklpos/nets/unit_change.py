"""Heads and output activations in another unit, while training goes on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklpos.nets.bounds import Bounds
from sklpos.nets.cones import LEAST_START
from sklpos.nets.nonnegative import NonnegativeLinear
from sklpos.nets.stack import Stack
from sklpos.nets.units import TargetScale


@dataclass(frozen=True, eq=False)
class UnitChange:
    """Outputs ``f`` of the former unit are ``gain * f + offset`` in the present one.

    Attributes
    ----------
    gain, offset : ndarray of shape (n_outputs,)
    earlier, bounds : Bounds
        In the former and in the present unit.

    Examples
    --------
    >>> bounds = Bounds.read(0.0, None, 1)
    >>> before = TargetScale(np.array([0.0]), np.array([1.0]), bounds)
    >>> after = TargetScale(np.array([3.0]), np.array([2.0]), bounds)
    >>> change = UnitChange.between(before, after)
    >>> change.gain.tolist(), change.offset.tolist()
    ([0.5], [-1.5])
    """

    gain: NDArray
    offset: NDArray
    earlier: Bounds
    bounds: Bounds

    @classmethod
    def between(cls, before: TargetScale, after: TargetScale) -> UnitChange:
        """The change from one scaling of the targets to another.

        Parameters
        ----------
        before, after : TargetScale

        Returns
        -------
        UnitChange
        """
        gain = before.scale / after.scale
        offset = (before.shift - after.shift) / after.scale
        return cls(gain, offset, before.scaled_bounds, after.scaled_bounds)

    def apply(self, outputs: NDArray) -> NDArray:
        """Convert outputs to the present unit.

        Parameters
        ----------
        outputs : ndarray of shape (..., n_outputs)

        Returns
        -------
        ndarray of the same shape
        """
        return self.gain * outputs + self.offset

    def only(self, outputs: NDArray) -> UnitChange:
        """The change in which other outputs keep their numbers, not their meaning.

        Parameters
        ----------
        outputs : ndarray of bool of shape (n_outputs,)

        Returns
        -------
        UnitChange
        """
        gain = np.where(outputs, self.gain, 1.0)
        return replace(self, gain=gain, offset=np.where(outputs, self.offset, 0.0))

    def start_of(self, rises: NDArray) -> NDArray:
        """How far the outputs at one of the bounds are from that bound afterwards.

        Parameters
        ----------
        rises : ndarray of bool of shape (n_outputs,)
            Whether it is the lower bound.

        Returns
        -------
        ndarray of shape (n_outputs,)
            0 where the predictions stay, and where the bound is infinite.
        """
        before, after = (
            np.where(rises, each.lower, each.upper)
            for each in (self.earlier, self.bounds)
        )
        finite = np.isfinite(after)
        before, after = np.where(finite, before, 0.0), np.where(finite, after, 0.0)
        apart = self.apply(before) - after
        # What is left by rounding is no distance.
        return np.where(np.abs(apart) > 1e-9 * (1 + np.abs(after)), apart, 0.0)

    def repeated(self, n: int) -> UnitChange:
        """The change of all outputs `n` times, one copy after the other.

        Parameters
        ----------
        n : int

        Returns
        -------
        UnitChange
        """
        gain, offset = np.tile(self.gain, n), np.tile(self.offset, n)
        sides = self.earlier.repeated(n), self.bounds.repeated(n)
        return UnitChange(gain, offset, *sides)

    def split(self, n: int) -> list[UnitChange]:
        """The changes of equal parts of the outputs.

        Parameters
        ----------
        n : int

        Returns
        -------
        list of UnitChange
        """
        parts = np.split(np.arange(len(self.gain)), n)
        return [
            UnitChange(
                self.gain[part],
                self.offset[part],
                *(Bounds(*each.sides[:, part]) for each in (self.earlier, self.bounds)),
            )
            for part in parts
        ]

    def tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and offset, in the dtype and on the device of a tensor.

        Parameters
        ----------
        like : torch.Tensor

        Returns
        -------
        gain, offset : torch.Tensor of shape (n_outputs,)
        """
        return torch.as_tensor(self.gain).to(like), torch.as_tensor(self.offset).to(
            like
        )


def change_heads(module: nn.Module, head: str | None, change: UnitChange) -> None:
    """Let a module compute the same in another unit, in place.

    Parameters
    ----------
    module : nn.Module
    head : str or None
        Dotted name of its head; None for a `Stack`, which has several.
    change : UnitChange
        Of what the heads compute.
    """
    if isinstance(module, Stack):
        heads = [kind.head for kind in module.kinds]
    else:
        heads = [module.get_submodule(head)]
    for layer, own in zip(heads, change.split(len(heads)), strict=True):
        _change_head(layer, own)


@torch.no_grad()
def _change_head(head: nn.Linear, change: UnitChange) -> None:
    gain, offset = change.tensors(head.weight)
    bounded = isinstance(head, NonnegativeLinear)
    distance = _distances(head, change) if bounded else None
    head.weight.mul_(gain[:, None])
    if head.bias is None:
        return
    head.bias.mul_(gain).add_(offset)
    if bounded:
        head.bias.copy_(torch.where(head.bounded, distance, head.bias))


def _distances(head: NonnegativeLinear, change: UnitChange) -> Tensor | None:
    """Move the bounds of a head; the distances of its biases from them."""
    # Free outputs stay free, whatever the bounds of the net.
    bounds = change.bounds.only(head.bounded.cpu().numpy())
    for name, value in head.cones(bounds).items():
        getattr(head, name).copy_(value)
    if head.bias is None:
        return None
    moved = change.start_of((head.sign > 0).cpu().numpy())
    moved = head.steps(head.sign * torch.as_tensor(moved).to(head.sign))
    distance = change.tensors(head.bias)[0] * head.bias.abs()
    inside = (distance + moved).clamp(min=LEAST_START)
    return torch.where(moved == 0, distance, inside)
