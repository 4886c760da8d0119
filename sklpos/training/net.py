"""The skorch layer: a regression net that trains under a constraint strategy."""

from __future__ import annotations

import torch
from skorch.callbacks import Callback, EpochTimer
from skorch.utils import is_dataset
from torch import Tensor, nn

from sklpos.nets.any_rows import tensor_rows
from sklpos.nets.modules import uncompiled
from sklpos.nets.precision import full_precision
from sklpos.strategies.base import ConstraintStrategy
from sklpos.training.callbacks import ConstraintHistory, MultiplierAscent
from sklpos.training.criterion import make_criterion
from sklpos.training.epoch import EACH_BATCH, EpochSteps, Listeners
from sklpos.training.epoch_loss import EpochLoss
from sklpos.training.fast import drop_gradients, is_fused, step_optimizer
from sklpos.training.hooks import tell_callbacks, tell_callbacks_after
from sklpos.training.loaders import BatchLoader
from sklpos.training.loading import LoadingNet
from sklpos.training.loop import fit_epochs, run_batches, step_randomness
from sklpos.training.print_log import QuietPrintLog
from sklpos.training.randomness import derive_seed
from sklpos.training.recordable import is_capturable
from sklpos.training.rows import Batch, RowDataset
from sklpos.training.run import TrainingRun
from sklpos.training.state import training_state
from sklpos.training.step import DivergenceError, compute_step, loss_per_output
from sklpos.training.storage import PlainState, net_vars, take_net_vars


