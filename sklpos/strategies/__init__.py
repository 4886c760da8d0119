"""Constraint strategies, and a strategy as a term of any training loop."""

from sklpos.strategies.architecture import (
    Activation,
    Architecture,
    NonnegativeWeights,
)
from sklpos.strategies.base import ConstraintStrategy, StrategyState
from sklpos.strategies.certified import Certified, IntervalBounds
from sklpos.strategies.constraint import OutputConstraint
from sklpos.strategies.domain import DomainConstraint
from sklpos.strategies.domain_term import DomainTerm
from sklpos.strategies.lagrangian import AugmentedLagrangian, Lagrangian
from sklpos.strategies.penalties import ExactPenalty, QuadraticPenalty, Unconstrained
from sklpos.strategies.record import ConstraintSummary
from sklpos.strategies.registry import STRATEGIES, make_strategy
from sklpos.strategies.slack import SlackMultipliers

__all__ = [
    "STRATEGIES",
    "Activation",
    "Architecture",
    "AugmentedLagrangian",
    "Certified",
    "ConstraintStrategy",
    "ConstraintSummary",
    "DomainConstraint",
    "DomainTerm",
    "ExactPenalty",
    "IntervalBounds",
    "Lagrangian",
    "NonnegativeWeights",
    "OutputConstraint",
    "QuadraticPenalty",
    "SlackMultipliers",
    "StrategyState",
    "Unconstrained",
    "make_strategy",
]
