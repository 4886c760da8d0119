"""A net follows the unit of its targets, from one chunk of a stream to the next."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sklpos.nets.stack import Stack
from sklpos.nets.unit_change import UnitChange, change_heads
from sklpos.nets.units import TargetScale
from sklpos.strategies.architecture import Architecture
from sklpos.training.decay import NoiseScaledDecay
from sklpos.training.rows import Batch, RowDataset, spread_out

# Rows that are looked at, which is enough for means.
_N_ROWS = 1024
# Loss in variances of y beyond which predictions are worth less than their shape.
_WORTHLESS = 10.0


@torch.no_grad()
def change_unit(net, targets: TargetScale, rows: RowDataset) -> UnitChange:
    """Train on in another unit, with the predictions as they are.

    Predictions that are far off in the new unit are not kept: they stay what they are
    in deviations of y, since no training could bring back a head that is a million
    times too large.

    Parameters
    ----------
    net : ConstrainedNet
        Changed in place: its module, its targets, and the decay of biases.
    targets : TargetScale
    rows : RowDataset
        The rows to train on, in the new unit.

    Returns
    -------
    UnitChange
        Per output of the module, which may be several for each output of the data.
    """
    module = net.plain_module_.eval()
    batch = rows[spread_out(len(rows), _N_ROWS)].to(net.device)
    change = UnitChange.between(net.targets, targets)
    n_copies = batch.y.shape[1] // len(targets.scale)
    worthless = _WORTHLESS * targets.spread**2
    keep = _worth_keeping(module(batch.X), batch, change, worthless)
    # Outputs that are in order have one unit.
    n_ordered = targets.bounds.n_ordered
    keep = keep.reshape(-1, n_ordered).all(axis=1).repeat(n_ordered)
    change = change.only(keep)
    decays = _bias_decays(module)
    of_module = change.repeated(n_copies)
    if isinstance(net.strategy_, Architecture):
        net.strategy_.change_unit(module, net.head, of_module, batch.X)
    else:
        change_heads(module, net.head, of_module)
    _adjust_bias_decays(net.optimizer_, decays, _bias_decays(module))
    for _, callback in net.callbacks_:
        # It measured the noise in the unit before.
        if isinstance(callback, NoiseScaledDecay):
            callback.initialize()
    net.targets = targets
    return of_module


def _worth_keeping(
    outputs: torch.Tensor, batch: Batch, change: UnitChange, worthless: NDArray
) -> NDArray:
    """Whether the predictions of each output are of use in the new unit."""
    n_outputs = len(change.gain)
    outputs, y, weight = (
        part.cpu().double().numpy() for part in (outputs, batch.y, batch.weight)
    )
    shape = len(y), -1, n_outputs
    # Predictions that overflow are of no use either.
    with np.errstate(over="ignore", invalid="ignore"):
        outputs, y = outputs.reshape(shape), y.reshape(shape)
        kept, other = (
            (weight[..., None] * (found - y) ** 2).mean(axis=(0, 1))
            for found in (change.apply(outputs), outputs)
        )
    return (kept <= worthless) | (kept <= other)


def _bias_decays(module) -> list[tuple[torch.nn.Parameter, float]]:
    if not isinstance(module, Stack):
        return []
    return [(kind.head.bias, kind.bias_decay) for kind in module.kinds]


def _adjust_bias_decays(optimizer, before: list, after: list) -> None:
    """Let the decay of biases follow the distance of their bounds."""
    for (bias, earlier), (_, decay) in zip(before, after, strict=True):
        for group in optimizer.param_groups:
            owns = any(weight is bias for weight in group["params"])
            # Another one was chosen by the user.
            if owns and group.get("weight_decay") == earlier:
                group["weight_decay"] = decay