class ConstrainedNet(PlainState, LoadingNet):
    """skorch net whose loss carries a strategy's constraint term.

    Works in scaled units. Between the forward pass and the loss it calls
    ``on_violation(net, violation, index)`` on every callback that has it, once per
    batch: the dual step comes before the step on the weights. If the strategy has a
    domain, ``on_domain_violation(net, violation)`` follows.

    The loop calls only the hooks that a callback defines. Adam and AdamW run
    torch's fused kernel on the CPU and on CUDA, unless ``optimizer__fused``,
    ``optimizer__foreach`` or ``optimizer__differentiable`` is given; it differs from
    the others by rounding only.

    Parameters
    ----------
    module : nn.Module
        Initialised, wrapped by the strategy; trained in place.
    constraint : StrategyConstraint
        Constraint on the training rows: an `OutputConstraint`, unless the strategy is
        part of the module.
    domain_constraint : DomainConstraint or None
    alpha : float
        Weight that the strategy was set up with; its schedule may have raised it.
    targets : TargetScale
        The scaling of the targets, with the bounds.
    head : str or None
        Dotted name of the last ``nn.Linear``; None if there is none.
    seed : int, default=0
        Determines the order of the batches, what dropout drops, and the initial weights
        of a criterion that has some.
    stochastic : bool, default=False
        Whether a training step draws from torch's global generator.
    autocast : {"bfloat16"} or None, default=None
        Lower dtype for the matrix products of training steps.
    cuda_graph : bool, default=False
        Whether training steps are recorded as a CUDA graph, see `StepGraphs`.
    criterion : type or callable
        See `make_criterion`.
    dataset, iterator_train, iterator_valid : type
        The rows and their loader.
    **kwargs : object
        Parameters of ``skorch.NeuralNetRegressor``.

    Attributes
    ----------
    constraint_, domain_constraint_ : OutputConstraint, DomainConstraint or None
        Modules of the net: ``save_params(f_constraint=...)``,
        ``Checkpoint(f_constraint=...)`` and pickling include their tensors.
    run_ : TrainingRun
    steps_ : EpochSteps
        The training steps of the current epoch.
    epoch_ : Epoch or None
        The results of the last epoch that was completed.
    """

    def __init__(
        self,
        module,
        *,
        constraint,
        domain_constraint,
        alpha,
        targets,
        head,
        seed=0,
        stochastic=False,
        autocast=None,
        cuda_graph=False,
        criterion=torch.nn.MSELoss,
        dataset=RowDataset,
        iterator_train=BatchLoader,
        iterator_valid=BatchLoader,
        **kwargs,
    ):
        self.constraint = constraint
        self.domain_constraint = domain_constraint
        self.alpha = alpha
        self.targets = targets
        self.head = head
        self.seed = seed
        self.stochastic = stochastic
        self.autocast = autocast
        self.cuda_graph = cuda_graph
        super().__init__(
            module,
            criterion=criterion,
            dataset=dataset,
            iterator_train=iterator_train,
            iterator_valid=iterator_valid,
            **kwargs,
        )

    # Building

    @property
    def _default_callbacks(self):
        # The history first: the ascent then runs the schedule, which may raise alpha.
        return [
            ("epoch_timer", EpochTimer()),
            ("train_loss", EpochLoss("train_loss", on_train=True)),
            ("valid_loss", EpochLoss("valid_loss")),
            ("print_log", QuietPrintLog()),
            ("constraint_history", ConstraintHistory()),
            ("multiplier_ascent", MultiplierAscent()),
        ]

    @property
    def named_callbacks(self) -> list[tuple]:
        """All callbacks with their names, before they are initialised."""
        return list(self._uniquely_named_callbacks())

    def initialize(self):
        """Initialise the parts of the net, and forget an earlier run."""
        self.forget_run()
        return super().initialize()

    def initialize_module(self):
        """Register the module and the constraints, which are initialised already."""
        super().initialize_module()
        self.constraint_ = self.constraint
        self.domain_constraint_ = self.domain_constraint
        return self

    def initialize_criterion(self):
        """Initialise the criterion without a reduction."""
        params = self.get_params_for("criterion")
        seed = derive_seed(self.seed, 8)
        self.criterion_ = make_criterion(self.criterion, params, seed=seed)
        return self

    def get_params_for_optimizer(self, prefix, named_parameters):
        """Choose the fused kernel, unless the user did, and one that graphs take."""
        args, kwargs = super().get_params_for_optimizer(prefix, named_parameters)
        if is_fused(self.optimizer, self.device, kwargs):
            kwargs["fused"] = True
        if self.cuda_graph and is_capturable(self.optimizer):
            kwargs["capturable"] = True
        return args, kwargs

    def torch_compile(self, module, name):
        """Compile the module and the criterion, but not the constraints."""
        trained = name not in ("constraint", "domain_constraint")
        return super().torch_compile(module, name) if trained else module

    def renew_constraints(
        self, constraint, domain_constraint, *, alpha, gain=1.0
    ) -> None:
        """Replace the constraints, to train further under them or on other rows.

        Parameters
        ----------
        constraint : StrategyConstraint
        domain_constraint : DomainConstraint or None
            Continues from the earlier one, if there is one.
        alpha : float
            Weight that the strategy was set up with.
        gain : float or ndarray of shape (n_outputs,), default=1.0
            Former unit of the targets, over the present one.
        """
        before = self.domain_constraint_
        if domain_constraint is not None and before is not None:
            domain_constraint.take_over(before, gain)
        self.alpha = alpha
        if domain_constraint is not None:
            domain_constraint = domain_constraint.to(self.device)
        # skorch registers an attribute as a module only in this context.
        with self._current_init_context("module"):
            self.constraint_ = constraint.to(self.device)
            self.domain_constraint_ = domain_constraint
        self.constraint = self.constraint_
        self.domain_constraint = self.domain_constraint_
        # Infeasible rows and snapshots belong to the rows of the earlier constraint.
        for _, callback in self.callbacks_:
            if isinstance(callback, MultiplierAscent):
                callback.initialize()

    def renew_optimizer(self, optimizer) -> None:
        """Replace the optimizer, to train further with it.

        Parameters
        ----------
        optimizer : type
        """
        self.optimizer = optimizer
        self._initialize_optimizer()

    @property
    def strategy_(self) -> ConstraintStrategy:
        """The strategy, with its state."""
        return self.constraint_.strategy

    @property
    def plain_module_(self) -> nn.Module:
        """The module behind ``torch.compile``."""
        return uncompiled(self.module_)

    @property
    def has_bias(self) -> bool:
        """Whether the head can be a constant; True if there is none."""
        # An output activation has a module of its own around the head.
        if self.head is None or not self.strategy_.needs_head:
            return True
        return self.plain_module_.get_submodule(self.head).bias is not None

    @property
    def may_be_infeasible(self) -> bool:
        """Whether it is possible that no head obeys the bounds."""
        # A head with a bias can be constant, and the head of zeros obeys a bound of 0.
        bounds = self.targets.scaled_bounds
        return not self.has_bias and bool((bounds.violation(0.0) > 0).any())

    def plain_vars(self) -> dict:
        """Attributes to store, see `net_vars`.

        Returns
        -------
        dict
        """
        return net_vars(self)

    def take_vars(self, state: dict) -> None:
        """Set the attributes that `plain_vars` returned, see `take_net_vars`.

        Parameters
        ----------
        state : dict
        """
        take_net_vars(self, state)

    # Data

    def get_dataset(self, X, y=None, weight=None):
        """Wrap arrays or tensors into a `RowDataset`.

        Parameters
        ----------
        X : array-like, sparse matrix of shape (n_samples, n_features) or Dataset
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
        X = tensor_rows(X, dtype)
        y = torch.zeros(len(X), len(self.targets.scale)) if y is None else y
        weight = torch.ones(len(X), dtype=dtype) if weight is None else weight
        rows = (X, torch.as_tensor(y, dtype=dtype), torch.as_tensor(weight))
        return self.dataset(*rows, **self.get_params_for("dataset"))

    def get_iterator(self, dataset, training=False):
        """Continue the order of the batches where the history ends, on the device."""
        rows = dataset
        if training:
            dataset = self.run_.world.all_rows(rows)
        iterator = super().get_iterator(dataset, training=training)
        iterator.device = self.device
        if training:
            iterator.seed = self.seed
            iterator.epoch = len(self.history)
            iterator.adapt_to(self.plain_module_, rows[[0]].X.to(self.device))
        return iterator

    # Training

    def partial_fit(self, X, y=None, classes=None, epochs=None, **fit_params):
        """Train further, or resume from a checkpoint, see `fit_epochs`."""
        # skorch's own method swallows Ctrl-C without undoing the epoch that it cuts.
        if not self.initialized_:
            self.initialize()
        with self.run_.resources:
            return fit_epochs(self, X, y, epochs, **fit_params)

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """Go through the batches once, see `run_batches`."""
        if iterator is not None:
            # Once per epoch; the steps then check for a change by a callback only.
            super()._set_training(training)
            run_batches(self, iterator, training, prefix, step_fn, **fit_params)

    def forget_run(self) -> None:
        """Drop the state that is needed only while training runs."""
        # None of them is a module, which is what skorch looks for in its `__setattr__`.
        vars(self).update(run_=TrainingRun(), steps_=EpochSteps(), epoch_=None)

    def train_step(self, batch: Batch, **fit_params):
        """Make one step on the weights, reproducibly, after one dual step."""
        # The optimizer may evaluate a batch several times, but it has one dual step.
        self.steps_.dual_step_due = True
        with step_randomness(self):
            step = super().train_step(batch, **fit_params)
        self.steps_.add(self, batch, step)
        return step

    def train_step_single(self, batch: Batch, **fit_params):
        """Compute the gradient and the loss, see `compute_step`."""
        self._set_training(True)
        return compute_step(self, batch, **fit_params)

    def validation_step(self, batch: Batch, **fit_params):
        """Compute the weighted mean loss; validation rows have no multipliers."""
        self._set_training(False)
        with torch.no_grad():
            with full_precision():
                y_pred = self.infer(batch.X, **fit_params)
            loss = self.objective(y_pred, batch.y, batch.loss_weight)
            loss = self.run_.world.mean(loss)
        return {"loss": loss, "y_pred": y_pred}

    def objective(self, y_pred: Tensor, y_true: Tensor, weight: Tensor) -> Tensor:
        """Weighted mean loss over rows and outputs.

        Parameters
        ----------
        y_pred, y_true : torch.Tensor of shape (batch, n_outputs)
        weight : torch.Tensor of shape (batch, 1)

        Returns
        -------
        torch.Tensor
        """
        loss = loss_per_output(self, y_pred, y_true)
        weighted = weight.to(loss.device) * loss
        # One of several processes may have no row in the batch, which would be 0 / 0.
        return weighted.mean() if len(weighted) else weighted.sum()

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Plain mean loss, without weights and constraint term."""
        return loss_per_output(self, y_pred, y_true).mean()

    def divergence(self, what: str, further: str = "") -> DivergenceError:
        """Make the error that ends training.

        Parameters
        ----------
        what : str
            What diverged, as the beginning of a sentence.
        further : str, optional
            What else to lower.

        Returns
        -------
        DivergenceError
        """
        return DivergenceError(
            f"{what} epoch {len(self.history)}; training diverged: lower {further}lr "
            f"(now {self.lr}) or alpha, or standardise X."
        )

    # Callbacks

    def listeners(self, hook: str) -> list:
        """Find methods of the net, then of its callbacks, that define a hook.

        Parameters
        ----------
        hook : str

        Returns
        -------
        list of callable
        """
        if self.listeners_ is None:
            self.listeners_ = Listeners(self, (ConstrainedNet, Callback))
        return self.listeners_.of(hook)

    def notify(self, method_name, **cb_kwargs):
        """Call a hook of the net and its callbacks; in batches, only if it is defined.

        Outside of batches, a hook ``after_*`` follows, such as ``after_epoch_end``, for
        callbacks that depend on what the others did.
        """
        if method_name in EACH_BATCH:
            for listener in self.listeners(method_name):
                listener(self, **cb_kwargs)
            return
        # Looked up again, as a callback may define a hook at any time.
        vars(self)["listeners_"] = None
        getattr(self, method_name)(self, **cb_kwargs)
        stop = tell_callbacks(self, method_name, **cb_kwargs)
        if method_name == "on_epoch_end":
            # The epoch is complete, so an interrupt has nothing to undo.
            self.run_.undo = None
        if stop is not None:
            # No ``after_epoch_end``: a checkpoint that resumes there would miss the
            # request, and train on.
            raise stop
        tell_callbacks_after(self, method_name, **cb_kwargs)

    def on_batch_begin(self, net, **kwargs):
        """Do nothing: the loop writes the record of the batch."""

    def on_epoch_begin(self, net, **kwargs):
        """Keep the training state, to which Ctrl-C returns."""
        run = self.run_
        run.undo = training_state(self, run.copies) if run.keeps_state else {}
        super().on_epoch_begin(net, **kwargs)

    def _set_training(self, training=True):
        """Switch the modes only if a callback has switched them during the epoch."""
        if self.module_.training != training:
            super()._set_training(training)

    def _zero_grad_optimizer(self, set_to_none=None):
        for name in self._optimizers:
            drop_gradients(getattr(self, f"{name}_"))

    def _step_optimizer(self, step_fn):
        for name in self._optimizers:
            # There is one optimizer, unless a subclass has more.
            known = self.steps_.groups if name == "optimizer" else None
            step_optimizer(getattr(self, f"{name}_"), step_fn, known)
