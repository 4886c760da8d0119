"""The estimator's parameters: valid values, and when they may change."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, TypeVar

from sklearn.utils._param_validation import (
    Interval,
    Options,
    StrOptions,
    validate_parameter_constraints,
)

from sklpos.nets.modules import TrainingDefaults

Estimator = TypeVar("Estimator")

#: Parameters of skorch's net start with one of these and two underscores.
PREFIXES = (
    "module",
    "optimizer",
    "criterion",
    "callbacks",
    "iterator_train",
    "iterator_valid",
    "dataset",
    "compile",
)
#: Name of the var-keyword itself, which scikit-learn's checks pass like a parameter.
OPEN_NAME = "net_params"

# For scikit-learn: these are checked where they are read, with their own messages.
_ANY = "no_validation"
_NON_NEGATIVE = Interval(Real, 0, None, closed="left")
_POSITIVE = Interval(Real, 0, None, closed="neither")

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
    "balance": (["boolean"], ""),
    "criterion": ([callable], "built in"),
    "optimizer": ([callable], ""),
    "lr": ([_POSITIVE, StrOptions({"auto"})], "live"),
    "lr_schedule": ([StrOptions({"cosine"}), None], ""),
    "weight_decay": ([_NON_NEGATIVE, StrOptions({"auto"})], "built in"),
    "max_epochs": (
        [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
        "live",
    ),
    "batch_size": (
        [
            Interval(Integral, 1, None, closed="left"),
            Options(Integral, {-1}),
            StrOptions({"auto"}),
        ],
        "live",
    ),
    "early_stopping": (["boolean"], "built in"),
    "validation_fraction": ([Interval(Real, 0, 1, closed="neither")], "built in"),
    "n_iter_no_change": ([Interval(Integral, 1, None, closed="left")], "built in"),
    "tol": ([_NON_NEGATIVE], "built in"),
    "callbacks": ([list, tuple, None], "built in"),
    "scale_y": (["boolean"], "built in"),
    "on_violated_y": ([StrOptions({"warn", "raise", "ignore"})], ""),
    "on_negative_y": ([StrOptions({"warn", "raise", "ignore", "deprecated"})], ""),
    "dtype": ([StrOptions({"auto", "float32", "float64"})], "built in"),
    "device": (_ANY, "built in"),
    "warm_start": (["boolean"], ""),
    "verbose": (["verbose"], "live"),
    "random_state": (["random_state"], ""),
}
LIVE = tuple(name for name, (_, when) in PARAMETERS.items() if when == "live")
BUILT_IN = tuple(name for name, (_, when) in PARAMETERS.items() if when == "built in")


def is_net_param(name: str) -> bool:
    """Whether a name belongs to the net, such as ``optimizer__weight_decay``.

    Parameters
    ----------
    name : str

    Returns
    -------
    bool
    """
    # `compile` is both a parameter of skorch and the prefix of others.
    prefixed = name.startswith(tuple(f"{prefix}__" for prefix in PREFIXES))
    return prefixed or name in (OPEN_NAME, "compile")


def check_names(params: dict[str, Any], owner: str) -> None:
    """Refuse names that neither the estimator nor the net knows.

    Parameters
    ----------
    params : dict
        The open keyword arguments of the estimator.
    owner : str
        Class name of the estimator, for the message.

    Raises
    ------
    TypeError
    """
    unknown = [name for name in params if not is_net_param(name)]
    if unknown:
        prefixes = ", ".join(f"{prefix}__" for prefix in PREFIXES)
        raise TypeError(
            f"{owner} has no parameter {unknown[0]!r}; parameters of the net start "
            f"with one of {prefixes}."
        )


def check_strategy_params(params: dict[str, Any], strategy: object) -> None:
    """Refuse parameters of a strategy that is given by its name.

    Parameters
    ----------
    params : dict
        What `set_params` was given.
    strategy : str or ConstraintStrategy

    Raises
    ------
    ValueError
    """
    name = next((name for name in params if name.startswith("strategy__")), None)
    if name is not None and isinstance(strategy, str):
        raise ValueError(
            f"{name} needs strategy to be an instance, such as "
            "sklpos.strategies.AugmentedLagrangian(), but it is the name "
            f"{strategy!r}."
        )


def check_params(estimator) -> None:
    """Refuse invalid parameter values.

    Parameters
    ----------
    estimator : PositiveOutputRegressor

    Raises
    ------
    ValueError or TypeError
        With scikit-learn's own message.
    """
    params = estimator.get_params(deep=False)
    # `set_params` must let it pass, so it is refused only here.
    if OPEN_NAME in params:
        raise TypeError(f"{type(estimator).__name__} has no parameter {OPEN_NAME!r}.")
    constraints = {name: valid for name, (valid, _) in PARAMETERS.items()}
    checked = {name: value for name, value in params.items() if name in constraints}
    validate_parameter_constraints(constraints, checked, type(estimator).__name__)


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
    # Not `copy.copy`: a warm start compares the very objects that were given. Nor by
    # the constructor: that of a subclass may have other parameters.
    resolved = object.__new__(type(estimator))
    vars(resolved).update(vars(estimator))
    for name, value in meant.items():
        if getattr(estimator, name) == "auto":
            setattr(resolved, name, value)
    return resolved


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
    start = f"{prefix}__"
    return {
        name.removeprefix(start): value
        for name, value in net_params(estimator).items()
        if name.startswith(start)
    }
