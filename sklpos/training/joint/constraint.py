"""The constraints of several nets, side by side."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap

from sklpos.nets.hints import in_one_line
from sklpos.strategies.base import ConstraintStrategy
from sklpos.strategies.term import StrategyConstraint
from sklpos.training.randomness import make_generator

# Rows of each net that tell whether a strategy can be broadcast.
_N_TRIED = 16


class JointConstraint:
    """Constraints of one strategy, whose multipliers and weights are side by side.

    The state of each constraint becomes a view of it, until it is released.

    Parameters
    ----------
    constraints : sequence of StrategyConstraint
        Of equal columns, except for their bounds.

    Notes
    -----
    What a strategy computes is mapped over the nets. Most strategies compute the same,
    three to five times as fast, if they are given the rows of all nets at once, with a
    weight per net: this is tried on random violations before training.
    """

    def __init__(self, constraints: Sequence[StrategyConstraint]):
        self.constraints = constraints
        self.strategy = constraints[0].strategy
        self.columns = constraints[0].columns
        self.output: Tensor = self.columns.output
        self.state = {
            name: _padded([own.state.get_buffer(name) for own in constraints])
            for name, _ in constraints[0].state.named_buffers()
        }
        self.bound, self.unit = (
            torch.stack([own.columns.get_buffer(name) for own in constraints])[:, None]
            for name in ("bound", "unit")
        )
        for number, own in enumerate(constraints):
            for name, value in own.state.named_buffers():
                view = self.state[name][number]
                setattr(own.state, name, view[: len(value)] if value.ndim else view)
        self._run, self._multipliers = self._mapped, self._mapped_multipliers
        if len(self.columns) and self._can_broadcast():
            self._run, self._multipliers = self._broadcast, self._broadcast_multipliers

    @torch.no_grad()
    def step(self, outputs: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make the dual step of a batch of the first nets; then compute the term.

        Parameters
        ----------
        outputs : torch.Tensor of shape (n_first, batch, n_outputs)
        index : torch.Tensor of shape (n_first, batch)
            Row numbers. A row that is repeated moves once.

        Returns
        -------
        violation, term : torch.Tensor of shape (n_first, batch, n_columns)
        slope : torch.Tensor of shape (n_first, batch, n_outputs)
            Of the term, in the outputs.
        """
        number, columns = len(outputs), self.columns
        seen = outputs if columns.all_outputs else outputs[..., self.output]
        violation = self.bound[:number] - seen
        if not columns.plain_unit:
            violation = violation / self.unit[:number]
        if not violation.numel():
            return violation, violation, torch.zeros_like(outputs)
        term, slope = self._run(self._of_first(number), violation, index)
        slope = -slope if columns.plain_unit else -self.unit[:number] * slope
        if columns.all_outputs:
            return violation, term, slope
        spread = torch.zeros_like(outputs).index_add_(2, self.output, slope)
        return violation, term, spread

    @torch.no_grad()
    def multipliers(self, violation: Tensor, index: Tensor) -> Tensor:
        """Multipliers of rows of all nets.

        Parameters
        ----------
        violation : torch.Tensor of shape (n_nets, n_rows, n_columns)
        index : torch.Tensor of shape (n_nets, n_rows)

        Returns
        -------
        torch.Tensor of the shape of violation
        """
        if not violation.numel():
            return violation
        return self._multipliers(self.state, violation, index)

    def release(self) -> None:
        """Give each constraint a state of its own again."""
        for own in self.constraints:
            for name, value in own.state.named_buffers():
                setattr(own.state, name, value.clone())

    def _of_first(self, number: int) -> dict[str, Tensor]:
        return {name: value[:number] for name, value in self.state.items()}

    def _step(self, state: dict, violation: Tensor, index: Any):
        with _Lent(self.constraints[0].state, state):
            self.constraints[0].ascend(violation, index)
            return _term_and_slope(self.strategy, violation, index)

    def _own_multipliers(self, state: dict, violation: Tensor, index: Any) -> Tensor:
        with _Lent(self.constraints[0].state, state):
            if type(self.strategy).multipliers is ConstraintStrategy.multipliers:
                return _term_and_slope(self.strategy, violation, index)[1]
            return self.strategy.multipliers(violation, index)

    def _mapped(self, state: dict, violation: Tensor, index: Tensor):
        return vmap(self._step)(state, violation, index)

    def _mapped_multipliers(self, state: dict, violation: Tensor, index: Tensor):
        return vmap(self._own_multipliers)(state, violation, index)

    def _broadcast(self, state: dict, violation: Tensor, index: Tensor):
        return self._step(_spread(state), violation, _of_nets(index))

    def _broadcast_multipliers(self, state: dict, violation: Tensor, index: Tensor):
        return self._own_multipliers(_spread(state), violation, _of_nets(index))

    @torch.no_grad()
    def _can_broadcast(self) -> bool:
        """Whether broadcasting does what mapping does, in two steps."""
        number = len(self.constraints)
        factor = 1 + torch.arange(number) / number
        n_rows = min(min(len(v) for v in self._row_states()), _N_TRIED)
        generator = make_generator(0)
        shape = 2, number, n_rows, len(self.columns)
        violations = torch.randn(shape, generator=generator).to(self.bound)
        index = torch.arange(n_rows).expand(number, n_rows)
        found = []
        for run in (self._mapped, self._broadcast):
            # With weights that differ, so that each net must get its own.
            state = {
                name: value * factor.to(value)
                if value.ndim == 1 and value.is_floating_point()
                else value.clone()
                for name, value in self.state.items()
            }
            try:
                with warnings.catch_warnings():
                    # torch warns of functions that it maps slowly.
                    warnings.simplefilter("ignore")
                    results = [run(state, own, index) for own in violations]
            except (RuntimeError, IndexError, TypeError, ValueError) as error:
                if run is self._mapped:
                    raise self._refusal(error) from error
                return False
            found.append([*state.values(), *(part for own in results for part in own)])
        return all(map(_agree, *found))

    def _refusal(self, error: Exception) -> ValueError:
        name = type(self.strategy).__name__
        return ValueError(
            f"strategy={name} cannot be trained together with others, because "
            f"torch.func.vmap fails ({in_one_line(error, 100)}); use GridSearchCV."
        )

    def _row_states(self) -> list[Tensor]:
        rows = [own.state for own in self.constraints]
        found = [v for state in rows for v in state.buffers() if v.ndim]
        return found or [torch.empty(_N_TRIED)]


