"""The training state of several processes as one: what they share, and what differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sklpos.certificates.digests import hexdigest
from sklpos.training.world import Alone

#: Key of what the other processes have in another form than the first.
OTHERS = "others"


def on_first(world: Alone, function: Callable[[], Any]) -> Any:
    """Call a function in the first process alone; its result or error is that of all.

    Parameters
    ----------
    world : Alone or Processes
    function : callable
        Without arguments; it may use files that only this process can see.

    Returns
    -------
    object

    Raises
    ------
    Exception
        That of the function, in all processes.
    """
    result, error = None, None
    if world.is_first:
        try:
            result = function()
        # Otherwise the others would wait for a process that has given up.
        except Exception as caught:
            error = caught
    result, error = world.from_first((result, error))
    if error is not None:
        raise error
    return result


def pooled_problem(world: Alone, problem: dict[str, str]) -> dict[str, str]:
    """Description of what all processes train on together.

    Parameters
    ----------
    world : Alone or Processes
    problem : dict of str to str
        Digests of this process, the same names in all processes.

    Returns
    -------
    dict of str to str
        The same in all processes.
    """
    # Each process scales its weights to mean 1; its place holds the ratio to others.
    own = {**problem, "data": hexdigest([problem["data"], world])}
    everyone = world.gather(own)
    pooled = {
        name: digest
        if all(other[name] == digest for other in everyone)
        else hexdigest([other[name] for other in everyone])
        for name, digest in own.items()
    }
    return {**pooled, "processes": str(world.size)}


def pool_state(world: Alone, state: dict[str, Any]) -> dict[str, Any] | None:
    """Collect the states of all processes, in the first of them.

    Parameters
    ----------
    world : Alone or Processes
    state : dict
        Of this process, see `sklpos.training.state.training_state`, storable.

    Returns
    -------
    dict or None
        That of the first process, and under ``"others"`` for each other one what
        differs from it; None in the others.
    """
    digests = _digests(state)
    common = world.from_first(digests)
    parts = world.to_first(_differing(state, digests, common))
    return None if parts is None else {**state, OTHERS: parts[1:]}


def own_state(world: Alone, pooled: dict[str, Any]) -> dict[str, Any]:
    """The state of this process, from those of all.

    Parameters
    ----------
    world : Alone or Processes
    pooled : dict
        From `pool_state`, or something else that was stored.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If it is not of as many processes.
    """
    state = dict(pooled)
    others = state.pop(OTHERS, None)
    if not isinstance(others, list) or len(others) != world.size - 1:
        raise ValueError(f"it does not hold the states of {world.size} processes")
    own = [{}, *others][world.rank]
    if not isinstance(own, dict):
        raise ValueError(f"{OTHERS} holds {type(own).__name__}, not dict")
    return _updated(state, own)


def raise_for_all(world: Alone, error: ValueError | None) -> None:
    """Raise the first error of any process in all processes.

    Parameters
    ----------
    world : Alone or Processes
    error : ValueError or None
        Of this process.

    Raises
    ------
    ValueError
    """
    messages = world.gather(error and str(error))
    for message in filter(None, messages):
        raise ValueError(message) from error


def check_same_weights(net, world: Alone) -> None:
    """Raise, in all processes, if they did not end with the same weights.

    Parameters
    ----------
    net : ConstrainedNet
    world : Alone or Processes

    Raises
    ------
    ValueError
    """
    parts = net.plain_module_.state_dict(), net.criterion_.state_dict()
    if len(set(world.gather(hexdigest(parts)))) > 1:
        raise ValueError(
            "the processes trained to different weights, as a callback did something "
            "else in one of them; let it look at numbers that are the same in all "
            "processes, such as train_loss and valid_loss."
        )


def _digests(state: dict[str, Any]) -> dict[str, Any]:
    """Digests of the parts of a state, in two levels."""
    return {
        name: {key: _digest(item) for key, item in part.items()}
        if isinstance(part, dict)
        else _digest(_timeless(part))
        for name, part in state.items()
    }


def _differing(state: dict, digests: dict, common: dict) -> dict[str, Any]:
    found = {}
    for name, part in state.items():
        own, other = digests[name], common[name]
        if isinstance(own, dict):
            changed = {k: part[k] for k in part if own[k] != other.get(k)}
            if changed:
                found[name] = changed
        elif own != other:
            found[name] = part
    return found


def _updated(state: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    new = dict(state)
    for name, part in changes.items():
        both = isinstance(part, dict) and isinstance(state.get(name), dict)
        new[name] = {**state[name], **part} if both else part
    return new


def _digest(tree: Any) -> str:
    # A history is long, and only json is quick; it leaves tensors to `hexdigest`.
    return hexdigest(json.dumps(tree, default=hexdigest))


def _timeless(part: Any) -> Any:
    """A history without durations, which are never those of another process."""
    if not isinstance(part, list):
        return part
    return [
        {name: value for name, value in epoch.items() if name != "dur"}
        if isinstance(epoch, dict)
        else epoch
        for epoch in part
    ]
