"""What a proof is to show, and when it may stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_GAP = 1e-6  # in scales, at which a search that cannot decide gives up


@dataclass(frozen=True, eq=False)
class Goal:
    """What is asked.

    Attributes
    ----------
    required : ndarray of shape (n_outputs,)
        The bound, unit of y.
    scale : ndarray of shape (n_outputs,)
        Unit of y.
    tolerance : float or None
        Gap to reach, in scales; None to stop when decided.
    deadline : float
        Of `time.monotonic`.
    seed : int
    to_bound : bool
        With a tolerance: what is above the bound need not be closer.
    """

    required: NDArray
    scale: NDArray
    tolerance: float | None
    deadline: float
    seed: int
    to_bound: bool = False

    def stops(self, j: int, slack: float) -> dict[str, float]:
        """Return when the search of output j may end, for `branch_and_bound`.

        Parameters
        ----------
        j : int
        slack : float
            What rounding takes from its bounds afterwards.
        """
        if self.tolerance is not None:
            target = self.required[j] + slack if self.to_bound else np.inf
            return {"tolerance": self.tolerance * self.scale[j], "target": target}
        return {
            "tolerance": _GAP * self.scale[j] + slack / 4,
            "target": self.required[j] + slack,
            "hopeless": self.required[j] - slack,
        }
