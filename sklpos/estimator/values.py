"""Valid values of the estimator's parameters, and what is said of others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import torch
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    make_constraint,
)
from skorch.callbacks import Callback

from sklpos.nets.hints import did_you_mean, nearest, shown
from sklpos.nets.rules import as_float

#: Optimizers by the names that scikit-learn and Keras have for them.
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and kind is not torch.optim.Optimizer
}
# Losses by the names that scikit-learn, Keras and boosted trees have for them.
_LOSSES = {
    "MSELoss": "mse squared_error mean_squared_error l2 squared_loss squarederror",
    "L1Loss": "mae absolute_error mean_absolute_error l1",
    "HuberLoss": "huber",
    "SmoothL1Loss": "smooth_l1 smooth_l1_loss",
}
_LOSS_OF = {name: loss for loss, names in _LOSSES.items() for name in names.split()}


class FiniteInterval(Interval):
    """Interval of finite numbers, in which True and False are none.

    Parameters
    ----------
    kind : type
        ``numbers.Real`` or ``numbers.Integral``.
    left, right : float or int
        None for no limit; an integer then has at most 63 bits.
    closed : {"left", "right", "both", "neither"}
        Which limits belong to it.

    Examples
    --------
    >>> FiniteInterval(Integral, 1, None, closed="left").is_satisfied_by(True)
    False
    """

    def is_satisfied_by(self, val: Any) -> bool:
        """Whether a value is a finite number of the interval."""
        number = as_float(val)
        if number is None or not math.isfinite(number):
            return False
        within = self.type is not Integral or number < 2**63
        return within and super().is_satisfied_by(val)


def check_values(
    values: Mapping[str, Any], constraints: Mapping[str, list | str], owner: str
) -> None:
    """Refuse invalid values, in one short sentence.

    Parameters
    ----------
    values : mapping of str to object
        Parameters of the estimator.
    constraints : mapping of str to list or "no_validation"
        In scikit-learn's language.
    owner : str
        Class name of the estimator, for the message.

    Raises
    ------
    ValueError or TypeError
        That of scikit-learn, or a sentence that says what to pass instead.
    """
    for name, value in values.items():
        if name in _HINTS:
            _HINTS[name](value)
        valid = constraints[name]
        if valid == "no_validation":
            continue
        made = [make_constraint(constraint) for constraint in valid]
        if not any(constraint.is_satisfied_by(value) for constraint in made):
            # scikit-learn's words, but with the value in one line.
            words = [str(constraint) for constraint in made if not constraint.hidden]
            allowed = " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
            raise InvalidParameterError(
                f"The {name!r} parameter of {owner} must be {allowed}. Got "
                f"{shown(value)} instead."
            )


def optimizer_class(optimizer: str | Callable) -> Callable:
    """The class of an optimizer that may be given by its name.

    Parameters
    ----------
    optimizer : str or callable
        A name in ``torch.optim``, in any case.

    Returns
    -------
    callable

    Raises
    ------
    ValueError
        If the name is unknown; the message has the nearest one.

    Examples
    --------
    >>> optimizer_class("adam")
    <class 'torch.optim.adam.Adam'>
    """
    if not isinstance(optimizer, str):
        return optimizer
    if optimizer.lower() not in OPTIMIZERS:
        listed = f"; choose one of {', '.join(sorted(OPTIMIZERS))}, or pass a class."
        raise ValueError(
            f"optimizer={shown(optimizer)} is no optimizer of torch.optim"
            f"{did_you_mean(optimizer, OPTIMIZERS) or listed}"
        )
    return OPTIMIZERS[optimizer.lower()]


def _hint_optimizer(value: Any) -> None:
    if isinstance(value, torch.optim.Optimizer):
        name = type(value).__name__
        raise ValueError(
            f"optimizer must be the class torch.optim.{name} or its name, not an "
            "instance, because a fit makes the weights; pass its parameters as "
            "lr=0.01, optimizer__name=value."
        )
    optimizer_class(value)


def _hint_criterion(value: Any) -> None:
    if not isinstance(value, str):
        return
    known = {*_LOSS_OF, *(name.lower() for name in _LOSSES)}
    found = nearest(value, known)
    meant = {**_LOSS_OF, **{name.lower(): name for name in _LOSSES}}.get(found)
    raise ValueError(
        f"criterion={shown(value)} must be a callable, such as the class "
        f"torch.nn.{meant or 'MSELoss'}, not its name."
    )


def _hint_module(value: Any) -> None:
    if isinstance(value, str):
        name = {"mlp": "MLP"}.get(value.lower(), "Stack")
        raise ValueError(
            f"module={shown(value)} must be an nn.Module instance, or a class or "
            f"callable that makes one, such as sklpos.{name}, not its name."
        )


def _hint_callbacks(value: Any) -> None:
    if isinstance(value, Callback):
        name = type(value).__name__
        raise ValueError(
            f"callbacks={name}(...) must be in a list: pass callbacks=[{name}(...)]."
        )


# What is said of values that users of other libraries pass.
_HINTS: dict[str, Callable[[Any], None]] = {
    "optimizer": _hint_optimizer,
    "criterion": _hint_criterion,
    "module": _hint_module,
    "callbacks": _hint_callbacks,
}
