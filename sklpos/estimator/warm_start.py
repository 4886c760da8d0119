"""What a net takes over from changed parameters when its training goes on."""

from __future__ import annotations

import numpy as np

from sklpos.estimator.checks import TrainingData
from sklpos.estimator.net_params import is_same
from sklpos.estimator.parameters import LIVE, net_params_for
from sklpos.strategies.architecture import Architecture
from sklpos.strategies.base import ConstraintStrategy
from sklpos.training.net import ConstrainedNet


def constraint_changed(estimator, net, strategy, data: TrainingData) -> bool:
    """Whether a new constraint is needed; refuse one that is part of the module.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    net : ConstrainedNet
    strategy : ConstraintStrategy
        The one that is asked for now.
    data : TrainingData

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        If it changed and is part of the module.
    """
    before = _signature(net.strategy_, net.alpha)
    own, known = data.bounds, net.targets.bounds
    moved = not np.array_equal(own.sides, known.sides)
    moved = moved or own.n_ordered != known.n_ordered
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


def apply_live_params(estimator, net: ConstrainedNet) -> None:
    """Hand over what changed; a schedule may have moved the rest since.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    net : ConstrainedNet
    """
    if net.optimizer is not estimator.optimizer:
        net.renew_optimizer(estimator.optimizer)
    wanted = {name: getattr(estimator, name) for name in LIVE}
    for name, value in net_params_for(estimator, "optimizer").items():
        wanted[f"optimizer__{name}"] = value
    # skorch would write it into each group of the optimizer that exists already.
    wanted.pop("optimizer__param_groups", None)
    have = vars(net)
    changed = {
        k: v for k, v in wanted.items() if k not in have or not is_same(have[k], v)
    }
    net.set_params(**changed)
