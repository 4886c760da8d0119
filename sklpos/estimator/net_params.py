"""The parameters of the private net, from those of the estimator."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from skorch.callbacks import EarlyStopping, InputShapeSetter
from skorch.utils import noop
from torch import nn

from sklpos.estimator.callbacks import check_callbacks
from sklpos.estimator.parameters import BUILT_IN, net_params, net_params_for
from sklpos.training.copies import copy_callbacks, inner_callbacks
from sklpos.training.criterion_traits import is_squared_error
from sklpos.training.decay import NoiseScaledDecay


def built_in_params(estimator) -> dict[str, Any]:
    """Parameters that are part of a net once it is built."""
    # Those of the optimizer are live: a warm start hands them over.
    params = {name: getattr(estimator, name) for name in BUILT_IN}
    return {**params, **_net_params_but(estimator, "optimizer__")}


def check_built_in_params(estimator, built_in: dict[str, Any]) -> None:
    """Raise ValueError if a parameter changed that is part of the net."""
    now = built_in_params(estimator)
    for name in {**built_in, **now}:
        both = name in now and name in built_in
        if not both or not is_same(now[name], built_in[name]):
            raise ValueError(
                f"{name} is part of the net and cannot change in a warm start; use fit "
                "with warm_start=False."
            )


def is_same(value: object, other: object) -> bool:
    """Whether two values of a parameter are equal; arrays are as wholes.

    Parameters
    ----------
    value, other : object

    Returns
    -------
    bool
    """
    try:
        return value is other or bool(value == other)
    # Arrays and tensors compare number by number.
    except (ValueError, RuntimeError):
        return type(value) is type(other) and np.array_equal(value, other)


def net_callbacks(estimator, module: nn.Module, criterion: nn.Module) -> list:
    """Callbacks of the net: copies of the user's, and those that parameters request.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    module : nn.Module
        The one to train.
    criterion : nn.Module
        See `criterion_of`.

    Returns
    -------
    list of (str, Callback)
    """
    check_callbacks(estimator.callbacks)
    _refuse_shape_setters(estimator.callbacks or [])
    callbacks = copy_callbacks(list(estimator.callbacks or []))
    # Those of the list are initialised by the net. A LoadInitState, for instance, may
    # hold the checkpoint of another model, of which nobody else initialises the copy.
    for callback in inner_callbacks(callbacks):
        callback.initialize()
    if estimator.early_stopping:
        stopper = EarlyStopping(
            patience=estimator.n_iter_no_change,
            threshold=estimator.tol,
            # As `tol` of scikit-learn's MLP; losses of scaled targets have no unit.
            threshold_mode="abs",
            load_best=True,
            sink=print if estimator.verbose else noop,
        )
        callbacks.append(("early_stopping", stopper))
    if _decays_by_noise(estimator, module, criterion):
        callbacks.append(("weight_decay", NoiseScaledDecay()))
    return callbacks


def _refuse_shape_setters(callbacks: list) -> None:
    """Skorch's InputShapeSetter would make the module again, with other weights."""
    given = [item[-1] if isinstance(item, tuple) else item for item in callbacks]
    kinds = [item if isinstance(item, type) else type(item) for item in given]
    if any(issubclass(kind, InputShapeSetter) for kind in kinds):
        raise ValueError(
            "callbacks holds an InputShapeSetter, which is not needed: a module class "
            "or callable receives n_features_in if its signature has it."
        )


def open_params(estimator, module: nn.Module, criterion: nn.Module) -> dict[str, Any]:
    """Parameters of the net that the estimator has no parameter of its own for.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    module : nn.Module
        The one to train.
    criterion : nn.Module
        See `criterion_of`.

    Returns
    -------
    dict
    """
    params = _net_params_but(estimator, "module__")
    decay = _decay_params(estimator, module, criterion)
    # A sampler decides the order of the rows by itself.
    sampled = {"iterator_train__sampler", "iterator_train__batch_sampler"}
    shuffle = {} if params.keys() & sampled else {"iterator_train__shuffle": True}
    return {**shuffle, **decay, **params}


def _net_params_but(estimator, prefix: str) -> dict[str, Any]:
    params = net_params(estimator)
    return {k: v for k, v in params.items() if not k.startswith(prefix)}


def _decays_by_default(estimator) -> bool:
    """Whether the package chooses the decay."""
    given = net_params_for(estimator, "optimizer")
    return (
        estimator.weight_decay == "auto"
        and estimator.optimizer is torch.optim.AdamW
        and not given.keys() & {"weight_decay", "param_groups"}
    )


def _decays_by_noise(estimator, module: nn.Module, criterion: nn.Module) -> bool:
    return (
        _decays_by_default(estimator)
        # A module may know a decay for each part of it.
        and not hasattr(module, "param_groups")
        and is_squared_error(criterion)
        and not isinstance(estimator.module, nn.Module)
    )


def _decay_params(estimator, module: nn.Module, criterion: nn.Module) -> dict[str, Any]:
    """Parameters of the net for ``weight_decay``; refuse one that is given twice."""
    if hasattr(module, "param_groups") and _decays_by_default(estimator):
        return {"optimizer__param_groups": module.param_groups}
    if _decays_by_noise(estimator, module, criterion):
        # A bias carries the mean, which noise is no reason to shrink.
        return {"optimizer__param_groups": [("*bias", {"weight_decay": 0.0})]}
    if estimator.weight_decay == "auto":
        return {}
    shown = f"weight_decay={estimator.weight_decay!r}"
    if "weight_decay" in net_params_for(estimator, "optimizer"):
        raise ValueError(
            f"{shown} and optimizer__weight_decay are the same thing; pass only one."
        )
    if "weight_decay" not in inspect.signature(estimator.optimizer).parameters:
        # An optimizer without the term does not decay anyway.
        if estimator.weight_decay == 0:
            return {}
        name = getattr(estimator.optimizer, "__name__", estimator.optimizer)
        raise ValueError(
            f"{shown} must be 'auto' or 0 for {name}, which has no weight decay."
        )
    return {"optimizer__weight_decay": estimator.weight_decay}
