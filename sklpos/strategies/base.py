"""What every constraint strategy is: one small estimator of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

GUARANTEES = ("none", "training", "domain", "everywhere")


class StrategyState(nn.Module):
    """The tensors a strategy owns, as buffers: saved, moved and pickled together.

    Parameters
    ----------
    **buffers : torch.Tensor
        One buffer a name.
    """

    def __init__(self, **buffers: Tensor):
        super().__init__()
        for name, value in buffers.items():
            self.register_buffer(name, value)


def raise_alpha_if_stalled(
    state: StrategyState, max_violation: float, tolerance: float, factor: float
) -> None:
    """Multiply ``state.alpha`` if the violation has not shrunk to a quarter.

    Parameters
    ----------
    state : StrategyState
        With the buffers ``alpha``, ``max_alpha`` and ``last_violation``.
    max_violation : float
        Largest violation of the epoch, in scaled units.
    tolerance : float
        A smaller violation counts as none.
    factor : float
        At most to ``state.max_alpha``.
    """
    stalled = max_violation > 0.25 * float(state.last_violation)
    if max_violation > tolerance and stalled:
        state.alpha.copy_(torch.minimum(factor * state.alpha, state.max_alpha))
    state.last_violation.fill_(max_violation)


class ConstraintStrategy(BaseEstimator, ABC):
    """Base class: how a net is led to predictions that obey the bound.

    The net computes the violation ``g = lower_bound - f(X)`` (scaled units) of the
    outputs that have a finite bound, and minimises

    ``mean_ij [ loss_ij + penalty(g, index)_ij ]``

    with the sample weights in the mean. A strategy supplies the term, moves its own
    multipliers in `dual_step`, and may change the module in `wrap` and `finalize`.
    One that looks at whole domains too (`lowest_outputs`) has their violation beside
    that of the rows: ``+ mean_j penalty(g_domain, index)_j`` for each domain, with the
    row numbers -1, -2, ...: the last rows of its tensors.

    Hyper-parameters go into ``__init__``; every tensor goes into ``state_``, which
    `setup` allocates.

    Attributes
    ----------
    state_ : StrategyState
        Buffers; always holds ``alpha``, the weight of the penalty term (0-dim).

    Notes
    -----
    ``guarantee`` says what holds after training, before any repair: ``"none"`` (a
    soft strategy), ``"training"`` (the optimiser's limit on a convex problem is
    feasible on the training rows), ``"domain"`` (and on every input of a domain) or
    ``"everywhere"`` (by construction, for every finite input). For ``"domain"`` the
    attributes `domain` and `margin` say which, in the words of the estimator's
    `certify`; after `fit` the head is repaired until that is proved.
    """

    guarantee: ClassVar[str]
    #: The module must end in a plain ``nn.Linear``.
    needs_head: ClassVar[bool] = True
    #: ``alpha = 0`` would stop the dual step (or the schedule), so it is refused.
    needs_alpha: ClassVar[bool] = False
    #: `multipliers` is only a bound; estimate them from the stationarity condition.
    estimates_multipliers: ClassVar[bool] = False
    #: The term of a row reads that row's tensors, which `dual_step` alone moves, and
    #: what changes between epochs: it may be computed when the epoch is over.
    row_by_row: ClassVar[bool] = False

    state_: StrategyState

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take no shortcut of a parent whose term or dual step the class replaces."""
        super().__init_subclass__(**kwargs)
        own = vars(cls).keys()
        if "penalty" in own and "penalty_gradient" not in own:
            cls.penalty_gradient = ConstraintStrategy.penalty_gradient
        if own & {"penalty", "dual_step"} and "row_by_row" not in own:
            cls.row_by_row = False

    @property
    def wraps_module(self) -> bool:
        """Whether the strategy is part of the module it trains."""
        return type(self).wrap is not ConstraintStrategy.wrap

    def wrap(
        self, module: nn.Module, head: str | None, *, X: Tensor, lower_bound: Tensor
    ) -> nn.Module:
        """Change the module before training; called once.

        Parameters
        ----------
        module : nn.Module
            The net, in scaled units.
        head : str or None
            Dotted name of its last ``nn.Linear``.
        X : torch.Tensor of shape (1, n_features)
            Any row, to look into the module with.
        lower_bound : torch.Tensor of shape (n_outputs,)
            Bound in scaled units; ``-inf`` leaves an output free.

        Returns
        -------
        nn.Module
            The module to train; the same one unless the strategy replaces it.
        """
        return module

    def initial_bias(self, lower_bound: Tensor) -> Tensor:
        """Return the head's bias at which the fit of a new module starts.

        Parameters
        ----------
        lower_bound : torch.Tensor of shape (n_outputs,)
            Bound in scaled units.

        Returns
        -------
        torch.Tensor of shape (n_outputs,)
            By default 0, the scaled mean of the targets.
        """
        return torch.zeros_like(lower_bound)

    def see_inputs(self, X: Tensor) -> None:
        """Look at all inputs, before each `setup`; default: do not.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, n_features)
            Of training rows and of those held out for early stopping.
        """

    def setup(self, y: Tensor, *, lower_bound: Tensor, alpha: float) -> None:
        """Allocate ``state_`` for one set of training rows.

        Parameters
        ----------
        y : torch.Tensor of shape (n_samples, n_bounded)
            Scaled targets of the outputs with a finite bound.
        lower_bound : torch.Tensor of shape (n_bounded,)
            Their bound, in scaled units.
        alpha : float
            Weight of the penalty term.
        """
        self.state_ = StrategyState(alpha=y.new_tensor(alpha))

    def take_over(self, previous: ConstraintStrategy) -> None:
        """Keep what does not belong to the rows of an earlier call; default: nothing.

        Parameters
        ----------
        previous : ConstraintStrategy
            Trained so far by `partial_fit` or a warm start; this one, set up for new
            rows or other parameters, goes on in its place.
        """

    @abstractmethod
    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return the constraint term of a batch, not reduced.

        Parameters
        ----------
        violation : torch.Tensor of shape (batch, n_bounded)
            ``g = lower_bound - f(x)``; at most 0 where the bound is obeyed.
        index : torch.Tensor of shape (batch,)
            Row numbers in the training set.

        Returns
        -------
        torch.Tensor of shape (batch, n_bounded)
            Differentiable in ``violation``.
        """

    def penalty_gradient(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return ``d penalty / d violation``; the default asks autograd.

        The net sends it back through the module. A closed form saves time, and must
        agree with `penalty`.

        Parameters
        ----------
        violation : torch.Tensor of shape (batch, n_bounded)
            Detached.
        index : torch.Tensor of shape (batch,)

        Returns
        -------
        torch.Tensor of shape (batch, n_bounded)
        """
        violation = violation.detach().requires_grad_()
        with torch.enable_grad():
            term = self.penalty(violation, index).sum()
        if not term.requires_grad:
            return torch.zeros_like(violation)
        return torch.autograd.grad(term, violation)[0]

    def dual_step(self, violation: Tensor, index: Tensor) -> None:
        """Move multipliers and slack of these rows, in place; default: none to move.

        Parameters
        ----------
        violation : torch.Tensor of shape (batch, n_bounded)
            Detached.
        index : torch.Tensor of shape (batch,)
            Row numbers in the training set; those of domains are negative.
        """

    def lowest_outputs(self, module: nn.Module) -> Tensor | None:
        """Return lower bounds of the outputs over whole domains; default: none to obey.

        Parameters
        ----------
        module : nn.Module
            The net as it is, in scaled units.

        Returns
        -------
        torch.Tensor of shape (n_domains, n_outputs) or None
            Differentiable in the weights.
        """
        return None

    def on_epoch_end(self, max_violation: float) -> None:
        """Adapt the schedule; default: nothing.

        Parameters
        ----------
        max_violation : float
            Largest violation over the batches of the epoch, in scaled units; that of
            domains counts too.
        """

    def multipliers(self, violation: Tensor, index: Tensor) -> Tensor:
        """Return the multipliers of these rows: ``d penalty / d violation``.

        Parameters
        ----------
        violation : torch.Tensor of shape (batch, n_bounded)
        index : torch.Tensor of shape (batch,)

        Returns
        -------
        torch.Tensor of shape (batch, n_bounded)
            In the mean convention and scaled units.
        """
        return self.penalty_gradient(violation, index)

    def finalize(self, module: nn.Module, head: str | None, targets) -> nn.Module:
        """Turn a copy of the trained module into the product, in the unit of y.

        Parameters
        ----------
        module : nn.Module
            Copy of the trained module; may be changed in place.
        head : str or None
            Dotted name of its last ``nn.Linear``.
        targets : sklpos.nets.units.TargetScale
            The scaling to fold into the head.

        Returns
        -------
        nn.Module
            Ends in a plain ``nn.Linear``, unless `needs_head` is False.
        """
        targets.fold(module.get_submodule(head))
        return module
