"""Base class of constraint strategies: parameters, a term, and steps of its state."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sklpos.docstrings import complete_docstrings
from sklpos.nets.hints import did_you_mean, shown
from sklpos.nets.rules import Rule, check_rules
from sklpos.strategies.domain_term import DomainTerm

GUARANTEES = ("none", "training", "domain", "everywhere")


class StrategyState(nn.Module):
    """Tensors of a strategy, as buffers that are saved, moved and pickled together.

    Parameters
    ----------
    **buffers : torch.Tensor
        One buffer per name.
    """

    def __init__(self, **buffers: Tensor):
        super().__init__()
        for name, value in buffers.items():
            self.register_buffer(name, value)


class ConstraintStrategy(ABC):
    """Base class of the strategies that make a net obey the bounds of its outputs.

    A strategy sees *columns* of violations ``g``, one per bound of an output, scaled
    and signed so that a bound is obeyed if ``g <= 0``; it knows neither the bounds nor
    the predictions. Training minimises

    ``mean_ij [ loss_ij + penalty(g, index)_ij ]``

    over rows i and outputs j. A strategy supplies the term and moves its own
    multipliers in `dual_step`. Hyper-parameters go into ``__init__``; every tensor
    goes into ``state_``, which `setup` allocates. `OutputConstraint` makes columns of
    predictions and uses a strategy in any training loop.

    Attributes
    ----------
    state_ : StrategyState
        Buffers; always holds ``alpha``, the weight of the penalty term (0-dim).

    Notes
    -----
    ``guarantee`` says what holds after training, before any repair: ``"none"`` (a
    soft strategy), ``"training"`` (the optimiser's limit on a convex problem is
    feasible on the training rows), ``"domain"`` (and on every input of a domain) or
    ``"everywhere"`` (by construction, for every input whose sums do not overflow). For
    ``"domain"`` the attributes `domain` and `margin` say which, in the words of the
    estimator's `certify`; after `fit` the head is repaired until that is proved.
    """

    guarantee: ClassVar[str]
    #: The module must end in a plain ``nn.Linear``.
    needs_head: ClassVar[bool] = True
    #: ``alpha = 0`` would stop the dual step (or the schedule), so it is refused.
    needs_alpha: ClassVar[bool] = False
    #: ``alpha`` has an effect.
    uses_alpha: ClassVar[bool] = True
    #: The weights of the head must keep their signs, so one factor corrects its mean.
    keeps_signs: ClassVar[bool] = False
    #: Outputs in an order, such as quantiles, stay in it for every input.
    keeps_order: ClassVar[bool] = False
    #: Multipliers or a schedule need the violations that `dual_step` is given.
    needs_dual_step: ClassVar[bool] = True
    #: Rules for parameters by name, checked before each fit.
    rules: ClassVar[Mapping[str, Rule]] = {}
    #: `multipliers` is only a bound; estimate them from the stationarity condition.
    estimates_multipliers: ClassVar[bool] = False

    #: Change of the unit of y, relative to it, that a stream leaves alone.
    unit_tolerance: ClassVar[float] = 0.1

    state_: StrategyState

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a subclass that replaces the term but not its slope."""
        super().__init_subclass__(**kwargs)
        complete_docstrings(cls)
        by_autograd = cls.term_and_slope is ConstraintStrategy.term_and_slope
        term, slope = (_owner(cls, name) for name in ("penalty", "term_and_slope"))
        # `issubclass` would fail, because the abstract class is not complete yet.
        if not by_autograd and term not in slope.__mro__:
            raise TypeError(
                f"{cls.__name__} replaces penalty but inherits term_and_slope, which "
                "training follows: define term_and_slope as well, or set it to "
                "ConstraintStrategy.term_and_slope, which asks autograd."
            )

    def setup(self, room: Tensor, *, alpha: float) -> None:
        """Allocate ``state_`` for one set of training rows.

        Parameters
        ----------
        room : torch.Tensor of shape (n_samples, n_columns)
            Minus the violation of the targets: how far they are inside the bounds.
        alpha : float
            Weight of the penalty term.
        """
        self.state_ = StrategyState(alpha=room.new_tensor(alpha))

    def domain_term(self, X: Tensor) -> DomainTerm | None:
        """Requirement on a whole domain; by default there is none.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, n_features)
            Inputs of the training rows and of those held out for early stopping.

        Returns
        -------
        DomainTerm or None
        """
        return None

    @abstractmethod
    def penalty(self, violation: Tensor, index: Tensor) -> Tensor:
        """Constraint term of a batch, not reduced.

        Parameters
        ----------
        violation : torch.Tensor of shape (batch, n_columns)
            At most 0 where a bound is obeyed.
        index : torch.Tensor of shape (batch,)
            Row numbers in the training set.

        Returns
        -------
        torch.Tensor of shape (batch, n_columns)
            Differentiable in ``violation``.
        """

    def term_and_slope(self, violation: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Term and its derivative in the violation, by default from autograd.

        A training step needs both, and a closed form shares work between them. It must
        agree with `penalty`.

        Parameters
        ----------
        violation : torch.Tensor of shape (batch, n_columns)
            Detached.
        index : torch.Tensor of shape (batch,)

        Returns
        -------
        term, slope : torch.Tensor of shape (batch, n_columns)
        """
        with torch.inference_mode(False), torch.enable_grad():
            # A tensor made in inference mode cannot require a gradient, its copy can.
            violation = violation.detach().clone().requires_grad_()
            term = self.penalty(violation, index)
            # A constant term, such as zeros, is not connected to the violation.
            if not term.requires_grad:
                return term, torch.zeros_like(violation)
            # Each entry depends on its own violation only, so the gradient of the sum
            # holds every single derivative.
            (slope,) = torch.autograd.grad(term.sum(), violation)
        return term.detach(), slope

    def dual_step(self, violation: Tensor, index: Tensor) -> None:
        """Move multipliers and slack of these rows in place; by default, none exist.

        Parameters
        ----------
        violation : torch.Tensor of shape (batch, n_columns)
            Detached.
        index : torch.Tensor of shape (batch,)
            Row numbers in the training set, each at most once.
        """
        return None

    def on_epoch_end(self, max_violation: float) -> None:
        """Adapt the schedule; by default there is none.

        Parameters
        ----------
        max_violation : float
            Largest violation over the batches of the epoch, at least 0.
        """
        return None

    def multipliers(self, violation: Tensor, index: Tensor) -> Tensor:
        """Multipliers of these rows: ``d penalty / d violation``.

        Parameters
        ----------
        violation : torch.Tensor of shape (batch, n_columns)
        index : torch.Tensor of shape (batch,)

        Returns
        -------
        torch.Tensor of shape (batch, n_columns)
            In the mean convention and scaled units.
        """
        return self.term_and_slope(violation.detach(), index)[1]

    # Parameters are those of __init__, as in scikit-learn, whose ``clone`` and grids
    # over ``strategy__name`` work with them; scikit-learn itself is not loaded.

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        # The signature of `object.__init__` is (*args, **kwargs), not an empty one.
        if cls.__init__ is object.__init__:
            return {}
        _, *parameters = inspect.signature(cls.__init__).parameters.values()
        return {parameter.name: parameter.default for parameter in parameters}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name.

        Parameters
        ----------
        deep : bool, default=True
            Not used, because no parameter has parameters itself.

        Returns
        -------
        dict
        """
        return {name: getattr(self, name) for name in self._defaults()}

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name.

        Parameters
        ----------
        **params : object

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a name is not a parameter.
        """
        known = self._defaults()
        for name, value in params.items():
            if name not in known:
                listed = f"; it has {', '.join(known)}." if known else "."
                raise ValueError(
                    f"Invalid parameter {shown(name)} for {type(self).__name__}"
                    f"{did_you_mean(name, known) or listed}"
                )
            setattr(self, name, value)
        return self

    def check_params(self) -> None:
        """Raise ValueError if a parameter does not obey its rule."""
        check_rules(self.get_params(), self.rules, type(self).__name__)

    def unfitted(self) -> Self:
        """Copy with the same parameters and without state.

        Returns
        -------
        ConstraintStrategy
        """
        return type(self)(**copy.deepcopy(self.get_params(deep=False)))

    def __repr__(self) -> str:
        changed = [
            f"{name}={getattr(self, name)!r}"
            for name, default in self._defaults().items()
            if getattr(self, name) is not default and getattr(self, name) != default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"


def _owner(cls: type, name: str) -> type:
    """The class that defines an attribute."""
    return next(base for base in cls.__mro__ if name in vars(base))
