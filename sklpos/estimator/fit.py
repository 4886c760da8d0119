"""The result of a fit, in one object, and how it is made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklpos.estimator.checks import TrainingData
from sklpos.estimator.costs import summary_after, warn_of_balance, warn_of_cost
from sklpos.estimator.criterion import keeps_mean, reference_losses, warn_of_divergence
from sklpos.estimator.endings import Ending, RepairPlan
from sklpos.estimator.net_params import built_in_params
from sklpos.estimator.new_inputs import check_predictions
from sklpos.estimator.other_rows import quantiles_of, range_at_start
from sklpos.estimator.repairs import Request, enforce_bound, finish_head
from sklpos.estimator.row_summary import RowSummary
from sklpos.estimator.split import rows_key
from sklpos.nets.bounded import BoundedModel, data_range, rows_of_extremes
from sklpos.nets.lazy import lazy
from sklpos.nets.rows import predict_rows
from sklpos.training.criterion_traits import aims_at_mean
from sklpos.training.kkt import KKTResiduals, evaluate_training_state
from sklpos.training.members import mixed_by_members, weigh_members
from sklpos.training.net import ConstrainedNet
from sklpos.training.product import make_product
from sklpos.training.rows import TrainingRows


@dataclass(frozen=True, eq=False)
class Fit:
    """All that a fitted estimator holds: replaced as a whole, never changed.

    Attributes
    ----------
    net : ConstrainedNet
        The training state, in scaled units, never repaired.
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
    input_range : ndarray of shape (2, n_features)
        Smallest and largest value of each feature of the rows of all calls.
    start_range : ndarray of shape (2, n_features) or None
        The same of the first call, see `range_at_start`.
    finished : Ending or None
        None if nothing was repaired, as after `partial_fit`.
    kkt : KKTResiduals or None
    interrupted : bool
        Whether Ctrl-C ended training.
    training : pair of RowSummary, or None
        Of the training rows, as trained and repaired.
    quantiles : ndarray of shape (n_kept, n_features) or None
        Of the training rows, see `quantiles_of`; None after `partial_fit`.
    seen : dict
        ``n_features_in_``, and ``feature_names_in_`` if X has string column names.
    """

    net: ConstrainedNet
    y_ndim: int
    n_iter: int
    multipliers: NDArray
    key: str
    built_in: dict[str, Any]
    loss: float
    input_range: NDArray
    start_range: NDArray | None = None
    finished: Ending | None = None
    kkt: KKTResiduals | None = None
    interrupted: bool = False
    training: tuple[RowSummary, RowSummary | None] | None = None
    quantiles: NDArray | None = None
    seen: dict[str, Any] = field(default_factory=dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # Everything is loaded onto the CPU; the net then moves itself to its device.
        for made in (state.get("finished"), state.get("ending")):
            if made is not None:
                made.model.module.to(self.net.device)

    @lazy
    def ending(self) -> Ending:
        """The product in the unit of y, its repair and what is proved."""
        # Made when it is first asked for: a stream may train for long before it is.
        return self.finished or Ending(trained_model(self.net, self.input_range))

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
        scale=net.targets.size,
        input_range=input_range,
    )


def evaluate(
    estimator,
    net: ConstrainedNet,
    rows: TrainingRows,
    data: TrainingData,
    n_iter: int,
    earlier: Fit | None = None,
    *,
    residuals: bool = True,
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
    residuals : bool, default=True
        Whether to compute the KKT residuals, which take another pass.

    Returns
    -------
    Fit
        Without a repair.
    """
    multiplier, loss, kkt = evaluate_training_state(
        net, rows.train, residuals=residuals
    )
    weigh_members(net, rows.train)
    multipliers = mixed_by_members(net, multiplier)
    multipliers *= net.targets.scale
    if rows.index is not ...:
        # Rows of weight 0 and rows held out have no constraint, hence multiplier 0.
        everyone = np.zeros((data.n_samples, data.y.shape[1]))
        everyone[rows.index] = multipliers
        multipliers = everyone
    input_range = data_range(data.X, None if earlier is None else earlier.input_range)
    start_range = input_range
    if earlier is not None:
        start_range = range_at_start(data, earlier.start_range, net.plain_module_)
    return Fit(
        net=net,
        y_ndim=data.y_ndim,
        n_iter=n_iter,
        multipliers=multipliers,
        key=rows_key(estimator, data),
        built_in=built_in_params(estimator),
        loss=loss,
        input_range=input_range,
        start_range=start_range,
        kkt=kkt,
        seen=data.seen,
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
    warn_of_divergence(fit.loss, *reference_losses(fit.net, data), estimator.lr)
    trained = trained_model(fit.net, fit.input_range)
    ending = finish_head(trained, data, repair_plan(estimator, fit.net))
    # `predict` would refuse such rows, so a fit must.
    ending.check_size(data.X)
    now = predict_rows(ending.model.module, data.X)
    check_predictions(now, finite=True)
    extreme = rows_of_extremes(now, data.X)
    ending = replace(ending, model=replace(ending.model, extreme_rows=extreme))
    training = _summary(now, data), None
    if ending.repair is not None:
        # One after the other, so that one set of predictions is in memory.
        del now
        before = predict_rows(trained.module, data.X)
        training = _summary(before, data), training[0]
    if ending.repair is not None and ending.certificate is None:
        warn_of_balance(ending, *training)
    return replace(
        fit, finished=ending, training=training, quantiles=quantiles_of(data.X)
    )


def _summary(predictions: NDArray, data: TrainingData) -> RowSummary:
    return RowSummary.from_predictions(predictions, data.bounds, data.y, data.weight)


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
        squared = aims_at_mean(fit.net.criterion_)
        warn_of_cost(ending, *training, squared=squared)
    return replace(fit, finished=ending, training=training)


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
        balance=keeps_mean(estimator, net.criterion_),
    )
