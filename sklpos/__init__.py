"""Neural-network regression whose outputs are positive, or stay in a range."""

from importlib import import_module
from typing import TYPE_CHECKING

from sklpos.version import __version__

if TYPE_CHECKING:
    from sklpos.certificates import (
        certified_radius,
        certify,
        certify_risk,
        output_bounds,
    )
    from sklpos.estimator.enforcing import enforce
    from sklpos.estimator.regressor import PositiveOutputRegressor
    from sklpos.estimator.report import report
    from sklpos.nets.modules import MLP
    from sklpos.nets.stack import Stack
    from sklpos.strategies import STRATEGIES, ConstraintStrategy
    from sklpos.training.checkpoint import TrainingCheckpoint

__all__ = [
    "MLP",
    "STRATEGIES",
    "ConstraintStrategy",
    "PositiveOutputRegressor",
    "Stack",
    "TrainingCheckpoint",
    "__version__",
    "certified_radius",
    "certify",
    "certify_risk",
    "enforce",
    "output_bounds",
    "report",
]

# Imported when first asked for: a training loop of one's own needs the torch core
# alone, and importing scikit-learn and skorch takes longer than a small fit.
_HOMES = {
    "MLP": "sklpos.nets.modules",
    "STRATEGIES": "sklpos.strategies",
    "ConstraintStrategy": "sklpos.strategies",
    "PositiveOutputRegressor": "sklpos.estimator.regressor",
    "Stack": "sklpos.nets.stack",
    "TrainingCheckpoint": "sklpos.training.checkpoint",
    "certified_radius": "sklpos.certificates",
    "certify": "sklpos.certificates",
    "certify_risk": "sklpos.certificates",
    "enforce": "sklpos.estimator.enforcing",
    "output_bounds": "sklpos.certificates",
    "report": "sklpos.estimator.report",
}
_SUBMODULES = (
    "callbacks",
    "certificates",
    "criteria",
    "decay",
    "distributed",
    "export",
    "metrics",
    "plotting",
    "repair",
    "search",
    "strategies",
)


def __dir__() -> list[str]:
    return [*__all__, *_SUBMODULES]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _SUBMODULES:
        return import_module(f"sklpos.{name}")
    raise AttributeError(f"module 'sklpos' has no attribute {name!r}")
