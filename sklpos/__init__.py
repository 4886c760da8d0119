"""Neural-network regression whose weights are guided to positive outputs."""

from sklpos.certificates import certify
from sklpos.modules import MLP
from sklpos.regressor import PositiveOutputRegressor
from sklpos.reporting import report
from sklpos.strategies import STRATEGIES, ConstraintStrategy
from sklpos.version import __version__

__all__ = [
    "MLP",
    "STRATEGIES",
    "ConstraintStrategy",
    "PositiveOutputRegressor",
    "__version__",
    "certify",
    "report",
]
