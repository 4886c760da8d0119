"""The scikit-learn layer: `PositiveOutputRegressor`."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted

from sklpos.estimator.build import (
    built_in_params,
    check_built_in_params,
    continue_net,
    new_net,
)
from sklpos.estimator.checks import check_inputs, check_training_data
from sklpos.estimator.documentation import DocumentationLinkMixin
from sklpos.estimator.fitted import data_range, make_domain, read_model
from sklpos.estimator.parameters import CONSTRAINTS, NetParamsMixin
from sklpos.estimator.proofs import CertificatesMixin
from sklpos.estimator.repairs import EnforceMixin
from sklpos.estimator.row_summary import summarise_training
from sklpos.estimator.sklearn_callbacks import (
    CallbackSupportMixin,
    EpochBridge,
    with_callbacks,
)
from sklpos.nets.modules import MLP
from sklpos.nets.rows import feature_source, predict_rows
from sklpos.repair.head import head_objective
from sklpos.repair.provable import UnprovableError
from sklpos.repair.summary import warn_of_error
from sklpos.training.checkpoint import check_repeatable
from sklpos.training.kkt import evaluate_training_state
from sklpos.training.net import make_product, run_epochs
from sklpos.training.randomness import draw_seed
from sklpos.training.storage import PlainState


class PositiveOutputRegressor(
    CertificatesMixin,
    EnforceMixin,
    NetParamsMixin,
    DocumentationLinkMixin,
    PlainState,
    CallbackSupportMixin,
    RegressorMixin,
    BaseEstimator,
):
    """Neural-network regression whose outputs obey a lower bound.

    The weights of a net that ends in a plain ``nn.Linear`` are guided, by a constraint
    strategy, to predictions of at least `lower_bound`; then the head is repaired so
    that every training prediction obeys it exactly, and the mean prediction is the
    mean target.

    Parameters
    ----------
    module : type, callable or nn.Module, default=MLP
        A class or callable receives ``n_features_in`` and ``n_outputs`` if its
        signature has them. An instance is copied, and may be pretrained.
    strategy : str or ConstraintStrategy, default="augmented_lagrangian"
        A name in ``sklpos.STRATEGIES`` or an instance, which is cloned.
    alpha : float, default=1.0
        Weight of the strategy's penalty term; dimensionless.
    lower_bound : float or array-like of shape (n_outputs,), default=0.0
        Same unit as y; ``-inf`` leaves an output free.
    repair : {"head", None}, default="head"
        Whether `fit` ends with the repair of the head.
    balance : bool, default=True
        Whether the repair keeps the (weighted) mean prediction at the mean target: to
        1e-9 of the deviation of y in float64; in float32 to 1e-5 of it, or to the
        rounding of the mean where that is coarser.
    criterion : type or nn.Module, default=torch.nn.MSELoss
        Takes ``reduction="none"``; sees standardised targets.
    optimizer : type, default=torch.optim.AdamW
        Adam and AdamW run torch's fused kernel unless ``optimizer__fused`` or
        ``optimizer__foreach`` is given; they differ by rounding.
    lr : float, default=0.004
        Learning rate.
    weight_decay : float or "auto", default="auto"
        Weight decay of the optimizer. ``"auto"`` decays the more, the noisier the data
        (`sklpos.decay.NoiseScaledDecay`), with AdamW, squared error and a module
        that starts from scratch; otherwise it leaves the optimizer its own default.
    max_epochs : int, default=100
        0 trains nothing: a pretrained module is repaired as it is.
    batch_size : int, default=128
        Rows a step; -1 for all of them.
    early_stopping : bool, default=False
        Stop when the loss on held-out rows no longer improves, and keep the best
        epoch.
    validation_fraction : float, default=0.1
        Share of rows held out by `early_stopping`.
    n_iter_no_change : int, default=10
        Epochs without improvement that `early_stopping` waits for.
    tol : float, default=1e-4
        Improvement of the validation loss that counts.
    callbacks : list of skorch callbacks, default=None
        Copied, not changed. ``Checkpoint(f_constraint=...)`` saves the multipliers
        beside the weights.
    scale_y : bool, default=True
        Standardise the targets, per output, while training.
    on_negative_y : {"warn", "raise", "ignore"}, default="warn"
        What to do about targets below `lower_bound`.
    dtype : {"auto", "float32", "float64"}, default="auto"
        ``"auto"`` follows X on the CPU and is float32 on an accelerator.
    device : str, default="cpu"
        ``"auto"`` takes an accelerator if there is one.
    warm_start : bool, default=False
        Whether `fit` continues: weights, optimizer, order of batches and, for the same
        rows, multipliers.
    verbose : int, default=0
        1 prints a line an epoch.
    random_state : int, RandomState instance or None, default=None
        Of the first weights, the order of the batches and dropout. None is different
        every time, whatever the global generators of numpy and torch are set to.
    **net_params : object
        skorch's parameters: ``module__*``, ``optimizer__*``, ``criterion__*``,
        ``callbacks__*``, ``iterator_train__*``, ``iterator_valid__*``, ``dataset__*``,
        ``compile`` and ``compile__*``.

    Attributes
    ----------
    module_ : nn.Module
        The product, in the unit of y: what `predict` runs and what to export.
    net_ : ConstrainedNet
        The training state, in scaled units, never repaired.
    strategy_ : ConstraintStrategy
    multipliers_ : ndarray of shape (n_samples, n_outputs)
        Of the unscaled squared-error problem with means over rows and outputs; in the
        textbook's sum convention they are ``multipliers_ * w / (w.sum() * n_outputs)``.
        0 for rows of weight 0 and validation rows.
    kkt_ : KKTResiduals or None
        Of the training state; None after `partial_fit`.
    repair_ : Repair or None
        None if nothing was repaired.
    certificate_ : Certificate or None
        Of the last repair on a domain, by `enforce` or by ``strategy="certified"``;
        None if something else changed the head since.
    loss_curve_ : list of float
        Training loss with the constraint term, scaled units, one an epoch.
    history_ : skorch.history.History
        One record an epoch, of `net_`, with the columns of `ConstraintHistory`.
    optimizer_ : torch.optim.Optimizer
        That of `net_`.
    criterion_ : nn.Module
        That of `net_`.
    callbacks_ : list of (str, skorch callback)
        Those of `net_`.
    n_iter_ : int
        Epochs of the last call.
    n_outputs_ : int
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        If X had string column names.

    See Also
    --------
    sklearn.neural_network.MLPRegressor : The same net without a constraint.

    References
    ----------
    .. [1] R. T. Rockafellar (1973), "The multiplier method of Hestenes and Powell
       applied to convex programming", doi:10.1007/BF00934777.
    .. [2] M. Sotoudeh, A. V. Thakur (2021), "Provable repair of deep neural
       networks", doi:10.1145/3453483.3454064.

    Examples
    --------
    >>> import numpy as np
    >>> from sklpos import PositiveOutputRegressor
    >>> X = np.linspace(-1, 1, 50).reshape(-1, 1)
    >>> y = np.maximum(X.ravel(), 0)
    >>> model = PositiveOutputRegressor(max_epochs=20, random_state=0).fit(X, y)
    >>> bool(model.predict(X).min() >= 0)
    True
    >>> model.module_.head
    Linear(in_features=100, out_features=1, bias=True)
    """

    def __init__(
        self,
        module=MLP,
        *,
        strategy="augmented_lagrangian",
        alpha=1.0,
        lower_bound=0.0,
        repair="head",
        balance=True,
        criterion=torch.nn.MSELoss,
        optimizer=torch.optim.AdamW,
        lr=0.004,
        weight_decay="auto",
        max_epochs=100,
        batch_size=128,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=1e-4,
        callbacks=None,
        scale_y=True,
        on_negative_y="warn",
        dtype="auto",
        device="cpu",
        warm_start=False,
        verbose=0,
        random_state=None,
        **net_params: Any,
    ) -> None:
        self.module = module
        self.strategy = strategy
        self.alpha = alpha
        self.lower_bound = lower_bound
        self.repair = repair
        self.balance = balance
        self.criterion = criterion
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.callbacks = callbacks
        self.scale_y = scale_y
        self.on_negative_y = on_negative_y
        self.dtype = dtype
        self.device = device
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state
        self._take_net_params(net_params)

    @with_callbacks
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Train, then repair the head.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative; rows of weight 0 are left out, of the guarantee too.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For bad input, or when training diverges. What was fitted before stays.
        """
        task = self._init_callback_context(max_subtasks=self.max_epochs)
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        task.call_on_fit_task_begin(estimator=self, X=X, y=y, metadata=metadata)
        resume = self.warm_start and self.__sklearn_is_fitted__()
        with self._all_or_nothing(resume) as fitted:
            bridge = fitted._bridge(task, self, X=X, y=y, metadata=metadata)
            data, rows = fitted._train(
                X, y, sample_weight, self.max_epochs, resume, bridge
            )
            fitted._finish(data, rows)
        task.call_on_fit_task_end(
            estimator=self,
            X=X,
            y=y,
            metadata=metadata,
            reconstruction_attributes=lambda: vars(self),
        )
        return self

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Train for one epoch, without a repair; `enforce` repairs on request.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self
        """
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True.")
        resume = self.__sklearn_is_fitted__()
        with self._all_or_nothing(resume) as fitted:
            data, rows = fitted._train(X, y, sample_weight, 1, resume)
            fitted._publish(data, rows)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.floating]:
        """Predict with `module_`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            In the unit of y, in the dtype of the net.
        """
        X = self._check_inputs(X)
        predictions = predict_rows(self.module_, X)
        return predictions.ravel() if self._y_ndim == 1 else predictions

    def _check_inputs(self, X) -> np.ndarray:
        check_is_fitted(self)
        return check_inputs(self, X)

    @contextmanager
    def _all_or_nothing(self, resume: bool):
        """Work on a shallow copy, so that a failure leaves what is fitted alone."""
        undo = self.net_.snapshot() if resume else None
        grad_enabled = torch.is_grad_enabled()
        fitted = type(self).__new__(type(self))
        fitted.__dict__.update(self.__dict__)
        try:
            yield fitted
        except BaseException:
            torch.set_grad_enabled(grad_enabled)  # Ctrl-C may have cut torch.no_grad
            if resume:
                self.net_.restore(undo)
            raise
        self.__dict__ = fitted.__dict__

    def _train(
        self, X, y, sample_weight, epochs: int, resume: bool, bridge=(), build=new_net
    ):
        validate_parameter_constraints(
            CONSTRAINTS, self.get_params(deep=False), type(self).__name__
        )
        self._check_net_params()
        data = check_training_data(self, X, y, sample_weight, reset=not resume)
        self._y_ndim, self.n_outputs_ = data.y_ndim, data.y.shape[1]
        if resume:
            check_built_in_params(self, self._built_in)
            rows = continue_net(self, self.net_, data, data.key == self._data_key)
        else:
            self.net_, rows = build(self, data, draw_seed(self.random_state))
            check_repeatable(self.net_, self.random_state)
            self._built_in = built_in_params(self)
        self._data_key = data.key
        self._range = data_range(data.X, self._range if resume else None)
        self.n_iter_ = run_epochs(self.net_, rows, epochs, bridge)
        return data, rows

    def _bridge(self, task, estimator, **data) -> list:
        """Return what tells scikit-learn's callbacks, if there are any, of epochs.

        They know the estimator that `fit` was called on, not the copy that is at work.
        """
        if not getattr(self, "_skl_callbacks", None):
            return []

        def so_far():
            self.net_.product_ = make_product(self.net_)
            return vars(self)

        return [("sklearn", EpochBridge(estimator, task, so_far, **data))]

    def _publish(self, data, rows):
        """Set everything but the repair."""
        multipliers, objective, kkt = evaluate_training_state(self.net_, rows.train)
        targets = self.net_.targets
        self.multipliers_ = np.zeros((data.n_samples, self.n_outputs_))
        self.multipliers_[np.ix_(rows.index, targets.bounded)] = (
            multipliers * targets.scale[targets.bounded]
        )
        self.kkt_, self.repair_, self.certificate_ = None, None, None
        self._objective, self._kept, self._training = None, None, None
        self.net_.product_ = make_product(self.net_)
        return objective, kkt

    def _finish(self, data, rows) -> None:
        objective, self.kkt_ = self._publish(data, rows)
        self._warn_of_divergence(objective)
        if self.strategy_.guarantee != "everywhere":
            self._finish_head(data)
        self._training = summarise_training(self, data)
        if self.repair_ is not None and self.certificate_ is None:
            before, after = (rows.rmse for rows in self._training)
            after = np.where(self.repair_.balanced_, after, before)
            warn_of_error(before, after, self.net_.targets.scale)

    def _finish_head(self, data) -> None:
        features = feature_source(self.module_, self.net_.head, data.X)
        self._objective = head_objective(self.net_, data, features)
        if self.strategy_.guarantee == "domain":
            self._hold_on_domain(data)
        elif self.repair is not None:
            rows = (data.X, data.kept, data.n_samples, data.weight)
            self._repair(*rows, features)

    def _warn_of_divergence(self, objective: float) -> None:
        if objective > 10:
            warnings.warn(
                f"training diverged, or has hardly begun: the loss ends at "
                f"{objective:.3g} times the variance of y; lower lr (now {self.lr}), "
                "raise max_epochs or standardise X.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _hold_on_domain(self, data) -> None:
        """Repair by intervals alone, which no time limit changes, and certify."""
        own = self.strategy_
        domain = make_domain(read_model(self), own.domain, data.X, margin=own.margin)
        try:
            if self.repair is not None:
                self._repair_domain(domain, n_samples=data.n_samples, exchange=False)
        except UnprovableError as error:
            warnings.warn(str(error), ConvergenceWarning, stacklevel=4)
            self._repair(data.X, data.kept, data.n_samples, data.weight)
        if self.certificate_ is None:
            self.certificate_ = self.certify(domain, method="crown")

    def __sklearn_is_fitted__(self):
        return hasattr(self, "net_") and hasattr(self.net_, "product_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.positive_only = True
        return tags

    module_ = property(lambda self: self.net_.product_)
    strategy_ = property(lambda self: self.net_.strategy_)
    optimizer_ = property(lambda self: self.net_.optimizer_)
    criterion_ = property(lambda self: self.net_.criterion_)
    history_ = property(lambda self: self.net_.history)
    callbacks_ = property(lambda self: self.net_.callbacks_)

    @property
    def loss_curve_(self):
        """Training loss of each epoch."""
        return [
            float(row["train_loss"]) for row in self.net_.history if "train_loss" in row
        ]
