"""From an estimator's parameters to its private net."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from skorch.callbacks import EarlyStopping
from skorch.helper import predefined_split
from skorch.utils import noop
from torch import nn

from sklpos.data import RowDataset
from sklpos.modules import check_output, find_head, make_module, trace
from sklpos.net import ConstrainedNet
from sklpos.seeding import borrowed_generator, derive_seed, draws_random_numbers
from sklpos.targets import TargetScale
from sklpos.validation import TrainingData, check_device, check_dtype, check_strategy

LIVE = ("lr", "max_epochs", "batch_size", "verbose")


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """The data as the net sees them.

    Attributes
    ----------
    train : RowDataset
    valid : RowDataset or None
    index : ndarray of shape (n_train,)
        Sample number of each training row.
    """

    train: RowDataset
    valid: RowDataset | None
    index: np.ndarray


def new_net(estimator, data: TrainingData, seed: int) -> tuple:
    """Build an initialised net for an estimator and its data.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    data : TrainingData
    seed : int

    Returns
    -------
    net : ConstrainedNet
    rows : TrainingRows
    """
    device = check_device(estimator.device)
    dtype = check_dtype(estimator.dtype, data.X, device)
    strategy = check_strategy(estimator.strategy, estimator.alpha)
    example = torch.as_tensor(data.X[:1], dtype=dtype)
    module = _new_module(estimator, data, seed).to(dtype)
    head = _head_of(module, example, data.y.shape[1], strategy)
    targets = TargetScale.from_data(
        data.y,
        data.weight,
        data.lower_bound,
        shifted=head is None or module.get_submodule(head).bias is not None,
        scaled=estimator.scale_y,
    )
    bound = torch.as_tensor(targets.bound, dtype=dtype)
    _start_head(estimator.module, module, head, targets, strategy, bound)
    module = strategy.wrap(module, head, X=example, lower_bound=bound)
    rows = _split_rows(estimator, data, targets, dtype, seed)
    set_up_strategy(strategy, rows.train, targets, estimator.alpha)
    net = ConstrainedNet(
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
    return net.initialize(), rows


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
            "strategy and lower_bound cannot change under a strategy that is part of "
            "the module; use fit with warm_start=False."
        )
    net.targets = replace(net.targets, lower_bound=data.lower_bound)
    dtype = next(net.module_.parameters()).dtype
    rows = _split_rows(estimator, data, net.targets, dtype, net.seed)
    if changed or not same_rows:
        net.strategy = net.strategy_ = strategy
        net.alpha = estimator.alpha
        set_up_strategy(strategy, rows.train, net.targets, estimator.alpha)
        net.renew_constraint()
    _apply_live_params(estimator, net)
    return rows


def run_epochs(net: ConstrainedNet, rows: TrainingRows, epochs: int) -> None:
    """Train for some epochs; Ctrl-C and early stopping end it quietly."""
    net.train_split = predefined_split(rows.valid) if rows.valid else None
    try:
        net.partial_fit(rows.train, epochs=epochs)
    finally:
        net.train_split = None  # the net must not carry the data


def module_recipe(estimator) -> tuple:
    """Return what decides the module; it must not change between warm starts."""
    kwargs = estimator._net_params_for("module")
    return estimator.module, kwargs, estimator.dtype, estimator.device


def set_up_strategy(strategy, rows: RowDataset, targets, alpha: float) -> None:
    """Allocate a strategy's tensors for the rows and the bounded outputs."""
    bounded = torch.as_tensor(targets.bounded)
    bound = torch.as_tensor(targets.bound[targets.bounded], dtype=rows.y.dtype)
    strategy.setup(rows.y[:, bounded], lower_bound=bound, alpha=alpha)


def _new_module(estimator, data: TrainingData, seed: int) -> nn.Module:
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
    with borrowed_generator(derive_seed(seed, 2)):
        return make_module(estimator.module, data.X.shape[1], data.y.shape[1], **kwargs)


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


def _split_rows(estimator, data, targets, dtype, seed) -> TrainingRows:
    y = targets.standardise(data.y)
    index = np.arange(len(y))
    if not estimator.early_stopping:
        return TrainingRows(_rows(data, y, index, dtype), None, data.kept)
    if len(y) < 2:
        raise ValueError("early_stopping=True needs at least 2 samples.")
    train, valid = train_test_split(
        index,
        test_size=max(1, int(estimator.validation_fraction * len(y))),
        random_state=derive_seed(seed, 3) % 2**32,
    )
    train.sort()
    return TrainingRows(
        _rows(data, y, train, dtype), _rows(data, y, valid, dtype), data.kept[train]
    )


def _rows(data: TrainingData, y, index, dtype) -> RowDataset:
    whole = len(index) == len(y)
    X = data.X if whole else data.X[index]
    return RowDataset(
        torch.as_tensor(X, dtype=dtype),
        torch.as_tensor(y[index], dtype=dtype),
        torch.as_tensor(data.weight[index]),
    )


def _callbacks(estimator) -> list:
    callbacks = [_private_copy(item) for item in estimator.callbacks or []]
    if estimator.early_stopping:
        stopper = EarlyStopping(
            patience=estimator.n_iter_no_change,
            threshold=estimator.tol,
            threshold_mode="abs",
            load_best=True,
            sink=print if estimator.verbose else noop,
        )
        callbacks.append(("early_stopping", stopper))
    return callbacks


def _private_copy(item):
    """Shallow: a callback may hold a writer or an open file."""
    if isinstance(item, tuple):
        return item[0], _private_copy(item[1])
    return item if isinstance(item, type) else copy.copy(item)


def _open_params(estimator) -> dict:
    params = {
        name: value
        for name, value in estimator._net_params.items()
        if not name.startswith("module__")
    }
    if isinstance(estimator.criterion, type):
        params = {"criterion__reduction": "none", **params}
    return {"iterator_train__shuffle": True, **params}


def _signature(strategy, alpha: float) -> tuple:
    return type(strategy), sorted(strategy.get_params().items()), alpha


def _apply_live_params(estimator, net: ConstrainedNet) -> None:
    net.set_params(**{name: getattr(estimator, name) for name in LIVE})
    if net.optimizer is not estimator.optimizer:
        net.optimizer = estimator.optimizer
        net._initialize_optimizer()
    net.set_params(
        **{
            name: value
            for name, value in estimator._net_params.items()
            if name.startswith("optimizer__") and name != "optimizer__param_groups"
        }
    )
