"""Repair: the nearest head that obeys the bound, on rows or on a domain."""

from sklpos.repair.head import RepairedHead, repair_head
from sklpos.repair.nearest import HeadObjective, HeadRepair, nearest_feasible_head
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
