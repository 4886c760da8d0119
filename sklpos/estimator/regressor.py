"""The scikit-learn layer: `PositiveOutputRegressor`."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from sklpos.estimator.begin import begin_fit
from sklpos.estimator.build import start_net
from sklpos.estimator.checks import (
    TrainingData,
    asks_for_positive_y,
    check_training_data,
)
from sklpos.estimator.datasets import Rows, Targets, unpacked, with_loader
from sklpos.estimator.documentation import documentation_template
from sklpos.estimator.fit import Fit, evaluate, finish
from sklpos.estimator.guarantees import GuaranteeMixin
from sklpos.estimator.names import check_names, check_set_params, is_net_param
from sklpos.estimator.new_inputs import check_inputs, check_predictions
from sklpos.estimator.parameters import changed_vars, check_params, resolve, stand_in
from sklpos.estimator.prepared import may_be_prepared
from sklpos.estimator.preview import preview
from sklpos.estimator.sklearn_callbacks import (
    CallbackSupportMixin,
    fit_task,
    with_callbacks,
)
from sklpos.estimator.targets import ScoreMixin
from sklpos.estimator.turns import changes_estimator
from sklpos.nets.misfit import takes_any_shape
from sklpos.nets.process import leaves_no_trace
from sklpos.nets.rows import predict_rows
from sklpos.nets.stack import Stack
from sklpos.training.interrupts import report_interrupt
from sklpos.training.loop import gradients_on, train
from sklpos.training.schedule import schedule_callbacks
from sklpos.training.storage import PlainState


class PositiveOutputRegressor(
    GuaranteeMixin, PlainState, CallbackSupportMixin, ScoreMixin, BaseEstimator
):
    """Neural-network regression whose outputs stay within bounds.

    By default, the outputs are bounded below by 0, for every input: the head of the
    net is a plain ``nn.Linear`` whose weights cannot be negative, over features that
    cannot be negative, and the mean prediction is the mean target. With `Stack`, the
    default module, one bound cost no accuracy in benchmarks.

    For a module of one's own, a constraint strategy guides the weights during training.
    Then the head is repaired, so that every training prediction obeys the bounds
    exactly and the mean is kept; other inputs may be predicted outside the bounds.

    Parameters
    ----------
    module : type, callable or nn.Module, default=Stack
        A class or callable receives ``n_features_in``, ``n_outputs``, ``X`` and
        ``sample_weight`` if its signature has them. A module of one's own may take
        images or sequences; ``n_features_in`` is then ``X.shape[1]``. An instance is
        copied, and may be pretrained. A module may say what ``"auto"`` means below, by
        a static method ``training_defaults(n_samples)``, and have ``param_groups`` of
        its own.
    strategy : str or ConstraintStrategy, default="auto"
        A name in ``sklpos.STRATEGIES`` or an instance, which is cloned. ``"auto"`` is
        ``"nonnegative_weights"`` for `Stack`, and ``"augmented_lagrangian"`` for other
        modules; `strategy_` is what it became.
    alpha : float, default=1.0
        Weight of the strategy's penalty term, if it has one; dimensionless.
    lower_bound : float, array-like of shape (n_outputs,) or None, default=0.0
        Same unit as y; ``-inf`` or None leaves an output free.
    upper_bound : float, array-like of shape (n_outputs,) or None, default=None
        Same unit as y; ``inf`` or None leaves an output free. Equal bounds make an
        output constant. Where no number of the dtype lies between them, as in float32
        with 0.1 twice, it is the nearest one, and no certificate is verified.
    repair : {"head", None}, default="head"
        Whether `fit` ends with the repair of the head, for strategies that do not keep
        the bounds for every input.
    balance : bool or "auto", default="auto"
        Whether the (weighted) mean prediction is kept at the mean target, by the repair
        or, with ``"nonnegative_weights"``, by one factor: to 1e-9 of the deviation of y
        in float64; in float32 to 1e-5 of it, or to the rounding of the mean where that
        is coarser. ``"auto"`` keeps it for a criterion that aims at the mean: squared
        error, binary cross-entropy, Poisson, gamma and Tweedie deviance, or one that
        has the attribute ``elicits = "mean"``.
    criterion : type, callable or nn.Module, default=torch.nn.MSELoss
        A class, an instance or a function that returns one loss per row and output. It
        sees the targets in the unit that `scale_y` gives them, and each row once per
        member of a `Stack`. See `sklpos.criteria` for more than those of torch, such as
        ``PinballLoss([0.1, 0.9])``: one output per quantile, in their order.
    optimizer : type or str, default=torch.optim.AdamW
        A class, or its name in ``torch.optim`` in any case, such as ``"adam"``. Adam
        and AdamW run torch's fused kernel unless ``optimizer__fused`` or
        ``optimizer__foreach`` is given; they differ by rounding.
    lr : float or "auto", default="auto"
        Learning rate; ``"auto"`` is 0.02 for `Stack` and 0.004 for other modules.
    lr_schedule : {"cosine", None}, default="cosine"
        Whether `fit` anneals the learning rate to 0 over `max_epochs`, so that training
        settles at the optimum. `partial_fit` keeps it constant, and a learning-rate
        scheduler among the `callbacks` takes its place.
    weight_decay : float or "auto", default="auto"
        Weight decay of the optimizer. With AdamW, ``"auto"`` gives each kind of members
        of a `Stack` its own. For other modules that start from scratch, with AdamW and
        squared error, it decays more for noisier data, unless rows are images,
        sequences or tokens (`sklpos.decay.NoiseScaledDecay`). Otherwise the optimizer
        keeps its default.
    max_epochs : int or "auto", default="auto"
        ``"auto"`` is 100, but for `Stack` 40 or as many as make 400 steps, whichever is
        more, and fewer from 10,000 rows on. 0 trains nothing: a pretrained module is
        repaired as it is.
    batch_size : int or "auto", default="auto"
        Rows per step; -1 for all of them. ``"auto"`` is 128, and more for a `Stack` of
        more than 10,000 rows.
    early_stopping : bool, default=False
        Stop when the loss on validation rows no longer improves, and keep the best
        epoch. The rows are held out, unless `fit` is given `X_val` and `y_val`.
    validation_fraction : float, default=0.1
        Share of rows held out by `early_stopping`.
    n_iter_no_change : int, default=10
        Epochs without improvement that `early_stopping` waits for.
    tol : float, default=1e-4
        Improvement of the validation loss that counts.
    callbacks : list of skorch callbacks, default=None
        Copied, not changed. ``Checkpoint(f_constraint=...)`` saves the multipliers
        beside the weights.
    scale_y : bool or "auto", default="auto"
        Whether targets are standardised, per output, while training. ``"auto"`` does
        so, unless the criterion needs targets in their own unit. Those of
        `sklpos.criteria` that do train on targets divided by their mean; any other
        trains on targets as they are, as with False, and says so.
    on_violated_y : {"warn", "raise", "ignore"}, default="warn"
        What to do about targets outside the bounds.
    on_negative_y : {"warn", "raise", "ignore"}, default="deprecated"
        The former name of `on_violated_y`.

        .. deprecated:: 0.1
           Use `on_violated_y` instead.
    dtype : {"auto", "float32", "float64", "bfloat16-mixed"}, default="auto"
        ``"auto"`` follows X on the CPU and is float32 on an accelerator.
        ``"bfloat16-mixed"`` trains float32 weights with products in bfloat16, by
        torch's autocast; everything else, predictions too, is in float32.
    device : str, default="cpu"
        ``"auto"`` takes an accelerator if there is one.
    warm_start : bool, default=False
        Whether `fit` continues with the weights, the optimizer, the order of batches
        and, for the same rows, the multipliers of the last one.
    on_interrupt : {"warn", "raise"}, default="warn"
        What Ctrl-C does to a `fit` that has finished an epoch. The model is that of the
        last finished epoch, repaired as usual. ``"raise"`` raises ``KeyboardInterrupt``
        once it is fitted, which stops a search as well.
    verbose : int, default=0
        1 prints one line per epoch.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights, the order of the batches and dropout. None differs
        on every call, whatever the seeds of the global generators of numpy and torch.
    **net_params : object
        skorch's parameters: ``module__*``, ``optimizer__*``, ``criterion__*``,
        ``callbacks__*``, ``iterator_train__*``, ``iterator_valid__*``, ``dataset__*``,
        ``compile``, ``compile__*`` and, on a GPU, ``cuda_graph=True``: training steps
        are recorded as a CUDA graph, whose kernels start together.

    Attributes
    ----------
    fitted_ : Fit
        The source of all attributes below, replaced as a whole.
    module_ : nn.Module
        The product, in the unit of y: what `predict` runs and what to export.
    net_ : ConstrainedNet
        The training state, in scaled units, never repaired.
    strategy_ : ConstraintStrategy
    multipliers_ : ndarray of shape (n_samples, n_outputs)
        Of the unscaled squared-error problem with means over rows and outputs; in the
        textbook's sum convention they are ``multipliers_ * w / (w.sum() * n_outputs)``.
        With another criterion, that of the scaled problem times the deviation of y.
        Positive where the lower bound pushes a prediction up, negative where the upper
        bound pushes it down; 0 for rows of weight 0 and validation rows. Each member of
        a `Stack` has its own, which are mixed as its predictions are.
    kkt_ : KKTResiduals or None
        Of the training state, that is of the members of a `Stack` before they are
        mixed; None after `partial_fit`.
    repair_ : Repair or None
        None if nothing was repaired.
    certificate_ : Certificate or None
        Of the last repair on a domain, by `enforce` or by ``strategy="certified"``;
        None if another repair changed the head since. It is false if anything else
        changed the model. After `sklpos.enforce` of a pipeline, it is about the
        pipeline, and in the unit of its data.
    loss_curve_ : list of float
        Training loss with the constraint term, in scaled units, one per epoch; the mean
        over the members of a `Stack`.
    history_ : skorch.history.History
        One record per epoch of `net_`, with the columns of `ConstraintHistory`.
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
    sklearn.neural_network.MLPRegressor : Neural-network regression without bounds.

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
    >>> model = PositiveOutputRegressor(random_state=0).fit(X, y)
    >>> bool(model.predict(1000 * X).min() >= 0)
    True
    >>> model.module_.head
    Linear(in_features=384, out_features=1, bias=True)
    """

    def __init__(
        self,
        module=Stack,
        *,
        strategy="auto",
        alpha=1.0,
        lower_bound=0.0,
        upper_bound=None,
        repair="head",
        balance="auto",
        criterion=torch.nn.MSELoss,
        optimizer=torch.optim.AdamW,
        lr="auto",
        lr_schedule="cosine",
        weight_decay="auto",
        max_epochs="auto",
        batch_size="auto",
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=1e-4,
        callbacks=None,
        scale_y="auto",
        on_violated_y="warn",
        on_negative_y="deprecated",
        dtype="auto",
        device="cpu",
        warm_start=False,
        on_interrupt="warn",
        verbose=0,
        random_state=None,
        **net_params: Any,
    ) -> None:
        self.module = module
        self.strategy = strategy
        self.alpha = alpha
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self.repair = repair
        self.balance = balance
        self.criterion = criterion
        self.optimizer = optimizer
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.callbacks = callbacks
        self.scale_y = scale_y
        self.on_violated_y = on_violated_y
        self.on_negative_y = on_negative_y
        self.dtype = dtype
        self.device = device
        self.warm_start = warm_start
        self.on_interrupt = on_interrupt
        self.verbose = verbose
        self.random_state = random_state
        check_names(net_params, type(self))
        self._net_params = dict(net_params)

    @changes_estimator
    @may_be_prepared
    @with_callbacks
    def fit(
        self,
        X: Rows,
        y: Targets = None,
        sample_weight: Targets = None,
        *,
        X_val: Rows | None = None,
        y_val: Targets = None,
        sample_weight_val: Targets = None,
    ) -> Self:
        """Train, and repair the head if the strategy needs it.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features), or Dataset
            A module of one's own may take rows of more dimensions. Items of a map-style
            ``Dataset``, or of its ``DataLoader``, are ``(x, y)`` or ``(x, y, weight)``;
            more than 16 million values are read anew in each epoch.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            None if X is a data set.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative; rows of weight 0 are left out, also of the guarantee.
        X_val : array-like, sparse matrix or Dataset, default=None
            Rows to validate on, like those of X. Their loss is the ``valid_loss`` of
            `history_`; `early_stopping` and callbacks use them, but neither training,
            scaling nor the guarantee does.
        y_val : array-like of shape (n_val,) or (n_val, n_outputs), default=None
            Targets of X_val; None if X_val is a data set.
        sample_weight_val : array-like of shape (n_val,), default=None
            Non-negative; weights of X_val in ``valid_loss``.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For invalid input, or if training diverges. An earlier fit then stays.
        KeyboardInterrupt
            If Ctrl-C comes before an epoch is finished or after training, when an
            earlier fit stays, and with ``on_interrupt="raise"``.
        """
        valid = {"X_val": X_val, "y_val": y_val, "sample_weight_val": sample_weight_val}
        own, data, earlier = begin_fit(self, X, y, sample_weight, **valid)
        context = self._init_callback_context(max_subtasks=own.max_epochs)
        with fit_task(self, context, X, y, sample_weight) as task, gradients_on():
            fit = own._train(data, own.max_epochs, earlier, task)
            # One assignment, so that the old model is there until the new one is.
            self.fitted_ = finish(own, fit, data)
        report_interrupt(fit, own.max_epochs, own.on_interrupt)
        return self

    @changes_estimator
    def partial_fit(
        self, X: Rows, y: Targets = None, sample_weight: Targets = None
    ) -> Self:
        """Train for one epoch, without a repair; `enforce` repairs on request.

        The scaling of the targets follows the later half of a stream. The first call
        fixes what a module is made from: of `Stack`, its members and the encoding of
        the features, so that rows far outside the range of that call warn, once.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features), or Dataset
            As in `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self
        """
        asked = with_loader(self, X)
        check_params(asked)
        if asked.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True.")
        earlier = getattr(asked, "fitted_", None)
        data = asked._check(X, y, sample_weight, earlier)
        with gradients_on():
            fit = resolve(asked, len(data.X))._train(data, 1, earlier)
        self.fitted_ = fit
        report_interrupt(fit, 1, asked.on_interrupt)
        return self

    def _check(self, X, y, sample_weight, earlier: Fit | None) -> TrainingData:
        """Check the data; the estimator is not changed."""
        rows = unpacked(self, X, y, sample_weight)
        return check_training_data(self, *rows, reset=earlier is None)

    def _train(
        self, data: TrainingData, epochs: int, earlier: Fit | None, task=None
    ) -> Fit:
        """Train a new net or a fork of an earlier one; the estimator is not changed."""
        net, rows = start_net(self, data, earlier, stream=task is None)
        callbacks = []
        # `partial_fit` does not know how many calls follow, so it has no schedule.
        if task is not None:
            callbacks = schedule_callbacks(self.lr_schedule, self.callbacks, epochs)
            callbacks += task.net_callbacks(partial(preview, data))
        done = train(net, rows, epochs, callbacks)
        residuals = task is not None
        fit = evaluate(self, net, rows, data, done.n_iter, earlier, residuals=residuals)
        return replace(fit, interrupted=done.interrupted)

    @partial(leaves_no_trace, brief=True)
    def predict(self, X: Rows) -> NDArray[np.floating]:
        """Predict with `module_`.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features), or Dataset
            Items of a ``Dataset`` are x, or tuples that begin with x.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            In the unit of y, in the dtype of the net. Several quantiles are columns.

        Raises
        ------
        ValueError
            If a row is so large that sums of the net may overflow (see
            `Certificate.largest_input_`); the message names it.
        """
        # The check makes all tags, a noticeable part of a prediction of one row.
        if not hasattr(self, "fitted_"):
            check_is_fitted(self)
        # Another thread may put a new model in its place.
        own = stand_in(self)
        predictions = predict_rows(own.module_, check_inputs(own, X))
        check_predictions(predictions)
        return predictions.ravel() if own.fitted_.y_ndim == 1 else predictions

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get the parameters of the estimator and those of the net.

        Parameters
        ----------
        deep : bool, default=True
            Include the parameters of a strategy instance.

        Returns
        -------
        dict
        """
        own = stand_in(self)
        return super(PositiveOutputRegressor, own).get_params(deep) | own._net_params

    def set_params(self, **params: Any) -> Self:
        """Set parameters of the estimator and of the net.

        Parameters
        ----------
        **params : object
            Names as in `get_params`, and any name with a prefix of the net.

        Returns
        -------
        self
        """
        check_set_params(self, params)
        own = {name: value for name, value in params.items() if not is_net_param(name)}
        before, twin = stand_in(self), stand_in(self)
        super(PositiveOutputRegressor, twin).set_params(**own)
        # A new dict, because a shallow copy may share the present one.
        net_params = {k: v for k, v in params.items() if k not in own}
        twin._net_params = {**before._net_params, **net_params}
        # All at once, so that a fit in another thread sees all of them or none.
        vars(self).update(changed_vars(before, twin))
        return self

    @classmethod
    @cache
    def _get_param_names(cls):
        # The signature would be read several times in each call of `partial_fit`.
        return super()._get_param_names()

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.input_tags.three_d_array = takes_any_shape(self.module)
        tags.input_tags.sparse = True
        # scikit-learn's checks then use targets that such a bound allows.
        tags.target_tags.positive_only = asks_for_positive_y(self.lower_bound)
        return tags

    # The HTML of an estimator links to its page in the reference.
    _doc_link_module = "sklpos"

    @property
    def _doc_link_template(self) -> str:
        return documentation_template()
