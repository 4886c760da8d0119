"""The result of a fit, in one object, and how it is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from sklpos.estimator.checks import TrainingData
from sklpos.estimator.costs import summary_after, warn_of_balance, warn_of_cost
from sklpos.estimator.endings import Ending, RepairPlan
from sklpos.estimator.net_params import built_in_params
from sklpos.estimator.other_rows import quantiles_of
from sklpos.estimator.repairs import Request, enforce_bound, finish_head
from sklpos.estimator.row_summary import RowSummary, summarise_pair
from sklpos.nets.bounded import BoundedModel, data_range, rows_of_extremes
from sklpos.nets.rows import predict_rows
from sklpos.nets.warnings import warn_user
from sklpos.training.kkt import KKTResiduals, evaluate_training_state
from sklpos.training.members import mixed_by_members, weigh_members
from sklpos.training.net import ConstrainedNet
from sklpos.training.product import make_product
from sklpos.training.rows import TrainingRows

# Loss in variances of y; a constant has about 1.
_DIVERGED = 10.0


@dataclass(frozen=True, eq=False)
class Fit:
    """All that a fitted estimator holds: replaced as a whole, never changed.

    Attributes
    ----------
    net : ConstrainedNet
        The training state, in scaled units, never repaired.
    ending : Ending
        The product in the unit of y, its repair and what is proved.
    y_ndim : int
        1 if y came as a vector.
    n_iter : int
        Epochs of the last call.
    multipliers : ndarray of shape (n_samples, n_outputs)
        Unit of y.
    key : str
        Hash of the training data.
    built_in : dict
        Parameters that are part of the net.
    loss : float
        Weighted mean loss on the training rows, in scaled units.
    kkt : KKTResiduals or None
    training : pair of RowSummary, or None
        Of the training rows, as trained and repaired.
    quantiles : ndarray of shape (n_kept, n_features) or None
        Of the training rows, see `quantiles_of`; None after `partial_fit`.
    """

    net: ConstrainedNet
    ending: Ending
    y_ndim: int
    n_iter: int
    multipliers: NDArray
    key: str
    built_in: dict[str, Any]
    loss: float
    kkt: KKTResiduals | None = None
    training: tuple[RowSummary, RowSummary | None] | None = None
    quantiles: NDArray | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # Everything is loaded onto the CPU; the net then moves itself to its device.
        self.ending.model.module.to(self.net.device)

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return len(self.net.targets.scale)

    @property
    def loss_curve(self) -> list[float]:
        """Training loss of each epoch."""
        rows = self.net.history
        return [float(row["train_loss"]) for row in rows if "train_loss" in row]

    @property
    def as_trained(self) -> BoundedModel:
        """The product before any repair, with its own module."""
        known = self.ending.model
        model = trained_model(self.net, known.input_range)
        return replace(model, extreme_rows=known.extreme_rows)


def trained_model(net: ConstrainedNet, input_range: NDArray) -> BoundedModel:
    """Read a net as it was trained, in the unit of y.

    Parameters
    ----------
    net : ConstrainedNet
    input_range : ndarray of shape (2, n_features)

    Returns
    -------
    BoundedModel
    """
    module, head = make_product(net)
    return BoundedModel(
        module,
        head=head,
        bounds=net.targets.bounds,
        scale=net.targets.scale,
        input_range=input_range,
    )


def evaluate(
    estimator,
    net: ConstrainedNet,
    rows: TrainingRows,
    data: TrainingData,
    n_iter: int,
    earlier: Fit | None = None,
) -> Fit:
    """Collect what is known when training is over, before any repair.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    net : ConstrainedNet
        Trained.
    rows : TrainingRows
    data : TrainingData
    n_iter : int
        Epochs run.
    earlier : Fit, optional
        The fit that this one continues; the range of its data is included.

    Returns
    -------
    Fit
        Without a repair.
    """
    multiplier, loss, kkt = evaluate_training_state(net, rows.train)
    weigh_members(net, rows.train)
    multiplier = mixed_by_members(net, multiplier)
    # Rows of weight 0 and rows held out have no constraint, hence multiplier 0.
    multipliers = np.zeros((data.n_samples, data.y.shape[1]))
    multipliers[rows.index] = multiplier * net.targets.scale
    known = None if earlier is None else earlier.ending.model.input_range
    return Fit(
        net=net,
        ending=Ending(trained_model(net, data_range(data.X, known))),
        y_ndim=data.y_ndim,
        n_iter=n_iter,
        multipliers=multipliers,
        key=data.key,
        built_in=built_in_params(estimator),
        loss=loss,
        kkt=kkt,
    )


def finish(estimator, fit: Fit, data: TrainingData) -> Fit:
    """End a fit: repair the head as the strategy asks for, and summarise the rows.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    fit : Fit
        Without a repair.
    data : TrainingData

    Returns
    -------
    Fit

    Raises
    ------
    ValueError
        If rows are so large that sums of the net may overflow.
    """
    warn_of_divergence(fit.loss, estimator.lr)
    trained = fit.ending.model
    ending = finish_head(trained, data, repair_plan(estimator, fit.net))
    # `predict` would refuse such rows, so a fit must.
    ending.check_size(data.X)
    now = predict_rows(ending.model.module, data.X)
    extreme = rows_of_extremes(now, data.X)
    ending = replace(ending, model=replace(ending.model, extreme_rows=extreme))
    pair = now, None
    if ending.repair is not None:
        pair = predict_rows(trained.module, data.X), now
    training = summarise_pair(pair, data.bounds, data.y, data.weight)
    if ending.repair is not None and ending.certificate is None:
        warn_of_balance(ending, *training)
    return replace(
        fit, ending=ending, training=training, quantiles=quantiles_of(data.X)
    )


def enforce(estimator, fit: Fit, request: Request) -> Fit:
    """Repair a fitted model further.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    fit : Fit
    request : Request

    Returns
    -------
    Fit

    Raises
    ------
    ValueError
        If no head does.
    """
    plan = repair_plan(estimator, fit.net)
    ending = enforce_bound(fit.as_trained, fit.ending, plan, request)
    training = fit.training
    if training is not None and ending.repair is not None:
        training = training[0], summary_after(ending, training[0])
        warn_of_cost(ending, *training)
    return replace(fit, ending=ending, training=training)


def repair_plan(estimator, net: ConstrainedNet) -> RepairPlan:
    """How an estimator wants its head finished.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    net : ConstrainedNet
        Trained.

    Returns
    -------
    RepairPlan
    """
    return RepairPlan(
        net.strategy_,
        repair=estimator.repair is not None,
        balance=estimator.balance,
    )


def preview(data: TrainingData, net: ConstrainedNet) -> dict[str, Any]:
    """Attributes of an estimator as if its fit ended now, without a repair.

    The members of a `Stack` are weighed, and its mean is made exact, at the end of a
    fit only. Until then, the kinds of members count the same, or as they did at the
    end of the fit that a warm start continues.

    Parameters
    ----------
    data : TrainingData
    net : ConstrainedNet
        In the middle of its training.

    Returns
    -------
    dict
    """
    fit = Fit(
        net=net,
        ending=Ending(trained_model(net, data_range(data.X))),
        y_ndim=data.y_ndim,
        n_iter=len(net.history),
        multipliers=np.zeros((data.n_samples, data.y.shape[1])),
        key=data.key,
        built_in={},
        loss=np.nan,
    )
    return {**data.seen, "fitted_": fit}


def warn_of_divergence(loss: float, lr: float) -> None:
    """Warn if the loss ends far above that of a constant prediction.

    Parameters
    ----------
    loss : float
        Weighted mean, in scaled units.
    lr : float
    """
    if loss > _DIVERGED:
        warn_user(
            f"training diverged, or was too short: the loss ends at {loss:.3g} "
            f"times the variance of y; lower lr (now {lr}), raise max_epochs or "
            "standardise X.",
            ConvergenceWarning,
        )
