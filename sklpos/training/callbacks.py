"""skorch callbacks: the ascent on the multipliers, and the record of it."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import torch
from scipy.optimize import nnls
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback
from torch import Tensor

from sklpos.nets.head import head_input
from sklpos.training.decay import NoiseScaledDecay

_EXPLODED = 1e3


class MultiplierAscent(Callback):
    """Turns the violation of each batch into the strategy's dual step.

    It runs between the forward pass and the loss, so the multipliers of a batch move
    before the weights do. Subclass it to pause, anneal or log the ascent.

    Parameters
    ----------
    window : int, default=50
        Epochs between two looks for an infeasible problem, which shows multipliers
        that grow linearly for ever. Only a head without bias, under a bound above 0,
        can be infeasible.

    Attributes
    ----------
    infeasible_rows_ : list of int
        Rows (of the training set) for which no head was found; all ascent stopped.

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
        self.violations_ = []
        self.looks_ = []
        return self

    def on_epoch_begin(self, net, **kwargs):
        """Start collecting."""
        self.violations_ = []

    def on_violation(self, net, violation: Tensor, index: Tensor) -> None:
        """Make the dual step of a batch.

        Parameters
        ----------
        net : ConstrainedNet
        violation : torch.Tensor of shape (batch, n_bounded)
            Detached, scaled units.
        index : torch.Tensor of shape (batch,)
            Row numbers in the training set; those of domains are negative.
        """
        if violation.numel() == 0:
            return
        if not self.infeasible_rows_:
            net.strategy_.dual_step(violation, index)
        self.violations_.append(violation)

    def on_epoch_end(self, net, dataset_train=None, **kwargs):
        """Hand the epoch's largest violation to the strategy's schedule."""
        if not net.targets.bounded.any():
            return
        own = float(torch.cat(self.violations_).amax()) if self.violations_ else 0.0
        self.violations_ = []
        largest = net.largest_violation(max(own, 0.0))
        _check_multipliers(net)
        net.strategy_.on_epoch_end(largest)
        if len(net.history) % self.window == 0 and not self.infeasible_rows_:
            self._look_for_infeasible_rows(net, dataset_train, largest)

    def on_train_end(self, net, **kwargs):
        """Let go of a half epoch."""
        self.violations_ = []

    def _look_for_infeasible_rows(self, net, data, largest: float) -> None:
        multiplier = getattr(net.constraint_, "multiplier", None)
        if multiplier is None or not net.may_be_infeasible:
            return
        own = multiplier[: len(data)]  # those of domains come last
        look = (own.abs().cpu().double().numpy(), largest)
        self.looks_ = [*self.looks_[-2:], look]
        rows = _infeasible_rows(net, data, _growing(self.looks_))
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


def _check_multipliers(net) -> None:
    """Raise if they exploded: a row needs hardly more than the pull of all rows."""
    multiplier = getattr(net.constraint_, "multiplier", None)
    if multiplier is None or multiplier.numel() == 0:
        return
    largest = float(multiplier.abs().amax())
    if not largest < _EXPLODED * max(len(multiplier), 1000):
        raise net.divergence(
            f"the multipliers grew to {largest:.3g} standard deviations of y in",
            "the strategy's dual_lr, ",
        )


def _growing(looks: list[tuple[np.ndarray, float]]) -> np.ndarray:
    """Say which multipliers grow as if for ever, by three looks at all of them."""
    if len(looks) < 3:
        return np.zeros_like(looks[-1][0], dtype=bool)
    (first, before), (second, _), (third, after) = looks
    growth, of_late = third - first, (third - second).sum()
    goes_on = of_late > growth.sum() / 3 > 0 and after > max(before / 2, 1e-3)
    return (growth > 0.1 * growth.max()) & goes_on


def _infeasible_rows(net, data, growing: np.ndarray) -> list[int]:
    """Return the growing rows on which no head obeys the bound, as it is now.

    By Farkas' lemma ``features @ w >= bound > 0`` has no solution exactly if some
    ``v >= 0`` has ``v @ features = 0`` and ``sum(v) = 1``; the residual of the least
    squares problem in v is otherwise ``1 / sqrt(1 + |w|**2)`` for the smallest w with
    ``features @ w >= 1``.
    """
    found = set()
    bound = net.targets.bound[net.targets.bounded]
    for column in np.flatnonzero(growing.any(axis=0) & (bound > 0)):
        rows = np.flatnonzero(growing[:, column])
        features = _head_features(net, data[rows][0])
        largest = np.abs(features).max()
        features = features / (largest if largest > 0 else 1.0)
        system = np.vstack([features.T, np.ones(len(rows))])
        target = np.append(np.zeros(features.shape[1]), 1.0)
        if nnls(system, target)[1] < 1e-6:
            found.update(rows.tolist())
    return sorted(found)


def _head_features(net, X: Tensor) -> np.ndarray:
    module = net.plain_module_.eval()
    with head_input(module, net.head) as seen, torch.no_grad():
        module(X.to(net.device))
    return seen[0].cpu().double().numpy()


class ConstraintHistory(Callback):
    """Writes the constraint's side of each epoch into ``history_``.

    Adds ``objective`` (mean loss), ``constraint`` (mean term), ``max_violation``,
    ``violation_rate`` (share of training predictions below the bound),
    ``max_multiplier``, ``mean_multiplier`` and ``alpha``, in scaled units and as seen
    by the batches while the weights moved.

    Examples
    --------
    >>> isinstance(ConstraintHistory(), Callback)
    True
    """

    def on_epoch_end(self, net, **kwargs):
        """Write the epoch's record."""
        steps, net.steps_ = net.steps_, None  # not to be pickled by a Checkpoint
        for name in ("objective", "constraint"):
            net.history.record(name, steps.mean(name))
        for name, value in self._summary(net, steps.violation, steps.index).items():
            net.history.record(name, float(value))

    @staticmethod
    def _summary(net, violation: Tensor, index: Tensor) -> dict[str, Tensor | float]:
        strategy = net.strategy_
        multiplier = strategy.multipliers(violation, index)
        empty = violation.numel() == 0
        return {
            "max_violation": 0.0 if empty else violation.amax().clamp(min=0),
            "violation_rate": 0.0
            if empty
            else int((violation > 0).sum()) / violation.numel(),
            "max_multiplier": 0.0 if empty else multiplier.amax(),
            "mean_multiplier": 0.0 if empty else multiplier.mean(),
            "alpha": strategy.state_.alpha,
        }


def private_copy(item):
    """Copy a callback, or one of a name; shallow, as it may hold an open file.

    Parameters
    ----------
    item : Callback, type or (str, Callback or type)

    Returns
    -------
    Of the kind of `item`.
    """
    if isinstance(item, tuple):
        return item[0], private_copy(item[1])
    return item if isinstance(item, type) else copy.copy(item)


def check_single(callbacks: list[tuple]) -> None:
    """Refuse a second callback of those that act on the same state.

    Parameters
    ----------
    callbacks : list of (str, Callback)

    Raises
    ------
    ValueError
    """
    own = {
        "multiplier_ascent": MultiplierAscent,
        "constraint_history": ConstraintHistory,
        "weight_decay": NoiseScaledDecay,
    }
    for name, kind in own.items():
        if sum(isinstance(callback, kind) for _, callback in callbacks) > 1:
            raise ValueError(
                f"callbacks holds a second {kind.__name__}; to replace that of the "
                f"net, give callbacks__{name} instead."
            )
