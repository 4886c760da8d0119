"""Endings of a fit, and what `enforce` adds: for rows, a domain or a population."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from sklpos.certificates.certify import certify
from sklpos.certificates.domains.named import make_domain
from sklpos.certificates.domains.shapes import Domain
from sklpos.estimator.checks import TrainingData
from sklpos.estimator.endings import (
    Ending,
    RepairPlan,
    hold_on_domain,
    hold_on_rows,
    shift_on_rows,
)
from sklpos.nets.arrays import mean_over_rows
from sklpos.nets.bounded import BoundedModel
from sklpos.nets.rows import feature_source
from sklpos.nets.warnings import warn_user
from sklpos.repair.factor import scale_to_mean
from sklpos.repair.head import objective_of_rows
from sklpos.repair.provable import UnprovableError
from sklpos.repair.shift import Risk

ADJUSTED = ("head", "bias")


@dataclass(frozen=True, eq=False)
class Request:
    """The request of a call of `enforce`.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features) or None
        Rows to protect, or a holdout.
    domain : Domain or None
        Inputs to protect.
    adjust : {"head", "bias"}
    risk : Risk or None
        With "bias": the share of a population that may be out of bounds.
    time_limit : float
        Seconds for the repair on a domain.
    data : BoundedModel or None
        A model whose steps come between the domain and the module; rows are already
        behind them.
    """

    X: NDArray | None = None
    domain: Domain | None = None
    adjust: str = "head"
    risk: Risk | None = None
    time_limit: float = 10.0
    data: BoundedModel | None = None


def finish_head(model: BoundedModel, data: TrainingData, plan: RepairPlan) -> Ending:
    """End a fit as the guarantee of its strategy asks for.

    Parameters
    ----------
    model : BoundedModel
        As trained; not changed.
    data : TrainingData
    plan : RepairPlan

    Returns
    -------
    Ending
    """
    return _ENDINGS[plan.strategy.guarantee](model, data, plan)


def enforce_bound(
    trained: BoundedModel, now: Ending, plan: RepairPlan, request: Request
) -> Ending:
    """Repair a model further, on request.

    Parameters
    ----------
    trained : BoundedModel
        The model as trained, from which ``adjust="head"`` starts.
    now : Ending
        The result of earlier repairs, from which ``adjust="bias"`` starts.
    plan : RepairPlan
    request : Request

    Returns
    -------
    Ending

    Raises
    ------
    ValueError
        If no head does.
    """
    return _REPAIRS[plan.strategy.guarantee](trained, now, plan, request)


def _certify_alone(
    trained: BoundedModel, now: Ending, plan: RepairPlan, request: Request
) -> Ending:
    """Leave a model alone that obeys its bounds by construction."""
    if request.domain is None:
        return now
    model = now.model.behind(request.data)
    found = certify(model, request.domain, time_limit=request.time_limit)
    return replace(now, certificate=found)


def _repair_further(
    trained: BoundedModel, now: Ending, plan: RepairPlan, request: Request
) -> Ending:
    if request.domain is not None:
        return _enforce_on_domain(trained, now, plan, request)
    promise = f"the {len(request.X):,} rows that enforce was given last"
    if request.adjust == "bias":
        return shift_on_rows(now, request.X, request.risk, promise=promise)
    # From the head as trained: repairs of repairs would drift away from it.
    return hold_on_rows(replace(now, model=trained), request.X, plan, promise=promise)


def _keep_head(model: BoundedModel, data: TrainingData, plan: RepairPlan) -> Ending:
    """End a fit whose model obeys its bounds by construction."""
    if plan.scales:
        average = partial(mean_over_rows, weight=data.weight)
        model = scale_to_mean(model, data.X, data.y, average)
    return Ending(model)


def _finish_on_rows(
    model: BoundedModel, data: TrainingData, plan: RepairPlan
) -> Ending:
    features = feature_source(model.module, model.head, data.X)
    trained = Ending(model, objective=objective_of_rows(model, features, data))
    if not plan.repair:
        return trained
    return hold_on_rows(
        trained,
        data.X,
        plan,
        numbers=data.kept,
        n_samples=data.n_samples,
        weights=data.weight,
        features=features,
    )


def _finish_on_domain(
    model: BoundedModel, data: TrainingData, plan: RepairPlan
) -> Ending:
    """Repair the head on the domain of the strategy, and certify it."""
    own = plan.strategy
    domain = make_domain(model, own.domain, X=data.X, margin=own.margin)
    ending = _finish_on_rows(model, data, replace(plan, repair=False))
    if plan.repair:
        # By intervals alone: a time limit would make fits differ from run to run.
        try:
            return hold_on_domain(
                ending, domain, plan, n_samples=data.n_samples, exchange=False
            )
        except UnprovableError as error:
            warn_user(str(error), ConvergenceWarning)
            ending = _finish_on_rows(model, data, plan)
    # A complete method could take longer than the training; `certify` offers it.
    return _certified(ending, domain, method="crown")


#: How a fit ends, by the guarantee that its strategy declares.
_ENDINGS = {
    "none": _finish_on_rows,
    "training": _finish_on_rows,
    "domain": _finish_on_domain,
    "everywhere": _keep_head,
}


#: What `enforce` does, by the same guarantee.
_REPAIRS = {
    "none": _repair_further,
    "training": _repair_further,
    "domain": _repair_further,
    "everywhere": _certify_alone,
}


def _certified(ending: Ending, domain: Domain, **how) -> Ending:
    return replace(ending, certificate=certify(ending.model, domain, **how))


def _enforce_on_domain(
    trained: BoundedModel, now: Ending, plan: RepairPlan, request: Request
) -> Ending:
    start = now if request.adjust == "bias" else replace(now, model=trained)
    return hold_on_domain(
        start,
        request.domain,
        plan,
        X=request.X,
        n_samples=0 if request.X is None else len(request.X),
        data=request.data,
        adjust=request.adjust,
        time_limit=request.time_limit,
    )
