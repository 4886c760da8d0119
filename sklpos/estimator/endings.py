"""The ending of a fit, and the three repairs that lead from one to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklpos.certificates.bounds.overflow import largest_input_of
from sklpos.certificates.certificate import Certificate
from sklpos.certificates.domains.shapes import Domain
from sklpos.certificates.subject import Subject
from sklpos.nets.arrays import check_range
from sklpos.nets.bounded import BoundedModel
from sklpos.nets.lazy import lazy
from sklpos.repair.head import repair_on_rows
from sklpos.repair.objective import HeadObjective
from sklpos.repair.provable import repair_on_domain
from sklpos.repair.shift import Risk, shift_bias
from sklpos.repair.summary import (
    Repair,
    summarise,
    summarise_change,
    warn_of_limits,
    warn_of_lost_balance,
)
from sklpos.strategies import ConstraintStrategy


@dataclass(frozen=True, eq=False)
class Ending:
    """A model after training: its head, what holds for it, and why.

    Attributes
    ----------
    model : BoundedModel
    repair : Repair or None
        None if nothing was repaired.
    certificate : Certificate or None
        Of the last repair on a domain.
    objective : HeadObjective or None
        What later repairs need to know of the training rows.
    kept : ndarray of shape (n_kept, d1) or None
        Features of rows on which later repairs must hold the bounds as well.
    subject : Subject
        The model as it was made; by default, as it is now.
    """

    model: BoundedModel
    repair: Repair | None = None
    certificate: Certificate | None = None
    objective: HeadObjective | None = None
    kept: NDArray | None = None
    # None stands for a model that was just made; `replace` keeps the one of another.
    subject: Subject | None = None

    def __post_init__(self):
        if self.subject is None:
            object.__setattr__(self, "subject", Subject(self.model))

    @lazy
    def largest_input(self) -> float:
        """Largest size of a feature for which no sum of the model can overflow.

        Infinite if a layer is not understood.
        """
        return largest_input_of(self.model.module)

    def check_size(self, X: NDArray) -> None:
        """Raise ValueError if rows are so large that sums of the model may overflow.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)

        Raises
        ------
        ValueError
            The message names the first of them.
        """
        dtype = next(self.model.module.parameters()).dtype
        check_range(X, dtype, self.largest_input)


@dataclass(frozen=True)
class RepairPlan:
    """How the head of a model is to be finished.

    Attributes
    ----------
    strategy : ConstraintStrategy
        The strategy that the model was trained with.
    repair : bool
        Whether the head is repaired at all after training.
    balance : bool
        Whether the mean prediction is kept at the mean target.
    """

    strategy: ConstraintStrategy
    repair: bool = True
    balance: bool = True

    @property
    def scales(self) -> bool:
        """Whether one factor on the head keeps the mean, instead of a repair."""
        return self.balance and self.strategy.keeps_signs


def hold_on_rows(
    trained: Ending,
    X: NDArray,
    plan: RepairPlan,
    *,
    numbers: NDArray | EllipsisType = ...,
    n_samples: int | None = None,
    weights: NDArray | None = None,
    features: Callable[[], Iterable[NDArray]] | None = None,
    promise: str = "the training rows, by the repair",
) -> Ending:
    """Take the nearest head that obeys the bounds on rows.

    Parameters
    ----------
    trained : Ending
        The model as trained, with the objective and the kept rows.
    X : ndarray of shape (n_rows, n_features)
    plan : RepairPlan
    numbers : ndarray of shape (n_rows,), optional
        Index that finds these rows among all samples; by default, they are all.
    n_samples : int, optional
        Number of all samples.
    weights : ndarray of shape (n_rows,), optional
    features : callable, optional
        Features of the rows, see `feature_source`.
    promise : str
        The inputs for which the bounds then hold, in words.

    Returns
    -------
    Ending
    """
    found = repair_on_rows(
        trained.model,
        X,
        trained.objective,
        features=features,
        balance=plan.balance,
        weights=weights,
        kept=trained.kept,
    )
    # Without training rows nobody expects a balance.
    warn_of_limits(found.head, balance=plan.balance and trained.objective is not None)
    n_samples = len(X) if n_samples is None else n_samples
    return replace(
        trained,
        model=replace(trained.model, module=found.module),
        repair=summarise(found.head, found.margin, numbers, n_samples, promise),
        # A certificate is true of one head only.
        certificate=None,
        kept=found.head.kept,
        subject=None,
    )


def hold_on_domain(
    start: Ending,
    domain: Domain,
    plan: RepairPlan,
    *,
    n_samples: int,
    data: BoundedModel | None = None,
    adjust: str = "head",
    **how: Any,
) -> Ending:
    """Take the nearest head that provably obeys the bounds on a domain.

    Parameters
    ----------
    start : Ending
        The model to start from, with the objective and the kept rows.
    domain : Domain
    plan : RepairPlan
    n_samples : int
        Number of rows that the summary has multipliers for, all 0.
    data : BoundedModel, optional
        A model whose steps come between the domain and the module.
    adjust : {"head", "bias"}, default="head"
    **how : object
        Further parameters of `repair_on_domain`.

    Returns
    -------
    Ending

    Raises
    ------
    UnprovableError
        If no head is proved.
    """
    module, found = repair_on_domain(
        start.model.behind(data),
        domain,
        start.objective,
        kept=start.kept,
        balance=plan.balance,
        adjust=adjust,
        **how,
    )
    # A shift of the bias always gives up the mean, and says so.
    if plan.balance and start.objective is not None and adjust != "bias":
        warn_of_lost_balance(found.balanced)
    return replace(
        start,
        model=replace(start.model, module=module),
        repair=summarise_change(
            found.cost,
            found.balanced,
            found.margin,
            n_samples,
            found.n_counterexamples,
            f"any input of {found.certificate.domain_!r}, proved",
        ),
        certificate=found.certificate,
        subject=None,
    )


def shift_on_rows(
    now: Ending, X: NDArray, risk: Risk | None, *, promise: str
) -> Ending:
    """Raise the bias as little as possible.

    Parameters
    ----------
    now : Ending
    X : ndarray of shape (n_samples, n_features)
        Rows to protect, or a holdout.
    risk : Risk or None
    promise : str
        Used without a risk.

    Returns
    -------
    Ending
    """
    module, shift = shift_bias(now.model, X, risk)
    # A shift moves the mean, so only an output that stays can still be balanced.
    balanced = np.zeros_like(shift, dtype=bool)
    if now.repair is not None:
        balanced = now.repair.balanced_ & (shift == 0)
    if risk is not None:
        share = f"{risk.level:.3g} of a population"
        promise = f"all but {share}, with confidence {risk.confidence:.3g}"
    return replace(
        now,
        model=replace(now.model, module=module),
        # Every prediction moves by the shift, which leaves no margin.
        repair=summarise_change(shift**2, balanced, 0 * shift, len(X), 0, promise),
        certificate=None,
        subject=None,
    )
