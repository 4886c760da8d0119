"""From an estimator's parameters to its private net."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from sklpos.estimator.checks import TrainingData, check_callback_params
from sklpos.estimator.fit import Fit
from sklpos.estimator.module import head_of, new_module, start_module
from sklpos.estimator.net_params import (
    check_built_in_params,
    net_callbacks,
    open_params,
)
from sklpos.estimator.parameters import LIVE, net_params_for
from sklpos.estimator.split import split_rows
from sklpos.nets.arrays import check_range
from sklpos.nets.placement import check_device, check_dtype
from sklpos.nets.units import TargetScale
from sklpos.strategies.architecture import Architecture
from sklpos.strategies.base import ConstraintStrategy
from sklpos.strategies.columns import OutputColumns
from sklpos.strategies.constraint import OutputConstraint
from sklpos.strategies.domain import DomainConstraint
from sklpos.strategies.registry import make_strategy
from sklpos.strategies.term import StrategyConstraint
from sklpos.training.callbacks import check_single
from sklpos.training.checkpoint import check_repeatable
from sklpos.training.members import rows_for_members
from sklpos.training.net import ConstrainedNet
from sklpos.training.randomness import (
    draw_seed,
    draws_random_numbers,
)
from sklpos.training.rows import TrainingRows
from sklpos.training.storage import fork

Population = tuple[np.ndarray, np.ndarray]


def start_net(
    estimator, data: TrainingData, earlier: Fit | None
) -> tuple[ConstrainedNet, TrainingRows]:
    """Build a net, or fork that of an earlier fit.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    data : TrainingData
    earlier : Fit or None

    Returns
    -------
    net : ConstrainedNet
    rows : TrainingRows
    """
    if earlier is None:
        net, rows = new_net(estimator, data, draw_seed(estimator.random_state))
        check_repeatable(net, estimator.random_state)
        return net, rows
    check_built_in_params(estimator, earlier.built_in)
    same_rows = data.key == earlier.key
    return fork_net(estimator, earlier.net, data, same_rows=same_rows)


def new_net(
    estimator, data: TrainingData, seed: int, population: Population | None = None
) -> tuple[ConstrainedNet, TrainingRows]:
    """Build an initialised net for an estimator and its data.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    data : TrainingData
    seed : int
    population : tuple of (ndarray, ndarray), optional
        Targets and weights to measure the scaling on; by default those of the data.

    Returns
    -------
    net : ConstrainedNet
    rows : TrainingRows
    """
    device = check_device(estimator.device)
    dtype = check_dtype(estimator.dtype, data.X, device)
    strategy = make_strategy(estimator.strategy, estimator.alpha)
    example = torch.as_tensor(data.X[:1], dtype=dtype)
    module = new_module(estimator, data, example, seed)
    head = head_of(module, example, data.y.shape[1], strategy)
    targets = _target_scale(estimator, data, population, module, head, dtype)
    module = start_module(estimator, module, head, targets, strategy, example)
    # All rows give the scaling, those held out too: one unit for both losses.
    rows = split_rows(estimator, data, targets, dtype, seed)
    rows = rows_for_members(rows, module, seed)
    constraint, domain = make_constraints(strategy, rows, targets, estimator.alpha)
    net = ConstrainedNet(
        module,
        constraint=constraint,
        domain_constraint=domain,
        alpha=estimator.alpha,
        targets=targets,
        head=head,
        seed=seed,
        stochastic=draws_random_numbers(module, example),
        device=str(device),
        # The rows are split already, with the constraint on the training rows alone.
        train_split=None,
        criterion=estimator.criterion,
        optimizer=estimator.optimizer,
        callbacks=net_callbacks(estimator, module),
        **{name: getattr(estimator, name) for name in LIVE},
        **open_params(estimator, module),
    )
    net.initialize()
    # Only an initialised net knows the names of all its callbacks.
    check_callback_params(net_params_for(estimator, "callbacks"), net.callbacks_)
    check_single(net.callbacks_)
    return net, rows


def fork_net(
    estimator, net: ConstrainedNet, data: TrainingData, *, same_rows: bool
) -> tuple[ConstrainedNet, TrainingRows]:
    """Copy a net for more epochs, with live parameters and these rows' multipliers.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    net : ConstrainedNet
        Not changed.
    data : TrainingData
    same_rows : bool
        Whether the data are those of the last call; they keep their multipliers.

    Returns
    -------
    net : ConstrainedNet
    rows : TrainingRows
    """
    n_outputs = len(net.targets.scale)
    if data.y.shape[1] != n_outputs:
        raise ValueError(
            f"y has {data.y.shape[1]} outputs, but the net was built for {n_outputs}; "
            "use fit with warm_start=False."
        )
    strategy = make_strategy(estimator.strategy, estimator.alpha)
    changed = _constraint_changed(estimator, net, strategy, data)
    # The weights are in the unit of the first fit, so the scaling stays.
    targets = replace(net.targets, bounds=data.bounds)
    dtype = next(net.module_.parameters()).dtype
    check_range(data.X, dtype)
    targets.check_bound_magnitude(dtype)
    rows = split_rows(estimator, data, targets, dtype, net.seed)
    rows = rows_for_members(rows, net.plain_module_, net.seed)
    # Only after all checks, so that refused input costs no copy.
    net = fork(net)
    net.targets = targets
    if changed or not same_rows:
        made = make_constraints(strategy, rows, targets, estimator.alpha)
        net.renew_constraints(*made, alpha=estimator.alpha)
    _apply_live_params(estimator, net)
    return net, rows


def make_constraints(
    strategy: ConstraintStrategy,
    rows: TrainingRows,
    targets: TargetScale,
    alpha: float,
) -> tuple[StrategyConstraint, DomainConstraint | None]:
    """Put a strategy on the training rows, and on the domain it asks for.

    Parameters
    ----------
    strategy : ConstraintStrategy
    rows : TrainingRows
    targets : TargetScale
    alpha : float

    Returns
    -------
    constraint : StrategyConstraint
        An `OutputConstraint` in scaled units, unless the strategy is part of the
        module.
    domain_constraint : DomainConstraint or None
    """
    y = rows.train.y
    bounds = targets.scaled_bounds
    # Several members may predict an output.
    bounds = bounds.repeated(y.shape[1] // len(bounds))
    if isinstance(strategy, Architecture):
        columns = OutputColumns(bounds, torch.ones(len(bounds), dtype=y.dtype))
        return StrategyConstraint(strategy, -columns.violation(y), alpha, columns), None
    constraint = OutputConstraint(
        y,
        scale=1.0,
        lower_bound=bounds.lower,
        upper_bound=bounds.upper,
        strategy=strategy,
        alpha=alpha,
    )
    term = strategy.domain_term(rows.X)
    if term is None:
        return constraint, None
    domain = DomainConstraint(
        term.bounds,
        like=constraint,
        strategy=term.strategy,
        alpha=term.alpha_share * alpha,
    )
    return constraint, domain


def _target_scale(
    estimator, data: TrainingData, population: Population | None, module, head, dtype
) -> TargetScale:
    y, weight = population or (data.y, data.weight)
    targets = TargetScale.from_data(
        y,
        weight,
        data.bounds,
        # A head without a bias cannot carry a shift.
        shifted=head is None or module.get_submodule(head).bias is not None,
        scaled=estimator.scale_y,
    )
    targets.check_target_magnitude(y, dtype)
    targets.check_bound_magnitude(dtype)
    return targets


# Warm starts


def _constraint_changed(estimator, net, strategy, data: TrainingData) -> bool:
    """Whether a new constraint is needed; refuse one that is part of the module."""
    before = _signature(net.strategy_, net.alpha)
    moved = not np.array_equal(data.bounds.sides, net.targets.bounds.sides)
    changed = moved or before != _signature(strategy, estimator.alpha)
    built_in = any(isinstance(own, Architecture) for own in (strategy, net.strategy_))
    if changed and built_in:
        raise ValueError(
            "strategy, alpha and the bounds cannot change under a strategy that is "
            "part of the module; use fit with warm_start=False."
        )
    return changed


def _signature(strategy: ConstraintStrategy, alpha: float) -> tuple:
    return type(strategy), sorted(strategy.get_params().items()), alpha


def _apply_live_params(estimator, net: ConstrainedNet) -> None:
    """Hand over what changed; a schedule may have moved the rest since."""
    if net.optimizer is not estimator.optimizer:
        net.renew_optimizer(estimator.optimizer)
    wanted = {name: getattr(estimator, name) for name in LIVE}
    for name, value in net_params_for(estimator, "optimizer").items():
        wanted[f"optimizer__{name}"] = value
    # skorch would write it into each group of the optimizer that exists already.
    wanted.pop("optimizer__param_groups", None)
    have = vars(net)
    changed = {k: v for k, v in wanted.items() if k not in have or have[k] != v}
    net.set_params(**changed)