class _Lent:
    """Buffers of a module, replaced for a while."""

    def __init__(self, module: torch.nn.Module, buffers: dict[str, Tensor]):
        self.held: Any = module._buffers
        self.buffers = buffers

    def __enter__(self) -> None:
        self.before = dict(self.held)
        self.held.update(self.buffers)

    def __exit__(self, *error: object) -> None:
        self.held.update(self.before)


def _spread(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give each number of a net the shape of its rows and columns."""
    return {
        name: value[:, None, None] if value.ndim == 1 else value
        for name, value in state.items()
    }


def _of_nets(index: Tensor) -> tuple[Tensor, Tensor]:
    """Index of rows in tensors of all nets."""
    return torch.arange(len(index), device=index.device)[:, None], index


def _term_and_slope(strategy, violation: Tensor, index: Any):
    if type(strategy).term_and_slope is not ConstraintStrategy.term_and_slope:
        return strategy.term_and_slope(violation, index)
    # The default asks autograd, which cannot be mapped over nets.
    term, pull_back, *_ = vjp(lambda own: strategy.penalty(own, index), violation)
    return term, pull_back(torch.ones_like(term))[0]


def _agree(value: Tensor, other: Tensor) -> bool:
    tolerance = 0.0 if not value.is_floating_point() else torch.finfo(value.dtype).eps
    return value.shape == other.shape and torch.allclose(
        value, other, rtol=64 * tolerance, atol=64 * tolerance
    )


def _padded(values: list[Tensor]) -> Tensor:
    """Stack tensors; of those with rows, the shorter ones are padded."""
    longest = max(values, key=lambda value: len(value) if value.ndim else 0)
    padded = torch.zeros_like(longest).repeat(len(values), *[1] * longest.ndim)
    for room, value in zip(padded, values, strict=True):
        (room[: len(value)] if value.ndim else room).copy_(value)
    return padded
