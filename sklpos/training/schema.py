"""What a stored object must be like, so that a damaged file fails when it is loaded."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback
from torch import Tensor, nn

# Of a module: the attributes that hold its parts, and the type of the parts.
_PARTS = {"_parameters": nn.Parameter, "_buffers": Tensor, "_modules": nn.Module}
# Numbers of numpy and of Python stand for each other.
_ALSO = {
    float: (int, np.floating, np.integer),
    int: (np.integer,),
    bool: (np.bool_,),
}
# Fields of dataclasses that are arrays of text.
_TEXTS = ("rows_", "categories", "names")
_METHODS = types.FunctionType, classmethod, staticmethod


def check_attribute_names(cls: type, state: Any) -> None:
    """Check that attributes have names, and replace no method.

    Parameters
    ----------
    cls : type
        Class of the object that they are to be set on.
    state : dict

    Raises
    ------
    ValueError
    """
    if not isinstance(state, dict):
        raise ValueError(f"attributes are a dict, not {brief(state)}.")
    for name, value in state.items():
        if not isinstance(name, str):
            raise ValueError(
                f"the name of an attribute is a string, not {brief(name)}."
            )
        # A function that stands for a method is named in the file, and was trusted.
        if isinstance(_static(cls, name), _METHODS) and not callable(value):
            raise ValueError(f"{brief(value)} would replace the method {name!r}.")


def check_object(thing: Any, *, usual: bool) -> None:
    """Check the attributes of an object whose class says what they are.

    Parameters
    ----------
    thing : object
        A dataclass, a module or a callback; everything else passes.
    usual : bool
        Whether it is of torch or of this package, so that its weights must be finite
        numbers with a fraction. A module of the user's own may have others.

    Raises
    ------
    ValueError
    """
    if is_dataclass(thing):
        _check_fields(thing)
    if isinstance(thing, nn.Module):
        _check_parts(thing)
        _check_sizes(thing)
        for name, weight in thing._parameters.items() if usual else ():
            check_weight(name, weight)
    if isinstance(thing, Callback):
        _check_parameters(thing)


def check_weight(name: str, weight: Tensor | None) -> None:
    """Check that the numbers of a parameter of a net are real and finite.

    Parameters
    ----------
    name : str
    weight : torch.Tensor or None

    Raises
    ------
    ValueError
    """
    if weight is None:
        return
    if not weight.is_floating_point():
        kind = str(weight.dtype).removeprefix("torch.")
        raise ValueError(f"{name!r} holds {kind} numbers; weights are floating-point.")
    if not torch.isfinite(weight).all():
        raise ValueError(f"{name!r} holds NaN or infinity; weights are finite.")


def check_value(name: str, value: Any, hint: Any) -> None:
    """Check a value against a type hint.

    Parameters
    ----------
    name : str
    value : object
    hint : type or type hint
        Types that cannot be checked pass.

    Raises
    ------
    ValueError
    """
    if not fits(value, hint):
        wanted = getattr(hint, "__name__", str(hint)).removeprefix("typing.")
        raise ValueError(f"{name!r} is {brief(value)}, which is not of type {wanted}.")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that a hint names.

    Parameters
    ----------
    value : object
    hint : type or type hint
        Types that cannot be checked fit everything.

    Returns
    -------
    bool

    Examples
    --------
    >>> fits((1, "a"), tuple[int, str]), fits(None, int | None), fits(True, int)
    (True, True, False)
    """
    if type(value) is hint:
        return True
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in inside)
    if origin is typing.Literal:
        return any(type(value) is type(word) and value == word for word in inside)
    if origin is type:
        return isinstance(value, type) and issubclass(value, inside)
    if origin is tuple and isinstance(value, tuple):
        several = inside[-1:] == (...,)
        each = inside[:1] * len(value) if several else inside
        return len(value) == len(each) and all(map(fits, value, each))
    kind = types.NoneType if hint is None else origin or hint
    if not isinstance(kind, type):
        return True
    # True would pass for a number.
    if isinstance(value, bool):
        return issubclass(bool, kind) and kind is not int
    return isinstance(value, (kind, *_ALSO.get(kind, ())))


def check_history(history: Any) -> None:
    """Check that a history has a record of each epoch.

    Parameters
    ----------
    history : object

    Raises
    ------
    ValueError
    """
    check_value("history", history, list)
    for epoch in history:
        check_value("epoch of the history", epoch, dict)
        check_value("batches", epoch.get("batches"), list)


def brief(value: Any) -> str:
    """Describe a value in a few words.

    Parameters
    ----------
    value : object

    Returns
    -------
    str
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:37]}..."
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return f"a {type(value).__name__}"


def _check_fields(thing: Any) -> None:
    hints = _hints(type(thing))
    for field in fields(thing):
        missing = field.name not in vars(thing)
        if missing and field.default is MISSING:
            raise ValueError(f"{field.name!r} is missing.")
        value = vars(thing).get(field.name)
        if not missing and field.name in hints:
            check_value(field.name, value, hints[field.name])
        is_text = isinstance(value, np.ndarray) and value.dtype.kind not in "biuf"
        if is_text and field.name not in _TEXTS:
            raise ValueError(f"{field.name!r} is {brief(value)}, which are no numbers.")
    known = {field.name for field in fields(thing)}
    for name in vars(thing).keys() - known:
        # Methods were looked for before; properties and cached results remain.
        if _static(type(thing), name) is None:
            raise ValueError(f"{name!r} is no attribute of {type(thing).__name__}.")


@cache
def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError:
        # A name that is imported for type checkers only.
        return {}


def _check_parts(module: nn.Module) -> None:
    for attribute, kind in _PARTS.items():
        named = vars(module)[attribute]
        check_value(attribute, named, dict)
        for name, part in named.items():
            check_value(f"{attribute}: {name}", part, kind | None)


def _check_sizes(module: nn.Module) -> None:
    """Check that a layer has what its class declares, and that a linear one fits."""
    for name in getattr(type(module), "__constants__", ()):
        if not hasattr(module, name):
            raise ValueError(f"{name!r} is missing.")
    if isinstance(module, nn.Linear):
        shape = module.out_features, module.in_features
        if tuple(module.weight.shape) != shape:
            raise ValueError(f"'weight' has shape {tuple(module.weight.shape)}.")
        if module.bias is not None and tuple(module.bias.shape) != shape[:1]:
            raise ValueError(f"'bias' has shape {tuple(module.bias.shape)}.")


def _check_parameters(callback: Callback) -> None:
    """Check that a callback has its parameters, and flags where it expects them."""
    for name, parameter in inspect.signature(type(callback)).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        # A class of the user's own may name its attributes otherwise.
        if name not in vars(callback) and _is_of_skorch(type(callback)):
            raise ValueError(f"parameter {name!r} is missing.")
        if isinstance(parameter.default, bool) and name in vars(callback):
            check_value(name, vars(callback)[name], bool)
        # Of a column of the history.
        if name == "name" and name in vars(callback):
            check_value(name, vars(callback)[name], str | None)


def _is_of_skorch(cls: type) -> bool:
    return cls.__module__.startswith(("skorch.", "sklpos."))


def _static(cls: type, name: str) -> Any:
    """Attribute of a class as it was defined, without calling descriptors."""
    owners: Iterator[type] = (base for base in cls.__mro__ if name in vars(base))
    owner = next(owners, None)
    return None if owner is None else vars(owner)[name]
