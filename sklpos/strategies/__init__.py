"""Constraint strategies and their registry."""

from __future__ import annotations

from sklpos.strategies.architecture import Activation, NonnegativeWeights
from sklpos.strategies.base import ConstraintStrategy, StrategyState
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

__all__ = [
    "STRATEGIES",
    "Activation",
    "AugmentedLagrangian",
    "Certified",
    "ConstraintStrategy",
    "ExactPenalty",
    "Lagrangian",
    "NonnegativeWeights",
    "QuadraticPenalty",
    "SlackMultipliers",
    "StrategyState",
    "Unconstrained",
]
