"""What modules remember of a training outside of their ``state_dict``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from sklpos.nets.hints import shortened
from sklpos.nets.warnings import warn_user
from sklpos.training.contents import content_digest
from sklpos.training.state import to_storable

# Their layers keep all that they learn in their state.
_KNOWN_PACKAGES = ("sklpos", "torch")
_OF_EVERY_MODULE = vars(nn.Module()).keys()


def unsaved_digests(net) -> dict[tuple[str, str], str]:
    """Digests of numbers, text and arrays that no ``state_dict`` holds.

    Parameters
    ----------
    net : ConstrainedNet

    Returns
    -------
    dict
        By the names of attributes and of buffers that are not persistent, and their
        shapes.
    """
    found = {}
    parts = nn.ModuleDict({"module": net.plain_module_, "criterion": net.criterion_})
    for place, layer in parts.named_modules():
        for name, value in _unsaved(layer):
            # Outputs that a module keeps have as many rows as the batch.
            shape = str(getattr(value, "shape", None))
            try:
                found[f"{place}.{name}", shape] = content_digest(to_storable(value))
            # Modules and functions are no numbers that change; what is sparse, or
            # contains itself, is a RuntimeError.
            except (TypeError, RuntimeError):
                continue
    return found


def warn_of_unsaved(before: dict, after: dict) -> None:
    """Warn of what changed while a net was trained, and is in no file.

    Parameters
    ----------
    before, after : dict
        From `unsaved_digests`.
    """
    both = before.keys() & after.keys()
    changed = sorted({key[0] for key in both if after[key] != before[key]})
    if changed:
        warn_user(
            f"training changes {shortened(', '.join(changed))}, which a "
            "TrainingCheckpoint does not save, so a fit that resumes may end "
            "differently; register a persistent buffer, or define get_extra_state."
        )


def _unsaved(layer: nn.Module) -> Iterator[tuple[str, Any]]:
    for name in layer._non_persistent_buffers_set:
        yield name, getattr(layer, name)
    kind = type(layer)
    known = kind.__module__.partition(".")[0] in _KNOWN_PACKAGES
    if known or kind.get_extra_state is not nn.Module.get_extra_state:
        return
    for name, value in vars(layer).items():
        # None stands for what is made later, such as a cache.
        if name not in _OF_EVERY_MODULE and value is not None:
            yield name, value
