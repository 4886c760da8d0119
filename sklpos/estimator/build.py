"""From an estimator's parameters to its private net."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from skorch.callbacks import EarlyStopping
from skorch.utils import noop
from torch import nn

from sklpos.estimator.checks import (
    TrainingData,
    check_callback_params,
    check_callbacks,
    check_strategy,
)
from sklpos.estimator.split import split_rows
from sklpos.nets.arrays import check_range
from sklpos.nets.head import check_output, find_head, trace
from sklpos.nets.modules import make_module
from sklpos.nets.placement import check_device, check_dtype
from sklpos.nets.units import TargetScale
from sklpos.training.callbacks import check_single, private_copy
from sklpos.training.decay import decay_callbacks, decay_params
from sklpos.training.net import ConstrainedNet
from sklpos.training.randomness import (
    borrowed_generator,
    derive_seed,
    draws_random_numbers,
)
from sklpos.training.rows import TrainingRows

LIVE = ("lr", "max_epochs", "batch_size", "verbose")  # may change in a warm start
BUILT_IN = (
    "module",
    "criterion",
    "callbacks",
    "weight_decay",
    "early_stopping",
    "validation_fraction",
    "n_iter_no_change",
    "tol",
    "scale_y",
    "dtype",
    "device",
)


def new_net(
    estimator, data: TrainingData, seed: int, population=None, net_type=ConstrainedNet
) -> tuple:
    """Build an initialised net for an estimator and its data.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    data : TrainingData
    seed : int
    population : tuple of (ndarray, ndarray), optional
        Targets and weights to measure the scaling on; by default those of the data.
    net_type : type, default=ConstrainedNet

    Returns
    -------
    net : ConstrainedNet
    rows : TrainingRows
    """
    device = check_device(estimator.device)
    dtype = check_dtype(estimator.dtype, data.X, device)
    strategy = check_strategy(estimator.strategy, estimator.alpha)
    example = torch.as_tensor(data.X[:1], dtype=dtype)
    module = _new_module(estimator, example, data.y.shape[1], seed)
    head = _head_of(module, example, data.y.shape[1], strategy)
    population = population or (data.y, data.weight)
    targets = TargetScale.from_data(
        *population,
        data.lower_bound,
        shifted=head is None or module.get_submodule(head).bias is not None,
        scaled=estimator.scale_y,
    )
    targets.check_target_magnitude(population[0], dtype)
    targets.check_bound_magnitude(dtype)
    bound = torch.as_tensor(targets.bound, dtype=dtype)
    _start_head(estimator.module, module, head, targets, strategy, bound)
    module = strategy.wrap(module, head, X=example, lower_bound=bound)
    rows = split_rows(estimator, data, targets, dtype, seed)
    set_up_strategy(strategy, rows, targets, estimator.alpha)
    net = net_type(
        module,
        strategy=strategy,
        alpha=estimator.alpha,
        targets=targets,
        head=head,
        seed=seed,
        stochastic=draws_random_numbers(module, example),
        device=str(device),
        train_split=None,
        criterion=estimator.criterion,
        optimizer=estimator.optimizer,
        callbacks=_callbacks(estimator),
        **{name: getattr(estimator, name) for name in LIVE},
        **_open_params(estimator),
    )
    net.initialize()
    check_callback_params(estimator._net_params_for("callbacks"), net.callbacks_)
    check_single(net.callbacks_)
    return net, rows


def continue_net(estimator, net: ConstrainedNet, data: TrainingData, same_rows: bool):
    """Ready a net for more epochs: live hyper-parameters, multipliers for these rows.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    net : ConstrainedNet
        Changed in place.
    data : TrainingData
    same_rows : bool
        Whether the data are those of the last call; they keep their multipliers.

    Returns
    -------
    TrainingRows
    """
    if data.y.shape[1] != len(net.targets.scale):
        raise ValueError(
            f"y has {data.y.shape[1]} outputs, but the net was built for "
            f"{len(net.targets.scale)}; use fit with warm_start=False."
        )
    strategy = check_strategy(estimator.strategy, estimator.alpha)
    bound_moved = not np.array_equal(data.lower_bound, net.targets.lower_bound)
    before, now = (net.strategy_, net.alpha), (strategy, estimator.alpha)
    changed = _signature(*before) != _signature(*now) or bound_moved
    if changed and (strategy.wraps_module or net.strategy_.wraps_module):
        raise ValueError(
            "strategy, alpha and lower_bound cannot change under a strategy that is "
            "part of the module; use fit with warm_start=False."
        )
    net.targets = replace(net.targets, lower_bound=data.lower_bound)
    dtype = next(net.module_.parameters()).dtype
    check_range(data.X, dtype)
    net.targets.check_bound_magnitude(dtype)
    rows = split_rows(estimator, data, net.targets, dtype, net.seed)
    if changed or not same_rows:
        set_up_strategy(strategy, rows, net.targets, estimator.alpha)
        strategy.take_over(net.strategy_)
        net.strategy = net.strategy_ = strategy
        net.alpha = estimator.alpha
        net.renew_constraint()
    _apply_live_params(estimator, net)
    return rows


def built_in_params(estimator) -> dict:
    """Return the parameters that are part of a net once it is built."""
    params = {name: getattr(estimator, name) for name in BUILT_IN}
    return {**params, **_net_params_but(estimator, "optimizer__")}


def check_built_in_params(estimator, built_in: dict) -> None:
    """Raise ValueError if a parameter changed that is part of the net."""
    now = built_in_params(estimator)
    for name in {**built_in, **now}:
        if name not in now or name not in built_in or now[name] != built_in[name]:
            raise ValueError(
                f"{name} is part of the net and cannot change in a warm start; use fit "
                "with warm_start=False."
            )


def set_up_strategy(strategy, rows: TrainingRows, targets, alpha: float) -> None:
    """Allocate a strategy's tensors for the rows and the bounded outputs."""
    y = rows.train.y
    bounded = torch.as_tensor(targets.bounded)
    bound = torch.as_tensor(targets.bound[targets.bounded], dtype=y.dtype)
    strategy.see_inputs(rows.X)
    strategy.setup(y[:, bounded], lower_bound=bound, alpha=alpha)


