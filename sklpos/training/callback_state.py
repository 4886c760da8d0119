"""What callbacks remember of a training, and what of it a file may set."""

from __future__ import annotations

import inspect
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from skorch.callbacks import (
    BatchScoring,
    Callback,
    EarlyStopping,
    EpochScoring,
    LRScheduler,
    PassthroughScoring,
    PrintLog,
    TensorBoard,
)
from torch import Tensor

from sklpos.nets.hints import shortened
from sklpos.nets.warnings import warn_user
from sklpos.training.forms import check_form, check_kind, check_names
from sklpos.training.state import attributes_of, from_storable, has_state, to_storable

# skorch's callbacks do not declare what they remember.
_OF_SKORCH: dict[type, tuple[str, ...]] = {
    BatchScoring: ("best_score_",),
    EpochScoring: ("best_score_",),
    PassthroughScoring: ("best_score_",),
    EarlyStopping: (
        "misses_",
        "dynamic_threshold_",
        "best_epoch_",
        "best_model_weights_",
    ),
    LRScheduler: ("lr_scheduler_", "batch_idx_"),
    PrintLog: ("first_iteration_",),
    TensorBoard: ("first_batch_",),
}
_KNOWN_PACKAGES = ("builtins", "skorch", "sklpos")


def state_names(callback: Callback) -> tuple[str, ...]:
    """Attributes that a callback declares as its state.

    Parameters
    ----------
    callback : Callback
        With ``state_attributes_``, or of a class of skorch.

    Returns
    -------
    tuple of str
        Never a parameter, such as the path of a file. It may set some of them later.

    Raises
    ------
    ValueError
        If it declares one of its parameters.
    """
    declared = tuple(getattr(callback, "state_attributes_", ()))
    for name in declared and callback.get_params(deep=False).keys() & set(declared):
        raise ValueError(
            f"state_attributes_ of {type(callback).__name__} holds the parameter "
            f"{name!r}; list attributes that training sets, as a file may set them."
        )
    known = [names for cls, names in _OF_SKORCH.items() if isinstance(callback, cls)]
    return sum(known, declared)


def with_state(callbacks: list[tuple[str, Callback]]) -> dict[str, Callback]:
    """Callbacks that have a state, by name.

    Parameters
    ----------
    callbacks : list of (str, Callback)

    Returns
    -------
    dict
    """
    return {name: callback for name, callback in callbacks if state_names(callback)}


def storable_attributes(callback: Callback, attributes: dict[str, Any]) -> dict:
    """State of a callback, as far as a file can hold it.

    Parameters
    ----------
    callback : Callback
    attributes : dict
        All attributes, see `sklpos.training.state.training_state`.

    Returns
    -------
    dict
    """
    found = {}
    for name in state_names(callback):
        if name not in attributes:
            continue
        try:
            found[name] = to_storable(attributes[name])
        except TypeError:
            # An open file or a writer, for instance, begins again.
            continue
    return found


def restored_attributes(net, callbacks: Any) -> dict[str, dict[str, Any]]:
    """Check what a file holds of the callbacks, and make it of the right kind.

    Parameters
    ----------
    net : ConstrainedNet
    callbacks : object
        From the file.

    Returns
    -------
    dict
        By the name of the callback.

    Raises
    ------
    ValueError
        If it holds a callback or an attribute that the net does not have, or one of
        another type or shape.
    """
    live = with_state(net.callbacks_)
    check_names(callbacks, live, "callbacks")
    found = {}
    for name, callback in live.items():
        where, saved = f"callbacks[{name!r}]", from_storable(callbacks[name])
        # What could not be stored may be missing, and is as it is now.
        present = storable_attributes(callback, attributes_of(callback))
        absent = set(state_names(callback)) - present.keys()
        check_kind(saved, {}, where)
        check_names(saved, present.keys() | (absent & saved.keys()), where)
        for attribute, value in saved.items():
            _check_attribute(net, callback, attribute, value, where)
        if hasattr(callback, "check_state"):
            callback.check_state(net, saved)
        found[name] = saved
    return found


def warn_of_forgetful(callbacks: list[tuple[str, Callback]]) -> None:
    """Warn of callbacks of the user's own whose state a checkpoint does not hold.

    Parameters
    ----------
    callbacks : list of (str, Callback)
        After ``on_train_begin``.
    """
    for name, callback in callbacks:
        if lost := _lost(callback):
            warn_user(
                f"callbacks holds {name}, of which a TrainingCheckpoint does not save "
                f"{shortened(', '.join(lost))}; list what it remembers of training in "
                "a class attribute state_attributes_, which may be empty."
            )


def _lost(callback: Callback) -> list[str]:
    """Attributes that look like results, and that code of the user's own sets."""
    own = [cls for cls in type(callback).__mro__ if _is_own(cls)]
    if any("state_attributes_" in vars(cls) for cls in own):
        return []
    members = [member for cls in own for member in vars(cls).values()]
    methods = [member for member in members if isinstance(member, FunctionType)]
    used = {name for method in methods for name in method.__code__.co_names}
    used = used & vars(callback).keys() - set(state_names(callback))
    return sorted(name for name in used if name.endswith("_"))


def _check_attribute(net, callback, name: str, value: Any, where: str) -> None:
    live, place = getattr(callback, name, None), f"{where}[{name!r}]"
    if has_state(live):
        _check_stateful(live, value, place)
    elif name == "best_model_weights_":
        if value is not None:
            check_form(value, dict(net.module_.state_dict()), place)
    elif live is not None and not _has_grown(value, live):
        check_kind(value, live, place)


def _has_grown(value: Any, live: Any) -> bool:
    """Whether an array has another length than at the start of training."""
    if not isinstance(live, (Tensor, np.ndarray)) or type(value) is not type(live):
        return False
    same_rows = value.ndim > 0 and value.shape[1:] == live.shape[1:]
    return same_rows and value.ndim == live.ndim and value.dtype == live.dtype


def _check_stateful(live: Any, value: Any, place: str) -> None:
    """Check what a schedule, or another object with a ``state_dict``, is to load."""
    own = live.state_dict()
    # torch sets attributes to whatever it is given, and divides by some of them.
    check_names(value, own, place)
    of_torch = _names_in_code(type(live), ("torch",))
    for name, expected in own.items():
        where = f"{place}[{name!r}]"
        if isinstance(expected, list) and name not in of_torch:
            # A schedule of the user's own may append to it.
            check_kind(value[name], expected, where)
            continue
        check_form(value[name], expected, where, settings=True)
        if name in _made_with(type(live)) and value[name] != expected:
            raise ValueError(f"{where} is {value[name]!r}, not {expected!r}")


@cache
def _made_with(kind: type) -> set[str]:
    """Parameters of a schedule of torch, which training does not change."""
    if not kind.__module__.startswith("torch.optim."):
        return set()
    return {*inspect.signature(kind).parameters} - {"last_epoch"}


@cache
def _names_in_code(kind: type, packages: tuple[str, ...]) -> set[str]:
    """Names in the code of those bases of a class that are defined in some packages.

    Parameters
    ----------
    kind : type
    packages : tuple of str

    Returns
    -------
    set of str
    """
    bases = [base for base in kind.__mro__ if _package(base) in packages]
    values = [value for base in bases for value in vars(base).values()]
    codes = [value.__code__ for value in values if isinstance(value, FunctionType)]
    return {name for code in codes for name in code.co_names}


def _is_own(kind: type) -> bool:
    """Whether a class is the user's."""
    return _package(kind) not in _KNOWN_PACKAGES


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]
