"""Certificates of earlier versions: names and stored files."""

from __future__ import annotations

import numpy as np

from sklpos.nets.warnings import warn_user


def renamed(old: str, new: str) -> property:
    """Attribute under its earlier name, until the next version.

    Parameters
    ----------
    old, new : str

    Returns
    -------
    property
    """

    def get(certificate):
        warn_user(
            f"Certificate.{old} is now called {new}; the old name will be removed in "
            "the next version.",
            FutureWarning,
        )
        return getattr(certificate, new)

    return property(get, doc=f"Earlier name of `{new}`.")


def of_this_version(state: dict) -> dict:
    """Fields of a stored certificate; earlier versions knew the lower side alone.

    Parameters
    ----------
    state : dict

    Returns
    -------
    dict
    """
    if "lower_bound_" not in state:
        return state
    names = {
        "lower_bound_": "proved_min_",
        "upper_bound_": "attained_min_",
        "required_": "required_min_",
    }
    state = {names.get(name, name): value for name, value in state.items()}
    free = np.full_like(state["required_min_"], np.inf)
    broken = None if state["counterexample_"] is None else "lower"
    sides = {"proved_max_": free, "attained_max_": -free, "required_max_": free}
    return state | sides | {"broken_side_": broken}
