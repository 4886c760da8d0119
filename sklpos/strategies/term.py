"""Common base of the constraints on rows and on domains: a strategy with its state."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from numbers import Real
from typing import Self

import torch
from torch import Tensor, nn

from sklpos.strategies.architecture import Architecture
from sklpos.strategies.base import ConstraintStrategy
from sklpos.strategies.columns import OutputColumns
from sklpos.strategies.record import ConstraintSummary, EpochRecord
from sklpos.strategies.registry import make_strategy


class StrategyConstraint(nn.Module):
    """Common base of the constraints on rows and on domains.

    Parameters
    ----------
    strategy : ConstraintStrategy
        Without state; it is used by this constraint alone.
    room : torch.Tensor of shape (n_rows, n_columns)
        See `ConstraintStrategy.setup`.
    alpha : float
    columns : OutputColumns

    Attributes
    ----------
    strategy : ConstraintStrategy
    state : StrategyState
        Its tensors, the same object as ``strategy.state_``.
    columns : OutputColumns
    record : EpochRecord
        Statistics that `end_epoch` reports. The ``state_dict`` holds it and `state`.
    """

    def __init__(
        self,
        strategy: ConstraintStrategy,
        room: Tensor,
        alpha: float,
        columns: OutputColumns,
    ):
        super().__init__()
        strategy.setup(room, alpha=alpha)
        self.strategy = strategy
        # Registered as a submodule, the state follows ``.to()`` and ``state_dict``; a
        # strategy itself is not a module.
        self.state = strategy.state_
        self.columns = columns
        self.record = EpochRecord(self.state.alpha, columns.n_bounded)

    def ascend(self, violation: Tensor, index: Tensor) -> None:
        """Make the dual step of rows whose violation is known.

        Parameters
        ----------
        violation : torch.Tensor of shape (batch, n_columns)
            In scales.
        index : torch.Tensor of shape (batch,)
            Each row at most once.
        """
        # Otherwise the state would join the graph, and break the next backward pass.
        if violation.requires_grad:
            violation = violation.detach()
        self.strategy.dual_step(violation, index)

    def for_rows(self, y: Tensor, *, alpha: float) -> Self:
        """The same constraint on other rows, from the start.

        Parameters
        ----------
        y : torch.Tensor of shape (n_rows, n_outputs)
            Their targets.
        alpha : float

        Returns
        -------
        StrategyConstraint
        """
        room = -self.columns.violation(y.to(self.columns.bound.device))
        twin = object.__new__(type(self))
        strategy = self.strategy.unfitted()
        StrategyConstraint.__init__(twin, strategy, room, alpha, self.columns)
        return twin

    def end_epoch(self) -> ConstraintSummary:
        """Run the schedule of the strategy; call it once per epoch.

        Returns
        -------
        ConstraintSummary

        Raises
        ------
        RuntimeError
            If the strategy has a schedule or multipliers, and no `dual_step` was made
            since the last call.
        """
        # Without dual steps the largest violation would read 0, and neither multipliers
        # nor schedule would ever move, without a sign of it.
        waits = self.strategy.needs_dual_step and len(self.columns) > 0
        if waits and int(self.record.n_steps) == 0:
            raise RuntimeError(
                "end_epoch was called without a dual_step since the last epoch; call "
                "dual_step for each batch, before computing the term."
            )
        summary = self.record.summary(float(self.state.alpha))
        # After the summary, which shows the alpha that the epoch was trained with.
        self.schedule(summary.max_violation)
        self.record.reset()
        return summary

    def schedule(self, max_violation: float) -> None:
        """Run the schedule of the strategy for an epoch whose violation is known.

        Parameters
        ----------
        max_violation : float
            Largest of the epoch in scales, at least 0.
        """
        self.strategy.on_epoch_end(max_violation)

    @torch.no_grad()
    def step(self, violation: Tensor, index: Tensor) -> None:
        """Make the dual step of rows, and remember them for `end_epoch`.

        Parameters
        ----------
        violation : torch.Tensor of shape (batch, n_columns)
            Finite, in scales.
        index : torch.Tensor of shape (batch,)
            Each row at most once.
        """
        # Predictions may come in half precision, the state is in at least float32.
        violation = violation.to(self.state.alpha.dtype)
        self.ascend(violation, index)
        self.record.add(violation, self.strategy.multipliers(violation, index))

    def _apply(self, fn: Callable, recurse: bool = True):
        """Follow ``.to()`` and ``.half()``, but keep at least float32.

        Multipliers move by small steps, which half precision would round away.
        """

        def at_least_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.is_floating_point() and moved.dtype.itemsize < 4:
                # From the tensor before, as `moved` has lost its digits already.
                return tensor.to(moved.device, torch.float32)
            return moved

        return super()._apply(at_least_float32, recurse)


def make_term(strategy: str | ConstraintStrategy, alpha: float) -> ConstraintStrategy:
    """Make a strategy that is a term of the loss.

    Parameters
    ----------
    strategy : str or ConstraintStrategy
    alpha : float

    Returns
    -------
    ConstraintStrategy
        Without state.

    Raises
    ------
    ValueError
        If the strategy is unknown or part of the module, or if alpha is not valid.
    """
    if not (isinstance(alpha, Real) and isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha={alpha!r} must be a finite number, at least 0.")
    made = make_strategy(strategy, alpha)
    if isinstance(made, Architecture):
        raise ValueError(
            f"strategy={strategy!r} is part of the module, not a term of the loss; use "
            "it with PositiveOutputRegressor, or choose another strategy."
        )
    return made
