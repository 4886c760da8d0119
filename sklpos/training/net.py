"""The skorch layer: a regression net that trains under a constraint strategy."""

from __future__ import annotations

import copy
import warnings
from typing import ClassVar

import numpy as np
import torch
from skorch.exceptions import DeviceWarning
from skorch.helper import predefined_split
from skorch.utils import is_dataset
from torch import nn

from sklpos.nets.placement import check_device
from sklpos.training.callbacks import ConstraintHistory, MultiplierAscent
from sklpos.training.print_log import QuietPrintLog
from sklpos.training.rewinding import RewindingNet
from sklpos.training.rows import (
    Batch,
    BatchLoader,
    RowDataset,
    TrainingRows,
    spread_out,
)
from sklpos.training.states import load_state
from sklpos.training.storage import PlainState

_MADE_ANEW = ("virtual_params_", "listeners_")  # they hold functions and methods


class ConstrainedNet(PlainState, RewindingNet):
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

    prefixes_: ClassVar[list[str]] = [*RewindingNet.prefixes_, "product"]

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
        """Compile what is trained: not the strategy's tensors, nor the product."""
        trained = name not in ("constraint", "product")
        return super().torch_compile(module, name) if trained else module

    @property
    def may_be_infeasible(self) -> bool:
        """Whether no head may obey the bound: one with a bias can, and 0 obeys 0."""
        if self.head is None or not (self.targets.bound > 0).any():
            return False
        return self.plain_module_.get_submodule(self.head).bias is None

    def _plain_vars(self) -> dict:
        """Return the attributes to store, plain where the net holds functions.

        Returns
        -------
        dict
            No module is compiled; of the optimizer there is the ``state_dict``.
        """
        state = {k: v for k, v in vars(self).items() if k not in _MADE_ANEW}
        if self.initialized_:
            state["module_"] = self.plain_module_
            state["criterion_"] = getattr(self.criterion_, "_orig_mod", self.criterion_)
            state["optimizer_"] = self.optimizer_.state_dict()
        return state

    def _take_vars(self, state: dict) -> None:
        """Set the attributes, move them to the device, and make an optimizer.

        Parameters
        ----------
        state : dict
            From `_plain_vars`.
        """
        vars(self).update(state, virtual_params_={}, listeners_={})
        if not self.initialized_:
            return
        self.device = _device_here(self.device)
        for name in ("module", "constraint", "criterion", "product"):
            part = state.get(f"{name}_")
            if isinstance(part, torch.nn.Module):
                part = self.torch_compile(part.to(self.device), name)
                vars(self)[f"{name}_"] = part
        self.initialize_virtual_params()
        self.initialized_ = False  # or skorch tells that it starts again
        self._initialize_optimizer()
        self.initialized_ = True
        load_state(self.optimizer_, state["optimizer_"])

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

    def some_rows(self, rows, number: int) -> list[np.ndarray]:
        """Return rows from all over the training set; others may have some of them.

        Parameters
        ----------
        rows : RowDataset
            Those of this net.
        number : int
            At most.

        Returns
        -------
        list of ndarray
            X, y and weight, of shapes (n_rows, n_features), (n_rows, n_outputs) and
            (n_rows,).
        """
        batch = rows[spread_out(len(rows), number)]
        return [part.numpy(force=True) for part in (*batch, batch.weight.ravel())]

    def get_iterator(self, dataset, training=False):
        """Continue the order of the batches where the history ends, on the device."""
        iterator = super().get_iterator(dataset, training=training)
        iterator.device = self.device
        if training:
            iterator.seed, iterator.epoch = self.seed, len(self.history)
        return iterator

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Return the plain mean loss, without weights and constraint term."""
        return self.objective(y_pred, y_true, torch.ones_like(y_pred))

    def validation_step(self, batch: Batch, **fit_params):
        """Return the weighted mean loss; validation rows have no multipliers."""
        self._set_training(False)
        with torch.no_grad():
            y_pred = self.infer(batch[0], **fit_params)
            loss = self.objective(y_pred, batch[1], batch.weight)
        return {"loss": loss, "y_pred": y_pred}


def _device_here(device: str) -> str:
    """Return the device if this machine has it, else the CPU, with a warning."""
    try:
        check_device(device)
    except ValueError:
        warnings.warn(
            f"the model was stored on device={device!r}, which cannot be used on this "
            "machine; it is loaded on the CPU.",
            DeviceWarning,
            stacklevel=2,
        )
        return "cpu"
    return device


def make_product(net) -> nn.Module:
    """Return a copy of the trained module in the unit of y, with a plain head.

    Parameters
    ----------
    net : ConstrainedNet

    Returns
    -------
    nn.Module
        In eval mode; not repaired.
    """
    module = copy.deepcopy(net.plain_module_)
    with torch.no_grad():
        module = net.strategy_.finalize(module, net.head, net.targets)
    return module.eval()


def run_epochs(
    net: ConstrainedNet, rows: TrainingRows, epochs: int, callbacks: list
) -> int:
    """Train for some epochs; Ctrl-C and early stopping end it quietly.

    Parameters
    ----------
    net : ConstrainedNet
    rows : TrainingRows
    epochs : int
    callbacks : list of (str, Callback)
        For this call only.

    Returns
    -------
    int
        The number of epochs run.
    """
    before, own = len(net.history), net.callbacks_
    net.train_split = predefined_split(rows.valid) if rows.valid else None
    net.callbacks_ = [*own, *callbacks]
    try:
        net.partial_fit(rows.train, epochs=epochs)
    finally:
        net.callbacks_ = own
        net.train_split = None  # the net must not carry the data
    return len(net.history) - before
