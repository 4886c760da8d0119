"""Validation of callbacks, and of parameters that are passed to them by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from skorch.callbacks import Callback

from sklpos.nets.hints import did_you_mean, keywords_of, shortened, shown


def check_callbacks(callbacks: Iterable | None) -> None:
    """Raise TypeError unless these are skorch callbacks, or (name, callback) pairs.

    Parameters
    ----------
    callbacks : iterable or None

    Raises
    ------
    TypeError
    """
    for item in callbacks or []:
        pair = isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)
        callback = item[1] if pair else item
        if callback is None or not _is_callback(callback):
            raise TypeError(
                f"callbacks holds {shown(item)}; each must be a skorch callback, or a "
                "pair (name, callback)."
            )


def check_callback_params(params: Mapping[str, Any], callbacks: Iterable) -> None:
    """Refuse ``callbacks__*`` that no callback has, which skorch would ignore.

    Parameters
    ----------
    params : mapping of str to object
        Without their prefix.
    callbacks : iterable of (str, Callback or type)
        Before they are initialised.

    Raises
    ------
    ValueError
        If there is no such callback or parameter; the message has the nearest one.
    TypeError
        If a callback is replaced by something that is none.
    """
    named = dict(callbacks)
    for name, value in params.items():
        if name in named and not _is_callback(value):
            raise TypeError(
                f"callbacks__{name}={shown(value)} must be a skorch callback, or None "
                "to switch this one off."
            )
    # A callback that replaces another one has parameters of its own.
    named |= {name: value for name, value in params.items() if name in named}
    for name, value in params.items():
        first, _, rest = name.partition("__")
        if rest and first in named:
            _check_param(name, named[first], rest)
        # None switches a callback off, which may be absent anyway.
        elif first not in named and value is not None:
            listed = f"; the callbacks are {', '.join(sorted(named))}."
            raise ValueError(
                f"callbacks__{shortened(name)} belongs to no callback"
                f"{did_you_mean(first, named) or listed}"
            )


def _is_callback(value: object) -> bool:
    kind = value if isinstance(value, type) else type(value)
    return value is None or issubclass(kind, Callback)


def _check_param(name: str, callback: Callback | type | None, param: str) -> None:
    if callback is None:
        raise ValueError(
            f"callbacks__{shortened(name)} belongs to a callback that is None."
        )
    own = isinstance(callback, Callback)
    known = callback.get_params() if own else keywords_of(callback)
    if known is not None and param.partition("__")[0] not in known:
        kind = type(callback) if own else callback
        raise ValueError(
            f"callbacks__{shortened(name)}: {kind.__name__} has no parameter "
            f"{shown(param)}{did_you_mean(param, known) or '.'}"
        )