def _new_module(estimator, example, n_outputs: int, seed: int) -> nn.Module:
    with borrowed_generator(derive_seed(seed, 2)):
        module = _made_module(estimator, example.shape[1], n_outputs).to(example.dtype)
        trace(module, example)  # lazy layers draw their weights here
    if not any(weight.requires_grad for weight in module.parameters()):
        raise ValueError("module has no weights that can be trained.")
    return module


def _made_module(estimator, n_features_in: int, n_outputs: int) -> nn.Module:
    kwargs = estimator._net_params_for("module")
    if isinstance(estimator.module, nn.Module):
        if kwargs:
            raise ValueError(
                f"module__{next(iter(kwargs))} needs module to be a class or callable, "
                "not an instance."
            )
        return copy.deepcopy(estimator.module)
    if not callable(estimator.module):
        raise ValueError(
            f"module={estimator.module!r} must be an nn.Module instance, or a class or "
            "callable that makes one."
        )
    return make_module(estimator.module, n_features_in, n_outputs, **kwargs)


def _head_of(module, example, n_outputs: int, strategy) -> str | None:
    if strategy.needs_head:
        return find_head(module, example, n_outputs)
    check_output(trace(module, example)[0], n_outputs)
    try:
        return find_head(module, example, n_outputs)
    except ValueError:
        return None


@torch.no_grad()
def _start_head(spec, module, head, targets, strategy, bound) -> None:
    """Start a new head at the scaled mean; convert a pretrained one to scaled units."""
    if head is None:
        return
    linear = module.get_submodule(head)
    if not isinstance(spec, nn.Module):
        if linear.bias is not None:
            linear.bias.copy_(strategy.initial_bias(bound))
    elif strategy.needs_head:
        targets.unfold(linear)


def _callbacks(estimator) -> list:
    check_callbacks(estimator.callbacks)
    callbacks = [private_copy(item) for item in estimator.callbacks or []]
    if estimator.early_stopping:
        stopper = EarlyStopping(
            patience=estimator.n_iter_no_change,
            threshold=estimator.tol,
            threshold_mode="abs",
            load_best=True,
            sink=print if estimator.verbose else noop,
        )
        callbacks.append(("early_stopping", stopper))
    return callbacks + decay_callbacks(estimator)


def _open_params(estimator) -> dict:
    params = _net_params_but(estimator, "module__")
    if not isinstance(estimator.criterion, nn.Module):
        params = {"criterion__reduction": "none", **params}
    return {"iterator_train__shuffle": True, **decay_params(estimator), **params}


def _net_params_but(estimator, prefix: str) -> dict:
    return {k: v for k, v in estimator._net_params.items() if not k.startswith(prefix)}


def _signature(strategy, alpha: float) -> tuple:
    return type(strategy), sorted(strategy.get_params().items()), alpha


def _apply_live_params(estimator, net: ConstrainedNet) -> None:
    """Hand over what changed; the rest may have been moved since, by a schedule."""
    if net.optimizer is not estimator.optimizer:
        net.optimizer = estimator.optimizer
        net._initialize_optimizer()
    wanted = {name: getattr(estimator, name) for name in LIVE}
    for name, value in estimator._net_params_for("optimizer").items():
        wanted[f"optimizer__{name}"] = value
    wanted.pop("optimizer__param_groups", None)
    have = vars(net)
    changed = {k: v for k, v in wanted.items() if k not in have or have[k] != v}
    net.set_params(**changed)
