"""Bounds of the features that enter the head of a network, over a region."""

from __future__ import annotations

import torch
from numpy.typing import NDArray

from sklpos.certificates.bounds.crown import crown_bounds, image
from sklpos.certificates.bounds.network import Network
from sklpos.certificates.domains.regions import Region

# Parts that are bounded together.
_CHUNK = 512


def feature_bounds(network: Network, region: Region) -> tuple[NDArray, NDArray]:
    """Bound the inputs of the last layer over all parts of a region.

    Parameters
    ----------
    network : Network
    region : Region
        May be infinite.

    Returns
    -------
    low, high : ndarray of shape (n_hidden,)
    """
    ends = []
    for index in torch.arange(len(region)).split(_CHUNK):
        part = region.take(index)
        # CROWN needs finite ends; over all inputs only intervals are left.
        finite = bool(torch.isfinite(part.low).all())
        hidden = crown_bounds(network, part).hidden if finite else {}
        low, high = part.low, part.high
        for number, layer in enumerate(network.layers[:-1]):
            low, high = image(layer, *hidden.get(number, (low, high)))
        ends.append((low.amin(0), high.amax(0)))
    lows, highs = zip(*ends, strict=True)
    return torch.stack(lows).amin(0).numpy(), torch.stack(highs).amax(0).numpy()
