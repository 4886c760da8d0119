"""The skorch layer: a regression net that trains under a constraint strategy."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import ClassVar

import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, Checkpoint, EarlyStopping
from skorch.utils import is_dataset, to_tensor
from torch import Tensor

from sklpos.callbacks import ConstraintHistory, MultiplierAscent, QuietPrintLog
from sklpos.data import Batch, BatchLoader, RowDataset
from sklpos.seeding import borrowed_generator, derive_seed


class DivergenceError(ValueError):
    """The loss, or a weight, is no longer a finite number."""


class ConstrainedNet(NeuralNetRegressor):
    """skorch net whose loss carries a strategy's constraint term.

    Works in scaled units. Between the forward pass and the loss it calls
    ``on_violation(net, violation, index)`` on every callback that has it, once per
    batch: the dual step comes before the step on the weights. A strategy's domains
    are further rows of it, with negative numbers.

    Parameters
    ----------
    module : nn.Module
        Initialised, wrapped by the strategy; trained in place.
    strategy : ConstraintStrategy
        Set up for the training rows.
    alpha : float
        What the strategy was set up with; its schedule may have raised it since.
    targets : TargetScale
        The scaling of the targets, with the bound.
    head : str or None
        Dotted name of the last ``nn.Linear``; None if there is none.
    seed : int, default=0
        Decides the order of the batches and what dropout drops.
    stochastic : bool, default=False
        Whether a training step draws from torch's global generator.
    criterion : type or callable
        Takes ``reduction="none"``.
    dataset, iterator_train, iterator_valid : type
        The rows and their loader.
    **kwargs : object
        Parameters of ``skorch.NeuralNetRegressor``.

    Attributes
    ----------
    strategy_ : ConstraintStrategy
        The strategy, alive.
    constraint_ : StrategyState
        Its tensors, as a module of the net: ``save_params(f_constraint=...)``,
        ``Checkpoint(f_constraint=...)`` and pickling include them.
    """

    # Pickled in one go, so that references between them survive.
    cuda_dependent_attributes_: ClassVar[list[str]] = [
        "module",
        "criterion",
        "strategy",
        "product_",
    ]
    prefixes_: ClassVar[list[str]] = [*NeuralNetRegressor.prefixes_, "product"]

    def __init__(
        self,
        module,
        *,
        strategy,
        alpha,
        targets,
        head,
        seed=0,
        stochastic=False,
        criterion=torch.nn.MSELoss,
        dataset=RowDataset,
        iterator_train=BatchLoader,
        iterator_valid=BatchLoader,
        **kwargs,
    ):
        self.strategy = strategy
        self.alpha = alpha
        self.targets = targets
        self.head = head
        self.seed = seed
        self.stochastic = stochastic
        super().__init__(
            module,
            criterion=criterion,
            dataset=dataset,
            iterator_train=iterator_train,
            iterator_valid=iterator_valid,
            **kwargs,
        )

    @property
    def _default_callbacks(self):
        own = [(n, cb) for n, cb in super()._default_callbacks if n != "print_log"]
        return [
            *own,
            ("print_log", QuietPrintLog()),
            ("constraint_history", ConstraintHistory()),  # before the schedule moves
            ("multiplier_ascent", MultiplierAscent()),
        ]

    def initialize_module(self):
        """Take the module as it is; register the strategy's tensors beside it."""
        super().initialize_module()
        self.strategy_ = self.strategy
        self.constraint_ = self.strategy.state_
        return self

    def initialize_criterion(self):
        """Initialise the criterion without a reduction."""
        try:
            super().initialize_criterion()
        except TypeError as error:
            raise TypeError(
                f"criterion={self.criterion!r} must be made with reduction='none', as "
                f"the losses of torch.nn are, and its own parameters: {error}"
            ) from error
        reduction = getattr(self.criterion_, "reduction", None)
        if reduction != "none":
            raise ValueError(
                f"criterion={self.criterion!r} has reduction={reduction!r}, but one "
                "loss for every row and output is needed; pass reduction='none'."
            )
        return self

    def torch_compile(self, module, name):
        """Compile everything but the strategy's tensors."""
        return module if name == "constraint" else super().torch_compile(module, name)

    @property
    def plain_module_(self) -> torch.nn.Module:
        """The module behind ``torch.compile``."""
        return getattr(self.module_, "_orig_mod", self.module_)

    @property
    def may_be_infeasible(self) -> bool:
        """Whether no head may obey the bound: one with a bias can, and 0 obeys 0."""
        if self.head is None or not (self.targets.bound > 0).any():
            return False
        return self.plain_module_.get_submodule(self.head).bias is None

    def snapshot(self):
        """Return what `restore` needs to undo training."""
        owners = [self, *(callback for _, callback in self.callbacks_)]
        attributes = [(owner, dict(vars(owner))) for owner in owners]
        parts = (self.module_, self.constraint_, self.optimizer_)
        states = [(part, copy.deepcopy(part.state_dict())) for part in parts]
        return attributes, states, len(self.history)

    def restore(self, snapshot) -> None:
        """Undo everything since the `snapshot`, new multipliers and optimizers too."""
        attributes, states, n_epochs = snapshot
        for owner, values in attributes:
            vars(owner).clear()
            vars(owner).update(values)
        for part, state in states:
            part.load_state_dict(state)
        del self.history[n_epochs:]

    def renew_constraint(self) -> None:
        """Register the tensors of a strategy that was set up anew."""
        self.constraint_ = self.strategy_.state_.to(self.device)
        for _, callback in self.callbacks_:
            if isinstance(callback, MultiplierAscent):
                callback.initialize()

    def get_dataset(self, X, y=None, weight=None):
        """Wrap arrays or tensors into a `RowDataset`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or Dataset
        y : array-like of shape (n_samples, n_outputs), optional
            In scaled units.
        weight : array-like of shape (n_samples,), optional

        Returns
        -------
        RowDataset
        """
        if is_dataset(X):
            return X
        dtype = next(self.module_.parameters()).dtype
        X = torch.as_tensor(X, dtype=dtype)
        y = X.new_zeros(len(X), len(self.targets.scale)) if y is None else y
        weight = X.new_ones(len(X)) if weight is None else weight
        rows = (X, torch.as_tensor(y, dtype=dtype), torch.as_tensor(weight))
        return self.dataset(*rows, **self.get_params_for("dataset"))

    def get_iterator(self, dataset, training=False):
        """Continue the order of the batches where the history ends."""
        iterator = super().get_iterator(dataset, training=training)
        if training:
            iterator.seed, iterator.epoch = self.seed, len(self.history)
        return iterator

    def violation(self, y_pred: Tensor) -> Tensor:
        """Return ``lower_bound - y_pred`` of the bounded outputs, in scaled units.

        Parameters
        ----------
        y_pred : torch.Tensor of shape (batch, n_outputs)

        Returns
        -------
        torch.Tensor of shape (batch, n_bounded)
        """
        bounded = self.targets.bounded
        bound = torch.as_tensor(self.targets.bound[bounded], dtype=y_pred.dtype)
        if not bounded.all():
            y_pred = y_pred[:, torch.as_tensor(bounded, device=y_pred.device)]
        return bound.to(y_pred.device) - y_pred

    def domain_violation(self) -> tuple[Tensor, Tensor] | None:
        """Return the violation over the strategy's domains, and their row numbers.

        Returns
        -------
        violation : torch.Tensor of shape (n_domains, n_bounded)
            In scaled units, differentiable in the weights.
        index : torch.Tensor of shape (n_domains,)
            -1, -2, ...: the last rows of the strategy's tensors.
        """
        lowest = self.strategy_.lowest_outputs(self.plain_module_)
        if lowest is None:
            return None
        return self.violation(lowest), -1 - torch.arange(len(lowest)).to(lowest.device)

    def objective(self, y_pred: Tensor, y_true: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted mean loss over rows and outputs."""
        loss = self.criterion_(y_pred, to_tensor(y_true, device=self.device))
        if loss.shape != y_pred.shape:
            raise ValueError(
                f"criterion={self.criterion!r} must return one loss for every row and "
                f"output, of shape {tuple(y_pred.shape)}; it returned one of shape "
                f"{tuple(loss.shape)}."
            )
        return (to_tensor(weight, device=self.device) * loss).mean()

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Return the plain mean loss, without weights and constraint term."""
        return self.objective(y_pred, y_true, torch.ones_like(y_pred))

    def train_step(self, batch, **fit_params):
        """Make one step on the weights, reproducibly, after one dual step."""
        self._dual_step_due = True  # once a batch: LBFGS calls its closure again
        with self._randomness():
            step = super().train_step(batch, **fit_params)
        if not torch.isfinite(step["loss"]):
            raise self._divergence(f"the loss became {step['loss'].item()} in")
        return step

    def train_step_single(self, batch: Batch, **fit_params):
        """Compute predictions, violation and loss, and the gradient.

        Returns
        -------
        dict
            ``loss`` = ``objective`` + ``constraint``; ``y_pred``; ``violation``.
        """
        self._set_training(True)
        y_pred = self.infer(batch[0], **fit_params)
        violation = self.violation(y_pred)
        constraint = self._constraint(batch, violation) / y_pred.numel()
        objective = self.objective(y_pred, batch[1], batch.weight)
        loss = objective + constraint
        loss.backward()
        return {
            "loss": loss,
            "y_pred": y_pred,
            "violation": violation.detach(),
            "objective": objective.detach(),
            "constraint": constraint.detach(),
        }

    def _constraint(self, batch: Batch, violation: Tensor) -> Tensor:
        """Sum the strategy's term over rows and domains, after the dual step.

        A domain weighs as much as all rows of the batch.
        """
        index = to_tensor(batch.index, device=self.device)
        weight = to_tensor(batch.weight, device=self.device)
        if domains := self.domain_violation():
            violation = torch.cat([violation, domains[0]])
            index = torch.cat([index, domains[1]])
            whole = weight.new_full((len(domains[1]), 1), len(weight))
            weight = torch.cat([weight, whole])
        self._notify_violation(violation.detach(), index)
        return (weight * self.strategy_.penalty(violation, index)).sum()

    def validation_step(self, batch: Batch, **fit_params):
        """Return the weighted mean loss; validation rows have no multipliers."""
        self._set_training(False)
        with torch.no_grad():
            y_pred = self.infer(batch[0], **fit_params)
            loss = self.objective(y_pred, batch[1], batch.weight)
        return {"loss": loss, "y_pred": y_pred}

    def notify(self, method_name, **cb_kwargs):
        """Tell the callbacks; what one of them rewinds, rewind with it."""
        getattr(self, method_name)(self, **cb_kwargs)
        if method_name == "on_train_begin":
            self.constraint_best_ = {}
        for name, callback in self.callbacks_:
            getattr(callback, method_name)(self, **cb_kwargs)
            if getattr(callback, "load_best", False):
                self._follow(name, callback, method_name)
        if method_name == "on_train_end":
            self.constraint_best_ = {}
            self._check_weights()

    def _follow(self, name: str, callback: Callback, method_name: str) -> None:
        """Keep and rewind the multipliers where a callback does so with the weights."""
        if method_name == "on_epoch_end" and self._keeps_this_epoch(callback):
            state = self.constraint_.state_dict()
            self.constraint_best_[name] = copy.deepcopy(state)
        elif method_name == "on_train_end" and name in self.constraint_best_:
            self.constraint_.load_state_dict(self.constraint_best_[name])

    def _keeps_this_epoch(self, callback: Callback) -> bool:
        epoch = self.history[-1]
        if isinstance(callback, EarlyStopping):
            return callback.best_epoch_ == epoch["epoch"]
        return isinstance(callback, Checkpoint) and epoch.get(callback.event_name)

    def _check_weights(self) -> None:
        """Raise if the last step, whose loss nobody saw, left no finite weights."""
        if not all(weight.isfinite().all() for weight in self.module_.parameters()):
            raise self._divergence("a weight is no longer a finite number after")

    def _divergence(self, what: str) -> DivergenceError:
        return DivergenceError(
            f"{what} epoch {len(self.history)}; training diverged: lower lr (now "
            f"{self.lr}) or alpha, or standardise X."
        )

    def _notify_violation(self, violation: Tensor, index: Tensor) -> None:
        if not self._dual_step_due:
            return
        self._dual_step_due = False
        for _, callback in self.callbacks_:
            if hook := getattr(callback, "on_violation", None):
                hook(self, violation, index)

    def _randomness(self):
        if not self.stochastic:
            return nullcontext()
        batch = len(self.history[-1]["batches"])
        seed = derive_seed(self.seed, 1, len(self.history), batch)
        return borrowed_generator(seed, self.device)
