"""Parameters of torch's ``DataLoader`` that a loader of rows takes."""

from __future__ import annotations

from typing import Any

from sklpos.nets.hints import did_you_mean, shown

#: Parameters of torch's ``DataLoader`` that say how its workers fetch items.
FETCHING = {
    "num_workers",
    "pin_memory",
    "worker_init_fn",
    "prefetch_factor",
    "persistent_workers",
    "timeout",
    "multiprocessing_context",
    "pin_memory_device",
    "in_order",
}
# What else torch's DataLoader takes, and why this loader does not.
_REFUSED = {
    "collate_fn": "rows must keep their numbers; change them in the __getitem__ of a "
    "Dataset, or in the module",
    "generator": "random_state decides the order of the rows",
}


def check_fetching(fetching: dict[str, Any]) -> None:
    """Validate what a user says about the fetching of rows.

    Parameters
    ----------
    fetching : dict of str to object
        Parameters of torch's ``DataLoader``.

    Raises
    ------
    TypeError
        For a parameter that decides something else, or that does not exist.
    """
    for name in fetching:
        if name in _REFUSED:
            raise TypeError(
                f"the loader of the rows takes no {name}, because {_REFUSED[name]}."
            )
        if name not in FETCHING:
            own = ["sampler", "batch_sampler", "shuffle", "drop_last", "batch_size"]
            listed = f"; among others, it has {[*own, 'num_workers']}."
            raise TypeError(
                f"the loader of the rows has no parameter {shown(name)}"
                f"{did_you_mean(name, [*own, *FETCHING]) or listed}"
            )
