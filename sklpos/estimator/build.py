"""From an estimator's parameters to its private net."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from sklpos.estimator.callbacks import check_callback_params
from sklpos.estimator.checks import TrainingData
from sklpos.estimator.criterion import (
    check_validation_targets,
    choose_unit,
    read_criterion,
)
from sklpos.estimator.fit import Fit
from sklpos.estimator.module import head_of, new_module, start_module
from sklpos.estimator.net_params import (
    check_built_in_params,
    net_callbacks,
    open_params,
)
from sklpos.estimator.parameters import LIVE, net_params_for
from sklpos.estimator.split import Population, rows_key, split_rows
from sklpos.estimator.targets import warn_of_crossing
from sklpos.estimator.warm_start import apply_live_params, constraint_changed
from sklpos.nets.arrays import check_range
from sklpos.nets.misfit import check_row
from sklpos.nets.placement import check_device, check_dtype
from sklpos.nets.precision import full_precision
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
from sklpos.training.criterion_traits import aims_at_mean
from sklpos.training.members import rows_for_members
from sklpos.training.net import ConstrainedNet
from sklpos.training.randomness import draw_seed, draws_random_numbers
from sklpos.training.rows import TrainingRows
from sklpos.training.stacked import find_passes
from sklpos.training.storage import fork
from sklpos.training.unit import change_unit


@full_precision()
def start_net(
    estimator, data: TrainingData, earlier: Fit | None, *, stream: bool = False
) -> tuple[ConstrainedNet, TrainingRows]:
    """Build a net, or fork that of an earlier fit.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    data : TrainingData
    earlier : Fit or None
    stream : bool, default=False
        Whether the data are a chunk of a stream, and not all that count from now on.

    Returns
    -------
    net : ConstrainedNet
    rows : TrainingRows
    """
    if earlier is None:
        net, rows = new_net(estimator, data, draw_seed(estimator.random_state))
        check_repeatable(net, estimator.random_state)
    else:
        check_built_in_params(estimator, earlier.built_in)
        same_rows = rows_key(estimator, data) == earlier.key
        how = {"same_rows": same_rows, "stream": stream}
        net, rows = fork_net(estimator, earlier.net, data, **how)
    if estimator.callbacks:
        rows = rows.with_own_weights()
    return net, rows.to(net.device)


def new_net(
    estimator, data: TrainingData, seed: int, population: Population | None = None
) -> tuple[ConstrainedNet, TrainingRows]:
    """Build an initialised net for an estimator and its data.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    data : TrainingData
    seed : int
    population : Population, optional
        The rows of all processes, which give the scaling and those that are held out;
        by default those of the data.

    Returns
    -------
    net : ConstrainedNet
    rows : TrainingRows
    """
    device = check_device(estimator.device)
    dtype = check_dtype(estimator.dtype, data.X, device)
    strategy = make_strategy(estimator.strategy, estimator.alpha)
    warn_of_crossing(data.bounds, strategy)
    example = torch.as_tensor(data.X[:1], dtype=dtype)
    module = new_module(estimator, data, example, seed)
    head = head_of(module, example, data.y.shape[1], strategy)
    criterion = read_criterion(estimator, data.y.shape[1])
    everyone = population or Population.of(data)
    targets = TargetScale.from_data(
        everyone.y,
        everyone.weight,
        data.bounds,
        # A head without a bias cannot carry a shift.
        shifted=head is None or module.get_submodule(head).bias is not None,
        unit=choose_unit(estimator, criterion, everyone.y, data.bounds, strategy),
        robust=not aims_at_mean(criterion),
    )
    targets.check_target_magnitude(everyone.y, dtype)
    targets.check_bound_magnitude(dtype)
    check_validation_targets(criterion, data.valid)
    module = start_module(estimator, module, head, targets, strategy, example)
    # All rows give the scaling, those held out too: one unit for both losses.
    rows = split_rows(estimator, data, targets, dtype, seed, everyone)
    rows = rows_for_members(rows, module, seed)
    _check_shapes(module, rows)
    constraint, domain = make_constraints(strategy, rows, targets, estimator.alpha)
    net = ConstrainedNet(
        module,
        constraint=constraint,
        domain_constraint=domain,
        alpha=estimator.alpha,
        targets=targets,
        head=head,
        seed=seed,
        # Modules with passes of their own draw none, which saves a test run of a copy.
        stochastic=not find_passes(module) and draws_random_numbers(module, example),
        autocast="bfloat16" if estimator.dtype == "bfloat16-mixed" else None,
        device=str(device),
        # The rows are split already, with the constraint on the training rows alone.
        train_split=None,
        criterion=estimator.criterion,
        optimizer=estimator.optimizer,
        callbacks=net_callbacks(estimator, module, criterion),
        **{name: getattr(estimator, name) for name in LIVE},
        **open_params(estimator, module, criterion),
    )
    # Only a net knows the names of all its callbacks, those of skorch included.
    check_callback_params(net_params_for(estimator, "callbacks"), net.named_callbacks)
    net.initialize()
    check_single(net.callbacks_)
    return net, rows


def fork_net(
    estimator, net: ConstrainedNet, data: TrainingData, *, same_rows: bool, stream: bool
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
    stream : bool
        See `start_net`.

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
    changed = constraint_changed(estimator, net, strategy, data)
    targets = replace(net.targets, bounds=data.bounds)
    # The rows of the last call change nothing.
    if not same_rows:
        targets = targets.following(
            data.y,
            data.weight,
            anew=not stream,
            tolerance=net.strategy_.unit_tolerance,
        )
    dtype = next(net.module_.parameters()).dtype
    check_range(data.X, dtype)
    targets.check_bound_magnitude(dtype)
    rows = split_rows(estimator, data, targets, dtype, net.seed)
    rows = rows_for_members(rows, net.plain_module_, net.seed)
    _check_shapes(net.plain_module_, rows)
    # Only after all checks, so that refused input costs no copy.
    renewed = changed or not same_rows
    moved = not targets.equals(net.targets)
    net = fork(net, constraints=not renewed)
    gain = change_unit(net, targets, rows.train).gain if moved else 1.0
    net.targets = targets
    if renewed:
        made = (net.constraint_.for_rows(rows.train.y, alpha=estimator.alpha), None)
        if changed or moved or net.domain_constraint_ is not None:
            made = make_constraints(strategy, rows, targets, estimator.alpha)
        net.renew_constraints(*made, alpha=estimator.alpha, gain=gain)
    apply_live_params(estimator, net)
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


def _check_shapes(module: nn.Module, rows: TrainingRows) -> None:
    """Refuse images or sequences of another shape that the module does not take."""
    for part in (rows.train, rows.valid):
        if part is not None and len(part) and part.X.ndim > 2:
            check_row(module, part.X)
