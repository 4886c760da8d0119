"""Agreement between the processes of a fit, before they train."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from sklpos.nets.hints import in_one_line, shortened, shown
from sklpos.training.collectives import gather
from sklpos.training.contents import content_digest
from sklpos.training.peers import TOLD
from sklpos.version import __version__

_Result = TypeVar("_Result")
# Parameters of which the first process has the last word; others may leave them out.
_OF_THE_FIRST = ("random_state",)


@dataclass(frozen=True)
class Described:
    """A value with words to show for it.

    Attributes
    ----------
    words : str
    content : object
        Compared along with the words.

    Examples
    --------
    >>> Described("3 columns")
    3 columns
    """

    words: str
    content: Any = None

    def __repr__(self) -> str:
        return self.words


def attempt(function: Callable[[], _Result]) -> _Result:
    """Call a function in each process; if it fails in one, all raise the same error.

    Parameters
    ----------
    function : callable
        Without arguments; it must not wait for other processes.

    Returns
    -------
    object
        What it returned in this process.

    Raises
    ------
    ValueError
        If it failed in some processes; the message names them and says why. If it
        failed alike in all, the error is that of the function.
    """
    result, error = None, None
    try:
        result = function()
    # Whatever it is, the others must not go on without this process.
    except Exception as caught:
        error = caught
    said = gather(None if error is None else in_one_line(error, TOLD))
    if not any(said):
        return result
    if error is not None and len(set(said)) == 1:
        raise error
    failures = [
        f"rank {_listed(ranks)}: {text.removesuffix('.')}"
        for text, ranks in _by_value(said).items()
        if text
    ]
    raise ValueError(shortened("; ".join(failures), 299) + ".") from error


def check_same(own: dict[str, Any]) -> None:
    """Raise, in all processes, if a value differs between them.

    Parameters
    ----------
    own : dict
        Values of this process by name, compared by `content_digest`. A name with two
        underscores is a part of the value that has the name before them.

    Raises
    ------
    ValueError
        It names the value and the processes.
    """
    mine = {name: (_shown(value), content_digest(value)) for name, value in own.items()}
    everyone = gather(mine)
    for other in everyone[1:]:
        for name in _OF_THE_FIRST:
            other.setdefault(name, everyone[0].get(name))
    differing = [name for name in _all_names(everyone) if _differs(name, everyone)]
    # A strategy differs where one of its parameters does.
    found = [n for n in differing if not any(o.startswith(f"{n}__") for o in differing)]
    if found:
        raise ValueError(_sentence(found, everyone))


def versions() -> dict[str, Described]:
    """Versions that decide what numbers come out of a training.

    Returns
    -------
    dict
        By what they are versions of, as `check_same` takes them.
    """
    found = {
        "sklpos": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "Python": ".".join(platform.python_version_tuple()[:2]),
    }
    return {f"the version of {name}": Described(found[name]) for name in found}


def _all_names(everyone: list[dict]) -> list[str]:
    return list(dict.fromkeys(name for each in everyone for name in each))


def _differs(name: str, everyone: list[dict]) -> bool:
    return len({(each.get(name) or (None, None))[1] for each in everyone}) > 1


def _by_value(values: list) -> dict[Any, list[int]]:
    """Ranks of the processes that have each value."""
    ranks: dict[Any, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(rank)
    return ranks


def _listed(items: list) -> str:
    return ", ".join(map(str, items))


def _sentence(names: list[str], everyone: list[dict]) -> str:
    name, *others = names
    found = _by_value([each.get(name) or ("none", None) for each in everyone])
    texts = [text for text, _ in found]
    parts = []
    for number, ((text, _), ranks) in enumerate(found.items()):
        again = "another " if text in texts[:number] else ""
        parts.append(f"rank {_listed(ranks)} has {again}{text}")
    further = shortened(f"; so do {_listed(others)}", 50) if others else ""
    return (
        f"{name} differs between processes: {shortened(_listed(parts), 170)}{further}; "
        "pass the same in all."
    )


def _shown(value: Any) -> str:
    if isinstance(value, nn.Module):
        return type(value).__name__
    # Addresses of objects differ in any case.
    address = r"<(?:[\w<>]+\.)*(\w+) (?:object )?at 0x\w+>"
    return shortened(re.sub(address, r"\1", shown(value, 400)), 40)
