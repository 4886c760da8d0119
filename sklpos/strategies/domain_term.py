"""What a strategy asks of a whole domain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, eq=False)
class DomainTerm:
    """Requirement of a strategy on a whole domain, in addition to the rows.

    Attributes
    ----------
    bounds : nn.Module
        Maps a module to its lowest and highest outputs, see `DomainConstraint`.
    strategy : ConstraintStrategy
        Strategy that keeps the domain above its bound; it has one row per domain.
    alpha_share : float
        Weight of the domain's term, as a share of that of the rows.
    """

    bounds: nn.Module
    strategy: Any
    alpha_share: float
