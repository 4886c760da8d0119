"""The cones that the outputs of a non-negative layer cannot leave."""

from __future__ import annotations

import torch
from torch import Tensor

from sklpos.nets.bounds import Bounds

#: Least start of ``|b|``, which has no gradient at 0: a little inside the bound.
LEAST_START = 1e-2


def cones(
    lower: Tensor, upper: Tensor, n_ordered: int, *, has_bias: bool
) -> dict[str, Tensor]:
    """Where the cone of each output starts, which way it opens, and how far it goes.

    No number is infinite, because training takes that for a divergence.

    Parameters
    ----------
    lower, upper : torch.Tensor of shape (n_outputs,)
    n_ordered : int
        Outputs in a group, see `Bounds`.
    has_bias : bool
        Without one, 0 takes the place of the bound that a cone starts from.

    Returns
    -------
    dict of str to torch.Tensor
    """
    is_finite = torch.isfinite(lower) | torch.isfinite(upper)
    two_sided = torch.isfinite(lower) & torch.isfinite(upper)
    rises = torch.isfinite(lower) & (has_bias | (upper >= -lower))
    start = torch.where(rises, lower, upper) if has_bias else torch.zeros_like(lower)
    end = torch.where(rises, upper, lower)
    bounded = is_finite
    if n_ordered > 1:
        # Without bounds, only the first output of a group may have any sign.
        bounded = bounded | (torch.arange(len(lower)) % n_ordered > 0).to(bounded)
    return {
        "bounded": bounded,
        "two_sided": two_sided,
        "offset": torch.where(is_finite, start, 0.0),
        "sign": torch.where(rises | ~is_finite, 1.0, -torch.ones_like(lower)),
        "width": torch.where(two_sided, (end - start).abs(), 1.0),
    }


def check_contains_zero(bounds: Bounds) -> None:
    """Refuse bounds that a head without bias cannot keep.

    Parameters
    ----------
    bounds : Bounds

    Raises
    ------
    ValueError
        If 0 is outside of them.
    """
    if (bounds.lower > 0).any() or (bounds.upper < 0).any():
        raise ValueError(
            "strategy='nonnegative_weights' with a head without bias requires "
            "lower_bound <= 0 <= upper_bound, because its output can be 0; give the "
            "head a bias or move the bounds."
        )
