"""What is asked of a proof."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import NDArray


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
