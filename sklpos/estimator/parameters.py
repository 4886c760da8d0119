"""The estimator's parameters: valid values, and when they may change."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, TypeVar

from sklearn.utils._param_validation import Options, StrOptions
from torch import nn

from sklpos.estimator.keywords import check_keywords
from sklpos.estimator.names import OPEN_NAME, is_net_param, without_prefix
from sklpos.estimator.values import FiniteInterval, check_values, optimizer_class
from sklpos.nets.modules import TrainingDefaults
from sklpos.training.criterion import make_criterion

Estimator = TypeVar("Estimator")

_SHARE = FiniteInterval(Real, 0, 1, closed="neither")
_COUNT = FiniteInterval(Integral, 1, None, closed="left")
_SIZE = [_COUNT, Options(Integral, {-1})]
# For scikit-learn: these are checked where they are read, with their own messages.
_ANY = "no_validation"
_NON_NEGATIVE = FiniteInterval(Real, 0, None, closed="left")
_POSITIVE = FiniteInterval(Real, 0, None, closed="neither")

#: Name -> valid values, in scikit-learn's language, and when it may change: "live"
#: parameters do in a warm start, those "built in" the net do not, and all others are
#: read anew by each `fit` and `partial_fit`.
PARAMETERS: dict[str, tuple[list | str, str]] = {
    "module": (_ANY, "built in"),
    "strategy": (_ANY, ""),
    "alpha": ([_NON_NEGATIVE], ""),
    "lower_bound": (_ANY, ""),
    "upper_bound": (_ANY, ""),
    "repair": ([StrOptions({"head"}), None], ""),
    "balance": (["boolean", StrOptions({"auto"})], ""),
    "criterion": ([callable], "built in"),
    "optimizer": ([callable, str], ""),
    "lr": ([_POSITIVE, StrOptions({"auto"})], "live"),
    "lr_schedule": ([StrOptions({"cosine"}), None], ""),
    "weight_decay": ([_NON_NEGATIVE, StrOptions({"auto"})], "built in"),
    "max_epochs": (
        [FiniteInterval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
        "live",
    ),
    "batch_size": ([*_SIZE, StrOptions({"auto"})], "live"),
    "early_stopping": (["boolean"], "built in"),
    "validation_fraction": ([_SHARE], "built in"),
    "n_iter_no_change": ([_COUNT], "built in"),
    "tol": ([_NON_NEGATIVE], "built in"),
    "callbacks": ([list, tuple, None], "built in"),
    "scale_y": (["boolean", StrOptions({"auto"})], "built in"),
    "on_violated_y": ([StrOptions({"warn", "raise", "ignore"})], ""),
    "on_negative_y": ([StrOptions({"warn", "raise", "ignore", "deprecated"})], ""),
    "dtype": (
        [StrOptions({"auto", "float32", "float64", "bfloat16-mixed"})],
        "built in",
    ),
    "device": (_ANY, "built in"),
    "warm_start": (["boolean"], ""),
    "on_interrupt": ([StrOptions({"warn", "raise"})], ""),
    "verbose": (["verbose"], "live"),
    "random_state": (["random_state"], ""),
}
#: The same for parameters of the net that do not depend on a class of the user.
NET_PARAMETERS: dict[str, list | str] = {
    "iterator_train__batch_size": _SIZE,
    "iterator_valid__batch_size": _SIZE,
    "iterator_train__shuffle": ["boolean"],
    "iterator_train__drop_last": ["boolean"],
    "iterator_valid__shuffle": ["boolean"],
    "iterator_valid__drop_last": ["boolean"],
    "compile": ["boolean"],
    "cuda_graph": ["boolean"],
}
LIVE = tuple(name for name, (_, when) in PARAMETERS.items() if when == "live")
BUILT_IN = tuple(name for name, (_, when) in PARAMETERS.items() if when == "built in")


def check_params(estimator) -> None:
    """Refuse invalid parameter values.

    Parameters
    ----------
    estimator : PositiveOutputRegressor

    Raises
    ------
    ValueError or TypeError
        One sentence that names the parameter.
    """
    params = estimator.get_params(deep=False)
    # `set_params` must let it pass, so it is refused only here.
    if OPEN_NAME in params:
        raise TypeError(f"{type(estimator).__name__} has no parameter {OPEN_NAME!r}.")
    owner = type(estimator).__name__
    # A subclass may have fewer parameters, but it has all attributes.
    own = {name: getattr(estimator, name) for name in PARAMETERS}
    valid = {name: constraints for name, (constraints, _) in PARAMETERS.items()}
    check_values(own, valid, owner)
    check_values(
        {name: params[name] for name in NET_PARAMETERS if name in params},
        NET_PARAMETERS,
        owner,
    )
    check_keywords(net_params(estimator), own)


def resolve(estimator: Estimator, n_samples: int) -> Estimator:
    """Copy an estimator, with what ``"auto"`` means for its module and data.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    n_samples : int
        Training rows.

    Returns
    -------
    PositiveOutputRegressor
    """
    defaults = TrainingDefaults.of(estimator.module, n_samples)
    size = estimator.batch_size
    size = {-1: n_samples, "auto": defaults.batch_size}.get(size, size)
    meant = {
        "strategy": defaults.strategy,
        "lr": defaults.lr,
        "batch_size": defaults.batch_size,
        "max_epochs": defaults.max_epochs(math.ceil(n_samples / size)),
    }
    meant = {k: v for k, v in meant.items() if _is_auto(getattr(estimator, k))}
    return stand_in(estimator, **meant, optimizer=optimizer_class(estimator.optimizer))


def stand_in(estimator: Estimator, **attributes: Any) -> Estimator:
    """Copy an estimator, with other attributes; it shares those that stay.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    **attributes : object

    Returns
    -------
    PositiveOutputRegressor
    """
    # Not `copy.copy`: a warm start compares the very objects that were given. Nor by
    # the constructor: that of a subclass may have other parameters.
    twin = object.__new__(type(estimator))
    vars(twin).update({**vars(estimator), **attributes})
    return twin


def changed_vars(before, after) -> dict[str, Any]:
    """Attributes of an estimator that are other objects than before.

    Parameters
    ----------
    before, after : PositiveOutputRegressor

    Returns
    -------
    dict
    """
    known = vars(before)
    return {
        name: value
        for name, value in vars(after).items()
        if name not in known or value is not known[name]
    }


def _is_auto(value: object) -> bool:
    # An array would be compared number by number.
    return isinstance(value, str) and value == "auto"


def net_params(estimator) -> dict[str, Any]:
    """Parameters of the net that were given to an estimator.

    Parameters
    ----------
    estimator : PositiveOutputRegressor

    Returns
    -------
    dict
    """
    params = estimator.get_params(deep=False)
    return {name: value for name, value in params.items() if is_net_param(name)}


def net_params_for(estimator, prefix: str) -> dict[str, Any]:
    """Parameters of one part of the net, without their prefix.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    prefix : str
        One of `PREFIXES`.

    Returns
    -------
    dict
    """
    return without_prefix(net_params(estimator), prefix)


def criterion_of(estimator) -> nn.Module:
    """Make the criterion that an estimator asks for.

    Parameters
    ----------
    estimator : PositiveOutputRegressor

    Returns
    -------
    nn.Module
    """
    return make_criterion(estimator.criterion, net_params_for(estimator, "criterion"))
