"""The form of a state: keys, types, shapes and dtypes, compared before it is used."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor


def check_kind(found: Any, expected: Any, where: str) -> None:
    """Raise unless a value has the type of another one; of arrays, shape and dtype too.

    Parameters
    ----------
    found, expected : object
    where : str
        What the value is, for the message.

    Raises
    ------
    ValueError
    """
    known, given = _kind(expected), _kind(found)
    if given != known:
        raise ValueError(f"{where} is {given}, not {known}")


def check_form(
    found: Any, expected: Any, where: str, *, settings: bool = False
) -> None:
    """Raise unless a value has the form of another one.

    Numbers may be integers or floats; their values are not compared.

    Parameters
    ----------
    found, expected : object
        Trees of numbers, strings, arrays and tensors.
    where : str
        What the value is, for the message.
    settings : bool, default=False
        Whether strings, flags and None must be equal, too.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> import torch
    >>> check_form({"w": torch.ones(2)}, {"w": torch.zeros(2)}, "weights")
    >>> check_form({"w": torch.ones(3)}, {"w": torch.zeros(2)}, "weights")
    Traceback (most recent call last):
    ...
    ValueError: weights['w'] is float32 of shape (3,), not float32 of shape (2,)
    """
    check_kind(found, expected, where)
    if isinstance(expected, dict):
        check_names(found, expected, where)
        for name, value in expected.items():
            check_form(found[name], value, f"{where}[{name!r}]", settings=settings)
    elif isinstance(expected, (list, tuple)):
        if len(found) != len(expected):
            raise ValueError(f"{where} has {len(found)} items, not {len(expected)}")
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            check_form(one, other, f"{where}[{number}]", settings=settings)
    elif settings and isinstance(expected, (bool, str)) and found != expected:
        raise ValueError(f"{where} is {found!r}, not {expected!r}")


def check_names(found: Any, expected: Any, where: str) -> None:
    """Raise unless a value is a dict with the names of another one.

    Parameters
    ----------
    found : object
    expected : iterable
    where : str
        What the value is, for the message.

    Raises
    ------
    ValueError
    """
    check_kind(found, {}, where)
    names = set(expected)
    for name in sorted(names ^ found.keys(), key=str):
        missing = "lacks" if name in names else "has an unknown"
        raise ValueError(f"{where} {missing} {name!r}")


def _kind(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{dtype} of shape {tuple(value.shape)}"
    if isinstance(value, Real) and not isinstance(value, (bool, np.bool_)):
        return "a number"
    # Subclasses, such as ordered dicts, are stored as plain ones.
    plain = (kind.__name__ for kind in (dict, list, tuple) if isinstance(value, kind))
    return next(plain, type(value).__name__)
