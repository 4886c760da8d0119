"""A strategy as a term of any loss, on rows."""

from __future__ import annotations

from typing import Any, Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from sklpos.nets.bounds import Bounds
from sklpos.nets.copies import copy_values
from sklpos.strategies.base import ConstraintStrategy
from sklpos.strategies.batch_inputs import (
    batch_weight,
    check_index,
    check_predictions,
)
from sklpos.strategies.columns import OutputColumns
from sklpos.strategies.gathering import gather_rows, once_per_row
from sklpos.strategies.inputs import (
    row_weights,
    spread_scale,
    target_scale,
    target_tensor,
)
from sklpos.strategies.term import StrategyConstraint, make_term


class OutputConstraint(StrategyConstraint):
    """Keep the outputs of a net above a bound, as a term of any training loop.

    In each step, first `dual_step`, which moves the multipliers of the rows in the
    batch, then the term, which is added to the loss::

        y_pred = net(X_batch)
        constraint.dual_step(y_pred, index)
        loss = mse(y_pred, y_batch) + constraint(y_pred, index)

    and once per epoch `end_epoch`, which runs the strategy's schedule. The term is
    pure: calling it twice, as LBFGS does, changes nothing.

    Parameters
    ----------
    y : array-like or torch.Tensor of shape (n_samples,) or (n_samples, n_outputs)
        Targets of all training rows, from which the scale and the initial slack are
        computed. Without them, pass `n_samples`.
    n_samples : int, optional
        Number of training rows, if `y` is not given.
    n_outputs : int, default=1
        Number of outputs, if `y` is not given.
    scale : float or array-like of shape (n_outputs,), optional
        Unit in which violations are measured; by default the (weighted) standard
        deviation of `y`, or 1 without `y`. With it, `alpha` and the steps of the
        strategies have no unit.
    lower_bound : float, array-like of shape (n_outputs,) or None, default=0.0
        Unit of y; ``-inf`` or None leaves an output free.
    upper_bound : float, array-like of shape (n_outputs,) or None, default=None
        Unit of y; ``inf`` or None leaves an output free.
    weight : array-like of shape (n_samples,), optional
        Non-negative sample weights by row number. A row of weight 0 makes no dual
        step and has no term.
    strategy : str or ConstraintStrategy, default="augmented_lagrangian"
        A name in ``sklpos.STRATEGIES`` or an instance, which is copied. Not one that
        is part of the module (``"nonnegative_weights"``, ``"activation"``). The domain
        of ``"certified"`` needs a `DomainConstraint` as well.
    alpha : float, default=1.0
        Weight of the strategy's penalty term.
    process_group : torch.distributed.ProcessGroup, optional
        Processes that train together; by default all, if torch.distributed is
        initialised. Violations and row numbers are gathered over it in each dual
        step, so that multipliers are equal in all processes; pass a group of one
        process to train alone. It is not pickled.

    Attributes
    ----------
    multipliers : torch.Tensor of shape (n_samples, n_outputs)

    Raises
    ------
    ValueError
        For input that is not valid.

    See Also
    --------
    sklpos.repair.repair_head : Makes the bounds exact on rows after training.

    Notes
    -----
    The term is ``mean_ij w_i scale_j**2 penalty(g_ij)``, in the unit of a mean
    squared error of y, with ``g = (lower_bound - f) / scale`` or
    ``(f - upper_bound) / scale``, one column for each finite bound. So the optimum does
    not depend on the batch size [1]_. The state is kept in at least float32.

    References
    ----------
    .. [1] R. T. Rockafellar (1973), "The multiplier method of Hestenes and Powell
       applied to convex programming", doi:10.1007/BF00934777.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> X = torch.linspace(-1, 1, 20)[:, None]
    >>> y = torch.relu(X)
    >>> net, index = nn.Linear(1, 1), torch.arange(20)
    >>> constraint = OutputConstraint(y)
    >>> y_pred = net(X)
    >>> constraint.dual_step(y_pred, index)
    >>> loss = nn.functional.mse_loss(y_pred, y) + constraint(y_pred, index)
    >>> loss.backward()
    >>> constraint.end_epoch().alpha
    1.0
    """

    def __init__(
        self,
        y: ArrayLike | Tensor | None = None,
        *,
        n_samples: int | None = None,
        n_outputs: int = 1,
        scale: ArrayLike | None = None,
        lower_bound: ArrayLike | None = 0.0,
        upper_bound: ArrayLike | None = None,
        weight: ArrayLike | None = None,
        strategy: str | ConstraintStrategy = "augmented_lagrangian",
        alpha: float = 1.0,
        process_group: Any = None,
    ):
        targets = target_tensor(y, n_samples, n_outputs)
        weights = row_weights(weight, targets)
        known = y is not None
        if scale is None:
            scale = target_scale(targets, weights) if known else 1.0
        unit = spread_scale(scale, targets)
        bounds = Bounds.read(lower_bound, upper_bound, targets.shape[1])
        columns = OutputColumns(bounds, unit)
        # Zeros that stand in for unknown targets say nothing about the room.
        room = -columns.violation(targets)
        room = room if known else torch.zeros_like(room)
        super().__init__(make_term(strategy, alpha), room, alpha, columns)
        self.n_samples, self.n_outputs = targets.shape
        self.process_group = process_group
        # Configuration like the bounds, so it is not part of the ``state_dict``.
        self.register_buffer("row_weight", weights, persistent=False)

    def for_rows(self, y: Tensor, *, alpha: float) -> Self:
        """The same constraint on other rows of weight 1, from the start.

        Parameters
        ----------
        y : torch.Tensor of shape (n_samples, n_outputs)
            Their targets.
        alpha : float

        Returns
        -------
        OutputConstraint
        """
        twin = super().for_rows(y, alpha=alpha)
        twin.n_samples, twin.n_outputs = y.shape
        twin.process_group = self.process_group
        twin.register_buffer("row_weight", None, persistent=False)
        return twin

    def violation(self, y_pred: Tensor) -> Tensor:
        """Violations of predictions, one column per finite bound.

        Parameters
        ----------
        y_pred : torch.Tensor of shape (batch, n_outputs)

        Returns
        -------
        torch.Tensor of shape (batch, n_columns)
            In scales; at most 0 where the bound is obeyed.
        """
        return self.columns.violation(check_predictions(y_pred, self.n_outputs))

    @torch.no_grad()
    def dual_step(self, y_pred: Tensor, index: ArrayLike | Tensor) -> None:
        """Move the multipliers and slack of these rows, before the term is computed.

        A row that is in the batch several times moves once, by its mean violation.
        Predictions that are not finite move nothing.

        Parameters
        ----------
        y_pred : torch.Tensor of shape (batch, n_outputs)
        index : array-like or torch.Tensor of shape (batch,)
            Row numbers in the training set, in any order.

        Raises
        ------
        ValueError
            If the shapes do not fit, or a row number is out of range.
        """
        violation = self.violation(y_pred)
        index = check_index(index, len(y_pred), self.n_samples).to(violation.device)
        # A single NaN would stay in a multiplier for the rest of the training.
        moves = violation.isfinite().all(1)
        if self.row_weight is not None:
            # Nothing in the loss holds back a row of weight 0, whose multiplier would
            # grow without effect.
            moves = moves & (self.row_weight[index] > 0).ravel()
        if not moves.all():
            violation, index = violation[moves], index[moves]
        # Each process holds all multipliers; they stay equal only if all processes see
        # the rows of all.
        violation, index = gather_rows(violation, index, self.process_group)
        self.step(*once_per_row(violation, index))

    def forward(
        self,
        y_pred: Tensor,
        index: ArrayLike | Tensor,
        weight: ArrayLike | Tensor | None = None,
    ) -> Tensor:
        """Compute the term to add to the loss.

        Parameters
        ----------
        y_pred : torch.Tensor of shape (batch, n_outputs)
        index : array-like or torch.Tensor of shape (batch,)
        weight : torch.Tensor of shape (batch,) or (batch, n_outputs), optional
            Non-negative weights of these predictions, in place of the constructor's.
            They are taken as they are, so give them a mean of 1 over all rows.

        Returns
        -------
        torch.Tensor of shape ()
            In the unit of a squared error of y; differentiable.

        Raises
        ------
        ValueError
            If the shapes do not fit, a row number is out of range, or a weight is
            negative.
        """
        violation = self.violation(y_pred)
        index = check_index(index, len(y_pred), self.n_samples).to(violation.device)
        if weight is None and self.row_weight is not None:
            weight = self.row_weight[index]
        elif weight is not None:
            weight = batch_weight(weight, y_pred).to(violation.device)
        term = self.strategy.penalty(violation, index)
        return self.columns.mean_term(term, weight)

    @property
    def multipliers(self) -> Tensor:
        """Multipliers of all rows, unit of y, mean convention.

        Positive where a lower bound pushes up, negative where an upper bound pushes
        down; 0 for a strategy that keeps none.
        """
        if not hasattr(self.state, "multiplier"):
            return self.columns.bound.new_zeros(self.n_samples, self.n_outputs)
        # Multipliers that are stored do not depend on the violation, so 0 will do.
        rows = torch.arange(self.n_samples, device=self.columns.bound.device)
        zero = self.columns.bound.new_zeros(self.n_samples, len(self.columns))
        return self.columns.signed(self.strategy.multipliers(zero, rows))

    def __deepcopy__(self, memo: dict) -> Self:
        # A process group cannot be copied, so both share it.
        memo[id(self.process_group)] = self.process_group
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        vars(twin).update(copy_values(vars(self), memo))
        return twin

    def __getstate__(self) -> dict:
        # A process group cannot be pickled. None stands for all processes.
        return {**self.__dict__, "process_group": None}
