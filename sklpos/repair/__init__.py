"""Repair: the nearest head that obeys the bounds, on rows or on a domain."""

from sklpos.repair.head import RepairedHead, repair_head
from sklpos.repair.nearest import HeadRepair, nearest_feasible_head
from sklpos.repair.objective import HeadObjective
from sklpos.repair.robust import nearest_robust_head
from sklpos.repair.summary import Repair

__all__ = [
    "HeadObjective",
    "HeadRepair",
    "Repair",
    "RepairedHead",
    "nearest_feasible_head",
    "nearest_robust_head",
    "repair_head",
]
