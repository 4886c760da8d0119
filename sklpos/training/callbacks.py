"""skorch callbacks: the ascent on the multipliers, and the record of it."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import torch
from scipy.optimize import nnls
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback
from torch import Tensor

from sklpos.nets.head import head_input
from sklpos.nets.hints import shown
from sklpos.nets.warnings import warn_user
from sklpos.training.decay import NoiseScaledDecay
from sklpos.training.forms import check_form

# In standard deviations of y: far more than a feasible problem was seen to need.
_MAX_MULTIPLIER_PER_ROW = 1e3


class MultiplierAscent(Callback):
    """Turns the violation of each batch into the strategy's dual step.

    It runs between the forward pass and the loss, so the multipliers of a batch move
    before the weights do. Subclass it to pause, anneal or log the ascent.

    Parameters
    ----------
    window : int, default=50
        Epochs between two checks for an infeasible problem, whose multipliers grow
        linearly without end. Only a head without bias, under a bound above 0, can be
        infeasible.

    Attributes
    ----------
    infeasible_rows_ : list of int
        Rows of the training set on which no head obeys the bounds; if there are any,
        all ascent has stopped.

    Examples
    --------
    >>> MultiplierAscent().window
    50
    """

    state_attributes_ = ("infeasible_rows_", "looks_")

    def __init__(self, window: int = 50):
        self.window = window

    def initialize(self):
        """Forget the last run.

        Returns
        -------
        MultiplierAscent
        """
        if not isinstance(self.window, Integral) or self.window < 1:
            raise ValueError(f"window={shown(self.window)} must be a positive integer.")
        self.infeasible_rows_ = []
        self.looks_ = []
        return self

    def check_state(self, net, state: dict) -> None:
        """Raise unless a stored state fits the training rows of a net.

        Parameters
        ----------
        net : ConstrainedNet
        state : dict
            By the names of ``state_attributes_``.

        Raises
        ------
        ValueError
        """
        multiplier = getattr(net.constraint_.state, "multiplier", torch.empty(0))
        look = np.empty(multiplier.shape), 0.0
        for number, found in enumerate(state["looks_"]):
            check_form(found, look, f"looks_[{number}]")
        rows = range(len(multiplier))
        for row in state["infeasible_rows_"]:
            if type(row) is not int or row not in rows:
                raise ValueError(
                    f"infeasible_rows_ holds {shown(row)}, which is no row"
                )

    def on_violation(self, net, violation: Tensor, index: Tensor) -> None:
        """Make the dual step of a batch.

        Parameters
        ----------
        net : ConstrainedNet
        violation : torch.Tensor of shape (batch, n_columns)
            Detached, scaled units.
        index : torch.Tensor of shape (batch,)
            Row numbers in the training set.
        """
        # The multipliers of an infeasible problem would grow without end.
        if violation.numel() and not self.infeasible_rows_:
            net.constraint_.ascend(violation, index)

    def on_domain_violation(self, net, violation: Tensor) -> None:
        """Make the dual step of whole domains.

        Parameters
        ----------
        net : ConstrainedNet
        violation : torch.Tensor of shape (n_domains, n_columns)
            Detached, scaled units.
        """
        if violation.numel() and not self.infeasible_rows_:
            domain = net.domain_constraint_
            domain.ascend(violation, domain.index)

    def on_epoch_end(self, net, dataset_train=None, **kwargs):
        """Hand the epoch's largest violation to the strategy's schedule.

        Parameters
        ----------
        net : ConstrainedNet
        dataset_train : torch.utils.data.Dataset, optional
            Rows of this epoch.
        **kwargs : dict
            What skorch passes on; not used.
        """
        if not len(net.constraint_.columns):
            return
        # All processes must run the same schedule, so each needs the largest of all.
        largest = max(net.run_.world.gather(net.epoch_.summary.max_violation))
        _check_multipliers(net)
        net.constraint_.schedule(largest)
        if net.domain_constraint_ is not None:
            net.domain_constraint_.schedule(net.epoch_.domain_violation)
        if len(net.history) % self.window == 0 and not self.infeasible_rows_:
            self._look_for_infeasible_rows(net, dataset_train, largest)

    def _look_for_infeasible_rows(self, net, data, largest: float) -> None:
        multiplier = getattr(net.constraint_.state, "multiplier", None)
        if multiplier is None or not net.may_be_infeasible:
            return
        # Absolute values, since `slack` stores its multipliers with the opposite sign.
        look = (multiplier.abs().cpu().double().numpy(), largest)
        # A new list, because the undo state of the last epoch may hold the old one.
        self.looks_ = [*self.looks_[-2:], look]
        rows = _infeasible_rows(net, data, _growing(self.looks_))
        if rows:
            self.infeasible_rows_ = rows
            warn_user(
                "no head without bias obeys the bounds on all training rows: the "
                f"multipliers of {len(rows)} rows grow without end, among them rows "
                f"{rows[:5]}; their ascent was stopped. Give the head a bias or widen "
                "the bounds.",
                ConvergenceWarning,
            )


def _check_multipliers(net) -> None:
    """Raise if the multipliers exploded."""
    n_rows = len(getattr(net.constraint_.state, "multiplier", ()))
    largest = net.epoch_.largest_multiplier / float(net.targets.spread.max())
    # The pull of all other rows is about what one row may have to withstand, so the
    # limit grows with their number. ``not <`` is true for NaN as well.
    if not largest < _MAX_MULTIPLIER_PER_ROW * max(n_rows, 1000):
        raise net.divergence(
            f"the multipliers grew to {largest:.3g} standard deviations of y in",
            "the strategy's dual_lr, ",
        )


def _growing(looks: list[tuple[np.ndarray, float]]) -> np.ndarray:
    """Find the multipliers that grow without end, from three looks at all of them."""
    # Slow growth in a feasible problem looks the same for a while, hence three.
    if len(looks) < 3:
        return np.zeros_like(looks[-1][0], dtype=bool)
    (first, before), (second, _), (third, after) = looks
    growth, of_late = third - first, (third - second).sum()
    # Linear growth has half of its rise in the second window, and the violation stays.
    # Multipliers that converge slow down, and their violation shrinks.
    goes_on = of_late > growth.sum() / 3 > 0 and after > max(before / 2, 1e-3)
    return (growth > 0.1 * growth.max()) & goes_on


def _infeasible_rows(net, data, growing: np.ndarray) -> list[int]:
    """Growing rows on which no head obeys the bounds, with the present features.

    By Farkas' lemma ``pushes @ w >= needed`` has no solution exactly if some ``v >= 0``
    has ``v @ pushes = 0`` and ``v @ needed = 1``, where a row pushes by its features
    against a lower bound and by minus its features against an upper one. If there is
    a solution, the residual of the least-squares problem in v is
    ``1 / sqrt(1 + |w|**2)`` for the smallest w.
    """
    found = set()
    columns = net.constraint_.columns
    bound = columns.bound.cpu().double().numpy()
    # The head of zeros obeys every bound that has 0 on its inner side.
    beyond_zero = net.targets.scaled_bounds.violation(0.0) > 0
    for output, rows, column, sign in columns.by_output(growing):
        if not beyond_zero[output]:
            continue
        pushes = sign * _head_features(net, data[rows].X)
        # Features of unit size make the residual independent of their unit.
        largest = np.abs(pushes).max()
        pushes = pushes / (largest if largest > 0 else 1.0)
        needed = sign[:, 0] * bound[column]
        share = needed / np.abs(needed).max()
        system = np.vstack([pushes.T, share])
        target = np.append(np.zeros(pushes.shape[1]), 1.0)
        # A residual below 1e-6 would take a head with weights of 1e6 or more.
        if nnls(system, target)[1] < 1e-6:
            found.update(rows.tolist())
    return sorted(found)


def _head_features(net, X: Tensor) -> np.ndarray:
    module = net.plain_module_.eval()
    with head_input(module, net.head) as seen, torch.no_grad():
        module(X.to(net.device))
    return seen[0].cpu().double().numpy()


class ConstraintHistory(Callback):
    """Writes what an epoch showed of the constraint into ``history_``.

    Adds ``objective`` (mean loss), ``constraint`` (mean term), ``max_violation``,
    ``violation_rate`` (share of training predictions out of bounds),
    ``max_multiplier``, ``mean_multiplier`` and ``alpha``, in scaled units and as seen
    by the batches while the weights moved.

    Examples
    --------
    >>> isinstance(ConstraintHistory(), Callback)
    True
    """

    def on_epoch_end(self, net, **kwargs):
        """Write the epoch's record.

        Parameters
        ----------
        net : ConstrainedNet
        **kwargs : dict
            What skorch passes on; not used.
        """
        epoch = net.epoch_
        means = {name: epoch.mean(name) for name in ("objective", "constraint")}
        own = epoch.n_rows, vars(epoch.summary)
        # Asked for once, as skorch copies the whole history to look one record up.
        net.history[-1].update(means, **_pooled(net.run_.world.gather(own)))


def _pooled(parts: list[tuple[int, dict]]) -> dict[str, float]:
    """Join summaries of several processes: the largest, or the mean over rows."""
    sizes, summaries = zip(*parts, strict=True)
    share = np.array(sizes) / max(sum(sizes), 1)
    columns = {name: [own[name] for own in summaries] for name in summaries[0]}
    return {
        name: max(values) if name.startswith("max_") else float(share @ values)
        for name, values in columns.items()
    }


def check_single(callbacks: list[tuple]) -> None:
    """Refuse a second callback of a kind that acts on the state of the net.

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
