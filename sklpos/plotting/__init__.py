"""Plots of a fit and of a search, in the style of scikit-learn's displays."""

from sklpos.plotting.comparison import StrategyComparisonDisplay
from sklpos.plotting.history import ConstraintHistoryDisplay
from sklpos.plotting.positivity import PositivityDisplay

__all__ = [
    "ConstraintHistoryDisplay",
    "PositivityDisplay",
    "StrategyComparisonDisplay",
]
