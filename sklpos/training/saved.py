"""A training state as a file holds it, and what of a file may become a state."""

from __future__ import annotations

from typing import Any

import torch
from skorch.callbacks import Checkpoint
from torch import Tensor

from sklpos.nets.hints import shortened
from sklpos.training.best import constraints_of
from sklpos.training.callback_state import (
    restored_attributes,
    storable_attributes,
    with_state,
)
from sklpos.training.forms import check_form, check_kind, check_names
from sklpos.training.optimizer_state import check_optimizer_state
from sklpos.training.state import (
    copied,
    from_storable,
    to_storable,
    training_state,
)

_EXTRA = "_extra_state"
# What this package and skorch write about an epoch or a batch.
_COLUMNS = {
    "alpha",
    "constraint",
    "dur",
    "epoch",
    "max_multiplier",
    "max_violation",
    "mean_multiplier",
    "objective",
    "train_batch_count",
    "train_batch_size",
    "train_loss",
    "valid_batch_count",
    "valid_batch_size",
    "valid_loss",
    "violation_rate",
}


def storable_state(net) -> dict[str, Any]:
    """The training state, as far as a file can hold it.

    Parameters
    ----------
    net : ConstrainedNet

    Returns
    -------
    dict
        Of what `training_state` returns, with plain values and tensors on the CPU.

    Raises
    ------
    ValueError
        If ``get_extra_state`` of a module, for instance, returns something else.
    """
    state = training_state(net)
    callbacks = {
        name: storable_attributes(callback, state["callbacks"][name])
        for name, callback in with_state(net.callbacks_).items()
    }
    try:
        plain = to_storable({**state, "callbacks": {}})
    # What is sparse, or contains itself, is a RuntimeError.
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            "module, criterion or optimizer has a state that a TrainingCheckpoint "
            f"cannot save: {shortened(str(error), 150)}"
        ) from error
    return {**plain, "callbacks": callbacks}


def restored_state(net, saved: dict[str, Any]) -> dict[str, Any]:
    """Check that a stored state is one of this net, before anything of it is used.

    Parameters
    ----------
    net : ConstrainedNet
        At the beginning of its training.
    saved : dict
        What `storable_state` made, or something else.

    Returns
    -------
    dict
        For `load_training_state`. Of callbacks, what is no state is as it is now.

    Raises
    ------
    ValueError
        If a name, a type, a shape or a dtype is not that of the net.
    """
    now = training_state(net)
    check_names(saved, now, "its content")
    _check_parts(net, saved["parts"], now["parts"])
    _check_frozen(net, saved["frozen"])
    history = from_storable(saved["history"])
    _check_history(history)
    restored = restored_attributes(net, saved["callbacks"])
    _check_best(net, saved["best"], restored)
    callbacks = {
        name: {**attributes, **restored.get(name, {})}
        for name, attributes in now["callbacks"].items()
    }
    return {**saved, "history": history, "callbacks": callbacks}


def _check_parts(net, saved: Any, now: dict[str, dict]) -> None:
    check_names(saved, now, "its parts")
    for name, state in now.items():
        if name == "optimizer":
            check_optimizer_state(net.optimizer_, saved[name])
        else:
            _check_module(saved[name], state, name)


def _check_module(saved: Any, state: dict[str, Any], part: str) -> None:
    check_names(saved, state, part)
    for name, value in state.items():
        where = f"{part}[{name!r}]"
        # What `get_extra_state` tells may grow; the module's own code takes it back.
        check = check_kind if name.endswith(_EXTRA) else check_form
        check(saved[name], value, where)
        # Training ends before it writes such weights.
        if isinstance(value, Tensor) and _spoilt(saved[name]) and not _spoilt(value):
            raise ValueError(f"{where} holds NaN or infinity")


def _spoilt(tensor: Tensor) -> bool:
    return not torch.isfinite(tensor).all()


def _check_frozen(net, frozen: Any) -> None:
    names = [name for name, _ in net.plain_module_.named_parameters()]
    if not isinstance(frozen, list) or any(name not in names for name in frozen):
        raise ValueError("frozen is not a list of names of weights")
    if names and len(set(frozen)) == len(names):
        raise ValueError("all weights are frozen")


def _check_history(history: Any) -> None:
    check_kind(history, [], "history")
    for number, epoch in enumerate(history, 1):
        where = f"history of epoch {number}"
        _check_record(epoch, where)
        if epoch.get("epoch") != number:
            raise ValueError(f"{where} is missing")
        check_kind(epoch.get("batches"), [], f"{where}['batches']")
        for record in epoch["batches"]:
            _check_record(record, where)
    for number, epoch in enumerate(history, 1):
        if lost := (epoch.keys() ^ history[-1].keys()) & _COLUMNS:
            raise ValueError(f"history of epoch {number} lacks {min(lost)!r}")


def _check_record(record: Any, where: str) -> None:
    check_kind(record, {}, where)
    for name, value in record.items():
        # A user's callback may record anything in other columns.
        if name in _COLUMNS:
            check_kind(value, 0.0, f"{where}[{name!r}]")
        elif str(name).endswith("_best"):
            check_kind(value, True, f"{where}[{name!r}]")


def _check_best(net, best: Any, callbacks: dict[str, dict]) -> None:
    """Check the multipliers of the best epochs, which go with the best weights."""
    now = [copied(constraint.state_dict()) for constraint in constraints_of(net)]
    with_weights = {
        name
        for name, state in callbacks.items()
        if state.get("best_model_weights_") is not None
    }
    others = {
        name for name, callback in net.callbacks_ if isinstance(callback, Checkpoint)
    }
    check_names(best, with_weights | (others & set(best)), "best")
    for name, states in best.items():
        check_form(states, now, f"best[{name!r}]")
