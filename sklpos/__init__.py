"""Neural-network regression whose weights are guided to positive outputs."""

from importlib import import_module

from sklpos.certificates import certify
from sklpos.checkpoints import TrainingCheckpoint
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
    "TrainingCheckpoint",
    "__version__",
    "certify",
    "report",
]

_SUBMODULES = (
    "callbacks",
    "certificates",
    "decay",
    "distributed",
    "export",
    "metrics",
    "plotting",
    "repair",
    "strategies",
)


def __dir__() -> list[str]:
    return [*__all__, *_SUBMODULES]


def __getattr__(name: str):
    """Import a public submodule when it is first asked for, as scikit-learn does."""
    if name in _SUBMODULES:
        return import_module(f"sklpos.{name}")
    raise AttributeError(f"module 'sklpos' has no attribute {name!r}")
