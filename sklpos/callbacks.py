"""skorch callbacks: the ascent on the multipliers, and the record of it."""

from __future__ import annotations

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback
from torch import Tensor


class MultiplierAscent(Callback):
    """Turns the violation of each batch into the strategy's dual step.

    It runs between the forward pass and the loss, so the multipliers of a batch move
    before the weights do. Subclass it to pause, anneal or log the ascent.

    Parameters
    ----------
    window : int, default=50
        Epochs between two looks for an infeasible problem, which shows multipliers
        that grow linearly for ever. Only a head without bias can be infeasible.

    Attributes
    ----------
    infeasible_rows_ : list of int
        Rows (of the training set) for which no head was found; their ascent stopped.

    Examples
    --------
    >>> MultiplierAscent().window
    50
    """

    def __init__(self, window: int = 50):
        self.window = window

    def initialize(self):
        """Forget the last run."""
        self.infeasible_rows_ = []
        self._growth = _GrowthWatch()
        return self

    def on_epoch_begin(self, net, **kwargs):
        """Start the epoch's maximum."""
        self._max_violation = None

    def on_violation(self, net, violation: Tensor, index: Tensor) -> None:
        """Make the dual step of a batch.

        Parameters
        ----------
        net : ConstrainedNet
        violation : torch.Tensor of shape (batch, n_bounded)
            Detached, scaled units.
        index : torch.Tensor of shape (batch,)
            Row numbers in the training set.
        """
        if violation.numel() == 0:
            return
        if not self.infeasible_rows_:
            net.strategy_.dual_step(violation, index)
        largest = violation.amax()
        so_far = self._max_violation
        self._max_violation = (
            largest if so_far is None else torch.maximum(so_far, largest)
        )

    def on_epoch_end(self, net, **kwargs):
        """Hand the epoch's largest violation to the strategy's schedule."""
        if self._max_violation is None:
            return
        largest = max(float(self._max_violation), 0.0)
        self._max_violation = None
        net.strategy_.on_epoch_end(largest)
        if len(net.history) % self.window == 0 and not self.infeasible_rows_:
            self._look_for_infeasible_rows(net, largest)

    def _look_for_infeasible_rows(self, net, largest: float) -> None:
        multiplier = getattr(net.constraint_, "multiplier", None)
        if multiplier is None or not net.may_be_infeasible:
            return
        rows = self._growth.update(multiplier, largest)
        if rows:
            self.infeasible_rows_ = rows
            warnings.warn(
                "no head without bias obeys lower_bound on all training rows: the "
                f"multipliers of {len(rows)} rows grow without end, among them rows "
                f"{rows[:5]}; their ascent was stopped. Give the head a bias or lower "
                "the bound.",
                ConvergenceWarning,
                stacklevel=2,
            )


class _GrowthWatch:
    """Tells linear growth of multipliers from convergence, by three snapshots."""

    def __init__(self):
        self.seen: list[tuple[Tensor, float]] = []

    def update(self, multiplier: Tensor, largest: float) -> list[int]:
        self.seen = [*self.seen[-2:], (multiplier.detach().abs().clone(), largest)]
        if len(self.seen) < 3:
            return []
        (first, before), (second, _), (third, after) = self.seen
        earlier, later = second - first, third - second
        steady = (later > 0.95 * earlier) & (earlier > 0)
        if after < 0.99 * before or after < 1e-3:
            return []
        growing = steady & (later > 0.1 * later.amax())
        return growing.any(dim=1).nonzero().ravel().tolist()


class ConstraintHistory(Callback):
    """Writes the constraint's side of each epoch into ``history_``.

    Adds ``objective`` (mean loss), ``constraint`` (mean term), ``max_violation``,
    ``violation_rate`` (share of training predictions below the bound),
    ``max_multiplier``, ``mean_multiplier`` and ``alpha``, in scaled units and as seen
    by the batches while the weights moved.

    Examples
    --------
    >>> ConstraintHistory().initialize().steps_
    []
    """

    def initialize(self):
        """Forget the last run."""
        self.steps_ = []
        return self

    def on_epoch_begin(self, net, **kwargs):
        """Start collecting."""
        self.steps_ = []

    def on_batch_end(self, net, batch, training, **step):
        """Collect what one training step computed."""
        if training:
            self.steps_.append((len(batch.index), batch.index, step))

    def on_epoch_end(self, net, **kwargs):
        """Write the epoch's record."""
        sizes = torch.tensor([size for size, _, _ in self.steps_], dtype=torch.float64)
        for name in ("objective", "constraint"):
            values = torch.stack([step[name] for _, _, step in self.steps_])
            mean = (sizes / sizes.sum()) @ values.cpu().double()
            net.history.record(name, float(mean))
        violation = torch.cat([step["violation"] for _, _, step in self.steps_])
        index = torch.cat([index for _, index, _ in self.steps_])
        self.steps_ = []
        for name, value in self._summary(net, violation, index).items():
            net.history.record(name, float(value))

    @staticmethod
    def _summary(net, violation: Tensor, index: Tensor) -> dict[str, Tensor | float]:
        strategy = net.strategy_
        multiplier = strategy.multipliers(violation, index.to(violation.device))
        empty = violation.numel() == 0
        return {
            "max_violation": 0.0 if empty else violation.amax().clamp(min=0),
            "violation_rate": 0.0 if empty else (violation > 0).double().mean(),
            "max_multiplier": 0.0 if empty else multiplier.amax(),
            "mean_multiplier": 0.0 if empty else multiplier.mean(),
            "alpha": strategy.state_.alpha,
        }
