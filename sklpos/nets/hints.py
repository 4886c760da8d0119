"""Words for error messages: values in one short line, and the nearest known name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable

# Longer values are cut in the middle, so that the sentence around them stays readable.
_WIDTH = 60


def shown(value: object, width: int = _WIDTH) -> str:
    """Representation in one line, cut in the middle if it is long.

    Parameters
    ----------
    value : object
    width : int, default=60
        Largest number of characters.

    Returns
    -------
    str

    Examples
    --------
    >>> shown(list(range(1000)), width=20)
    '[0, 1, 2...98, 999]'
    """
    if isinstance(value, type) or inspect.isroutine(value):
        # The module and the address help nobody.
        return shortened(value.__name__, width)
    return shortened(_representation(value), width)


def shortened(text: str, width: int = _WIDTH) -> str:
    """Text in one line, cut in the middle if it is long.

    Parameters
    ----------
    text : str
    width : int, default=60
        Largest number of characters.

    Returns
    -------
    str

    Examples
    --------
    >>> shortened("a long sentence", width=13)
    'a lon...tence'
    """
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    half = (width - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def in_one_line(error: BaseException, width: int) -> str:
    """What an error says, in one line; with its type unless it is a ValueError.

    Parameters
    ----------
    error : BaseException
    width : int
        Largest number of characters.

    Returns
    -------
    str

    Examples
    --------
    >>> in_one_line(KeyError("lr"), width=20)
    "KeyError: 'lr'"
    """
    said = str(error).strip()
    kind = "" if said and isinstance(error, ValueError) else type(error).__name__
    return shortened(": ".join(filter(None, (kind, said))), width)


def literal(text: str, width: int = 40) -> str:
    r"""Text of a stranger as it can be printed, cut in the middle if it is long.

    Line breaks, control characters, which move the cursor of a terminal, and half
    characters, which no file can hold, are escaped.

    Parameters
    ----------
    text : str
    width : int, default=40
        Largest number of characters.

    Returns
    -------
    str

    Examples
    --------
    >>> print(literal("\x1b[31mred, and a lot more", width=20))
    \x1b[31m...lot more
    """
    escaped = (c if c.isprintable() else repr(c)[1:-1] for c in text)
    return shortened("".join(escaped), width)


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that is spelled most alike; None if none is.

    Parameters
    ----------
    name : object
        Case and underscores do not matter; what is no text is like no name.
    known : iterable of str

    Returns
    -------
    str or None

    Examples
    --------
    >>> nearest("lower_bond", ["lower_bound", "upper_bound"])
    'lower_bound'
    """
    if not isinstance(name, str):
        return None
    by_letters = {_letters(known_name): known_name for known_name in known}
    found = difflib.get_close_matches(_letters(name), by_letters, n=1, cutoff=0.75)
    return by_letters[found[0]] if found else None


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Ask for the nearest known name: the end of an error message, or nothing.

    Parameters
    ----------
    name : object
    known : iterable of str

    Returns
    -------
    str

    Examples
    --------
    >>> did_you_mean("lagrangean", ["lagrangian", "slack"])
    "; did you mean 'lagrangian'?"
    """
    found = nearest(name, known)
    return "" if found is None else f"; did you mean {found!r}?"


def keywords_of(function: Callable) -> dict[str, inspect.Parameter] | None:
    """Parameters of a callable by name; None if it takes any, or does not tell.

    Parameters
    ----------
    function : callable

    Returns
    -------
    dict or None
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    kinds = {parameter.kind for parameter in parameters.values()}
    return None if inspect.Parameter.VAR_KEYWORD in kinds else dict(parameters)


def _letters(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _representation(value: object) -> str:
    try:
        text = repr(value)
        # That of a Series or a tensor has many lines, that of its list has one.
        many_lines = "\n" in text and hasattr(value, "tolist")
        return repr(value.tolist()) if many_lines else text
    # A representation may fail in any way: that of a very long integer does.
    except Exception:
        return f"a value of type {type(value).__name__}"
