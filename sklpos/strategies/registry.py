"""Strategies by name; a new strategy is registered here."""

from __future__ import annotations

from sklpos.nets.hints import did_you_mean, shown
from sklpos.nets.warnings import warn_user
from sklpos.strategies.architecture import Activation, NonnegativeWeights
from sklpos.strategies.base import ConstraintStrategy
from sklpos.strategies.certified import Certified
from sklpos.strategies.lagrangian import AugmentedLagrangian, Lagrangian
from sklpos.strategies.penalties import ExactPenalty, QuadraticPenalty, Unconstrained
from sklpos.strategies.slack import SlackMultipliers

#: Name in ``PositiveOutputRegressor(strategy=...)`` -> class.
STRATEGIES: dict[str, type[ConstraintStrategy]] = {
    "unconstrained": Unconstrained,
    "penalty": QuadraticPenalty,
    "exact_penalty": ExactPenalty,
    "slack": SlackMultipliers,
    "lagrangian": Lagrangian,
    "augmented_lagrangian": AugmentedLagrangian,
    "certified": Certified,
    "nonnegative_weights": NonnegativeWeights,
    "activation": Activation,
}


def make_strategy(
    strategy: str | ConstraintStrategy, alpha: float
) -> ConstraintStrategy:
    """Make a new strategy from a name or an instance.

    Parameters
    ----------
    strategy : str or ConstraintStrategy
        A name in `STRATEGIES`, or an instance, which is copied.
    alpha : float
        Weight of the penalty term that the strategy will be set up with.

    Returns
    -------
    ConstraintStrategy
        Without state.

    Raises
    ------
    ValueError
        If the name or the value of a parameter is not valid, or if alpha is 0 and
        would switch the strategy off.

    Warns
    -----
    UserWarning
        If alpha is not 1, its default, but the strategy does not use it.

    Examples
    --------
    >>> make_strategy("lagrangian", alpha=1.0)
    Lagrangian()
    """
    if isinstance(strategy, str) and strategy in STRATEGIES:
        made = STRATEGIES[strategy]()
    elif isinstance(strategy, ConstraintStrategy):
        # A copy without state, since one instance may be passed to several fits.
        made = strategy.unfitted()
    elif isinstance(strategy, type) and issubclass(strategy, ConstraintStrategy):
        name = strategy.__name__
        raise ValueError(
            f"strategy={name} is a class; pass an instance of it, such as {name}(), or "
            "the name of a ConstraintStrategy."
        )
    else:
        listed = (
            f"; choose one of {', '.join(sorted(STRATEGIES))}, or pass an instance of "
            "ConstraintStrategy."
        )
        raise ValueError(
            f"strategy={shown(strategy)} is unknown"
            f"{did_you_mean(strategy, STRATEGIES) or listed}"
        )
    made.check_params()
    if made.needs_alpha and alpha == 0:
        raise ValueError(
            f"alpha=0 would switch strategy={strategy!r} off; pass alpha > 0, or "
            "strategy='unconstrained'."
        )
    if alpha != 1 and not made.uses_alpha:
        warn_user(
            f"alpha={alpha} has no effect, because strategy={strategy!r} does not use "
            "it; leave alpha out, or pass a strategy that has a penalty term."
        )
    return made
