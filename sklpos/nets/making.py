"""Modules made from a class or callable, with sizes that the data decide."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer

from sklpos.nets.hints import did_you_mean, keywords_of, nearest, shortened, shown
from sklpos.nets.modules import MLP


def make_module(
    module: Callable, known: Mapping[str, Any], given: Mapping[str, Any]
) -> nn.Module:
    """Build a module from a class or callable.

    Parameters
    ----------
    module : callable
    known : mapping of str to object
        What the data decide, such as ``n_outputs``; passed if the signature has it.
    given : mapping of str to object
        Further arguments, from the user.

    Returns
    -------
    nn.Module

    Raises
    ------
    TypeError
        If the callable returns something else or does not accept the arguments.
    ValueError
        If an argument contradicts the data.
    """
    parameters = _parameters_of(module)
    _check_names(module, known, given)
    arguments = {k: v for k, v in known.items() if k in parameters} | dict(given)
    # Bound before the call: a TypeError from inside the constructor is another error.
    try:
        inspect.signature(module).bind(**arguments)
    except TypeError as error:
        raise TypeError(
            f"module={shown(module)} {error}; it is called with n_features_in, "
            "n_outputs and the parameters passed as module__name=value."
        ) from error
    made = _called(module, arguments, given)
    if not isinstance(made, nn.Module):
        raise TypeError(
            f"module={shown(module)} returned {shown(made)}, not an nn.Module."
        )
    _check_kind(made)
    return made


def check_instance(module: nn.Module) -> None:
    """Refuse a module that cannot be copied, or that hides its layers.

    Parameters
    ----------
    module : nn.Module

    Raises
    ------
    ValueError
    """
    _check_kind(module)
    for layer in module.modules():
        buffers = layer.buffers(recurse=False)
        if any(isinstance(buffer, UninitializedBuffer) for buffer in buffers):
            raise ValueError(
                f"module has a {type(layer).__name__}, which cannot be copied before "
                "its first call; pass a class or callable that makes the module, or "
                "call it on a batch first."
            )


def _check_kind(module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            "module must not be a ScriptModule, whose layers cannot be seen; pass the "
            "nn.Module that it was made from."
        )
    # What torch.compile returns.
    if hasattr(module, "_orig_mod"):
        raise ValueError(
            "module must not be compiled; pass the plain module, and compile=True."
        )


def _parameters_of(module: Callable) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(module).parameters
    except ValueError:
        # Some built-in types have no signature.
        raise TypeError(
            f"module={shown(module)} must be a class or callable that makes an "
            "nn.Module."
        ) from None


def _check_names(
    module: Callable, known: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    own = keywords_of(module)
    for name, value in given.items():
        if name in known and not _is_same(value, known[name]):
            raise ValueError(
                f"module__{name}={shown(value)} must be left out, because fit passes "
                f"{name} itself: here {shown(known[name], 30)}."
            )
        if own is not None and name not in own:
            listed = ", ".join(other for other in own if other not in known)
            further = _hint(name, own) or (f"; it has {listed}." if listed else ".")
            raise TypeError(
                f"module__{shortened(name)}: {shown(module)} has no parameter "
                f"{shown(name)}{shortened(further, 120)}"
            )


def _called(module: Callable, arguments: Mapping[str, Any], given: Mapping[str, Any]):
    try:
        return module(**arguments)
    except Exception as error:
        # Its own words are better than those from deep inside, which name nothing.
        if isinstance(error, ValueError) and _names_one(str(error), given):
            raise
        listed = ", ".join(f"module__{k}={shown(v, 30)}" for k, v in given.items())
        raise TypeError(
            f"module={shown(module)} cannot be made"
            f"{f' with {shortened(listed, 90)}' if listed else ''}: "
            f"{type(error).__name__}: {shortened(str(error), 90)}"
        ) from error


def _names_one(message: str, names: Iterable[str]) -> bool:
    return any(re.search(rf"\b{re.escape(name)}\b", message) for name in names)


def _is_same(value: object, expected: object) -> bool:
    sizes = isinstance(value, int) and isinstance(expected, int)
    return value is expected or (sizes and value == expected)


def _hint(name: str, own: Mapping[str, Any]) -> str:
    """The nearest parameter, or where one of the package's `MLP` belongs."""
    meant = did_you_mean(name, own)
    of_mlp = nearest(name, keywords_of(MLP) or {})
    if meant or of_mlp is None:
        return meant
    return f"; {of_mlp} is a parameter of sklpos.MLP: pass module=MLP."
