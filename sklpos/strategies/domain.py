"""A strategy as a term of any loss, on whole domains."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sklpos.docstrings import complete_docstrings
from sklpos.strategies.base import ConstraintStrategy
from sklpos.strategies.constraint import OutputConstraint
from sklpos.strategies.inputs import check_count
from sklpos.strategies.term import StrategyConstraint, make_term


@complete_docstrings
class DomainConstraint(StrategyConstraint):
    """Keep the outputs over whole domains within their bounds, as a term of any loss.

    Parameters
    ----------
    bounds : callable
        Maps a module to ``(lowest, highest)`` outputs over each domain, tensors of
        shape (n_domains, n_outputs) that are differentiable in its weights, such as
        `IntervalBounds`. If it has ``end_epoch()``, that is called once per epoch.
    like : OutputConstraint
        Constraint on the rows, whose bounds and scales are used here as well.
    strategy : str or ConstraintStrategy, default="augmented_lagrangian"
    alpha : float, default=1.0
    n_domains : int, default=1

    Raises
    ------
    ValueError
        For input that is not valid.

    Examples
    --------
    >>> from sklpos.strategies import IntervalBounds
    >>> rows = OutputConstraint(torch.ones(2, 1))
    >>> bounds = IntervalBounds(torch.tensor([[0.0], [1.0]]))
    >>> domain = DomainConstraint(bounds, like=rows)
    >>> net = nn.Linear(1, 1)
    >>> domain.dual_step(net)
    >>> domain(net).shape
    torch.Size([])
    """

    def __init__(
        self,
        bounds: Callable,
        *,
        like: OutputConstraint,
        strategy: str | ConstraintStrategy = "augmented_lagrangian",
        alpha: float = 1.0,
        n_domains: int = 1,
    ):
        # A copy, as ``.to()`` moves the buffers of each constraint separately.
        columns = copy.deepcopy(like.columns)
        check_count("n_domains", n_domains)
        room = columns.bound.new_zeros(n_domains, len(columns))
        super().__init__(make_term(strategy, alpha), room, alpha, columns)
        self.bounds = bounds
        self.register_buffer("index", torch.arange(n_domains), persistent=False)

    def violation(self, module: nn.Module) -> Tensor:
        """Violations of the lowest and the highest outputs over the domains.

        Parameters
        ----------
        module : nn.Module

        Returns
        -------
        torch.Tensor of shape (n_domains, n_columns)
            In scales; differentiable in the weights.

        Raises
        ------
        ValueError
            If `bounds` returns outputs of another shape.
        """
        lowest, highest = self.bounds(module)
        expected = (len(self.index), self.columns.n_outputs)
        shapes = [tuple(end.shape) for end in (lowest, highest)]
        if shapes != [expected, expected]:
            raise ValueError(
                f"bounds returned outputs of shapes {shapes[0]} and {shapes[1]}, but "
                f"n_domains={expected[0]} and {expected[1]} outputs need {expected}."
            )
        return self.columns.violation_of_range(lowest, highest)

    @torch.no_grad()
    def dual_step(self, module: nn.Module) -> None:
        """Move the multipliers of the domains, before the term is computed.

        Bounds that are not finite move nothing.

        Parameters
        ----------
        module : nn.Module
        """
        violation = self.violation(module)
        # A single NaN would stay in a multiplier for the rest of the training.
        moves = violation.isfinite().all(1)
        self.step(violation[moves], self.index[moves])

    def forward(self, module: nn.Module) -> Tensor:
        """Compute the term to add to the loss; each domain counts as a whole mean.

        Parameters
        ----------
        module : nn.Module

        Returns
        -------
        torch.Tensor of shape ()
        """
        term = self.strategy.penalty(self.violation(module), self.index)
        return self._sum(term)

    @torch.no_grad()
    def term_and_slope(self, violation: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the term and its slope, from violations that are already known.

        Parameters
        ----------
        violation : torch.Tensor of shape (n_domains, n_columns)

        Returns
        -------
        term : torch.Tensor of shape ()
        slope : torch.Tensor of shape (n_domains, n_columns)
            Derivative of the term in the violations.
        """
        term, slope = self.strategy.term_and_slope(violation, self.index)
        if not self.columns.plain_unit:
            slope = self.columns.unit**2 * slope
        return self._sum(term), slope / self.columns.n_outputs

    def _sum(self, term: Tensor) -> Tensor:
        # Undoes the mean over domains: each one has the weight of all rows together.
        return len(term) * self.columns.mean_term(term)

    def take_over(self, previous: DomainConstraint, gain: ArrayLike = 1.0) -> None:
        """Continue from another constraint, with its multipliers and its domain.

        Parameters
        ----------
        previous : DomainConstraint
        gain : float or array-like of shape (n_outputs,), default=1.0
            Former unit of the outputs, over the present one.
        """
        # Not every strategy has multipliers, and other domains may be more or fewer.
        own = getattr(self.state, "multiplier", None)
        earlier = getattr(previous.state, "multiplier", None)
        known = own is not None and earlier is not None
        if known and own.shape == earlier.shape:
            gain = torch.as_tensor(gain).to(own).expand(self.columns.n_outputs)
            own.copy_(
                earlier * gain.to(earlier)[self.columns.output.to(earlier.device)]
            )
        if hasattr(self.bounds, "take_over"):
            self.bounds.take_over(previous.bounds)

    def schedule(self, max_violation: float) -> None:
        """Run the schedule of the strategy, and that of the domain."""
        super().schedule(max_violation)
        if hasattr(self.bounds, "end_epoch"):
            self.bounds.end_epoch()
