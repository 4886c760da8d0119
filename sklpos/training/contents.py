"""What values consist of, told alike in every process."""

from __future__ import annotations

import math
from numbers import Integral, Real
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

from sklpos.certificates.digests import hexdigest

_PLAIN = (type(None), bool, complex, str, bytes)
# Their classes are the same wherever their versions are.
_INSTALLED = {"builtins", "numpy", "scipy", "sklearn", "skorch", "sklpos", "torch"}


def content_digest(value: Any) -> str:
    """Digest of all that a value consists of.

    Objects are compared by their attributes, modules by their weights too, functions
    and classes of the user by their code: never by their ``repr`` or their place in
    memory. Equal numbers are equal, whatever their type.

    Parameters
    ----------
    value : object

    Returns
    -------
    str
        Equal in all processes that have equal values.

    Examples
    --------
    >>> content_digest({"alpha": 1}) == content_digest({"alpha": np.float32(1)})
    True
    >>> content_digest(nn.Linear(1, 1)) == content_digest(nn.Linear(1, 1))
    False
    """
    return hexdigest(_content(value, {}))


def _content(value: Any, seen: dict[int, Any]) -> Any:
    """Express a value in lists of numbers, texts and arrays."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Real):
        return _number(value)
    if isinstance(value, tuple):
        # Equal tuples may be one object, or not, as it happens in a process.
        return ["tuple", *(_content(item, seen) for item in value)]
    if id(value) in seen:
        return ["again", seen[id(value)][0]]
    # Held, because the place of an object that is gone is used again.
    seen[id(value)] = len(seen), value
    return [_name(type(value)), *_parts(value, seen)]


def _number(value: Real) -> int | float | str:
    if isinstance(value, Integral):
        return int(value)
    if not isinstance(value, float):
        return repr(value)
    return int(value) if math.isfinite(value) and value == int(value) else value


def _parts(value: Any, seen: dict[int, Any]) -> list:
    if isinstance(value, Tensor):
        return [value.requires_grad, value.detach()]
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return [value]
    items = _items(value)
    return [_content(item, seen) for item in items]


def _items(value: Any) -> list:
    """The parts of a value that is no number, text or array."""
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if isinstance(value, (set, frozenset)):
        return sorted(map(content_digest, value))
    if isinstance(value, (list, np.ndarray)):
        return [np.shape(value) if isinstance(value, np.ndarray) else (), *value]
    if isinstance(value, nn.Module):
        return _attributes(value)
    if isinstance(value, type):
        return _items_of_class(value)
    if isinstance(value, FunctionType):
        held = [_held(cell) for cell in value.__closure__ or ()]
        defaults = value.__defaults__, value.__kwdefaults__
        code = None if _is_installed(value) else value.__code__
        return [_name(value), code, defaults, held]
    if isinstance(value, CodeType):
        return [value.co_code, value.co_consts, value.co_names]
    if isinstance(value, ModuleType):
        return [value.__name__]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    return _reduced(value)


def _reduced(value: Any) -> list:
    """What a pickle of an object would hold."""
    try:
        made = value.__reduce_ex__(4)
    # An object that cannot be pickled may say so in any way.
    except Exception:
        return _attributes(value) if hasattr(value, "__dict__") else []
    if isinstance(made, str):
        return [made]
    _, arguments, *rest = made
    state, listed, keyed = [*rest, None, None, None][:3]
    return [arguments, state, list(listed or ()), list(keyed or ())]


def _attributes(value: Any) -> list:
    """Attributes; of hooks the functions alone, as their numbers are counted up."""
    return [
        (name, list(item.values()) if _holds_hooks(name, item) else item)
        for name, item in vars(value).items()
    ]


def _holds_hooks(name: str, item: Any) -> bool:
    return "_hooks" in name and isinstance(item, dict)


def _items_of_class(kind: type) -> list:
    own = [base for base in kind.__mro__ if not _is_installed(base)]
    parts = [item for base in own for item in vars(base).values()]
    return [_name(kind), *(part for part in parts if isinstance(part, FunctionType))]


def _is_installed(value: Any) -> bool:
    return value.__module__.partition(".")[0] in _INSTALLED


def _name(value: Any) -> str:
    module = getattr(value, "__module__", None)
    # A process that was spawned knows the module of the program by another name.
    module = "__main__" if module == "__mp_main__" else module
    return f"{module}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _held(cell) -> Any:
    try:
        return cell.cell_contents
    # A variable that the outer function has not set yet.
    except ValueError:
        return None
