"""The package's skorch callbacks, under one address."""

from sklpos.training.callbacks import ConstraintHistory, MultiplierAscent
from sklpos.training.print_log import QuietPrintLog

__all__ = ["ConstraintHistory", "MultiplierAscent", "QuietPrintLog"]
