"""A grid search whose fits train together, as one batched net."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import GridSearchCV, ParameterGrid, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils._param_validation import Interval

from sklpos.estimator.joint_fits import JointFits, check_joint_params
from sklpos.estimator.prepared import fits_from
from sklpos.estimator.regressor import PositiveOutputRegressor
from sklpos.nets.hints import shown


class BatchedGridSearchCV(GridSearchCV):
    """Grid search that trains its candidates, on all folds, as one batched net.

    Scores, ranks and the best model are those of
    `sklearn.model_selection.GridSearchCV`, up to rounding: each net has its own
    initial weights, order of the rows, learning rate, decay, multipliers and bounds.
    Only the steps are made together, which saves what a small net mostly waits for:
    calls, not arithmetic. It works on the CPU, with `MLP` or your own module.

    Numbers may differ between the candidates: ``alpha``, ``lr``, ``weight_decay``,
    ``random_state``, ``lower_bound`` and ``upper_bound``, and all that concerns the
    end of a fit, such as ``balance``. Candidates that differ in anything else, such as
    the strategy, the batch size or the widths of the layers, train in groups of their
    own, one group after the other.

    Parameters
    ----------
    estimator : PositiveOutputRegressor, Pipeline or TransformedTargetRegressor
        A pipeline ends in the regressor.
    param_grid : dict or list of dict
        Names of parameters, and the values to try.
    scoring : str, callable, list, tuple or dict, default=None
        As in `GridSearchCV`.
    refit : bool, str or callable, default=True
        As in `GridSearchCV`; the best candidate is fitted alone.
    cv : int, splitter or iterable, default=None
        As in `GridSearchCV`.
    verbose : int, default=0
        As in `GridSearchCV`.
    error_score : "raise" or float, default=nan
        Score of a fit that fails. The others go on.
    return_train_score : bool, default=False
        As in `GridSearchCV`.
    max_together : int, default=64
        Largest number of fits that train at a time, rounded down to whole candidates.
        Each needs memory for its weights, with the averages of Adam, and for its
        multipliers, targets and hidden units of a batch; fits on the same rows hold
        them once.

    Attributes
    ----------
    cv_results_ : dict of ndarray
        As in `GridSearchCV`, but a fit has no time of its own: ``mean_fit_time`` is
        the time of all fits over their number, and ``std_fit_time`` is 0.
    best_estimator_ : estimator
        Fitted alone, so it is that of `GridSearchCV` bit for bit.
    best_params_ : dict
    best_index_ : int
    best_score_ : float
    scorer_ : callable or dict
    n_splits_ : int
    refit_time_ : float
        Seconds.
    multimetric_ : bool

    Raises
    ------
    ValueError
        By `fit`, before any training, if nets cannot share something: `Stack`, which
        is batched by itself, early stopping, callbacks, a device other than the CPU,
        ``"certified"``, dropout, batch norm, or an optimizer other than Adam and AdamW.

    See Also
    --------
    sklearn.model_selection.GridSearchCV : Any estimator, and several processes.

    Notes
    -----
    Transformers of a pipeline are fitted twice per fold and candidate. Those that draw
    random numbers need a ``random_state``, or each net trains alone. Ctrl-C ends the
    search, also with ``on_interrupt="warn"``.

    Examples
    --------
    >>> import numpy as np
    >>> from sklpos import MLP, PositiveOutputRegressor
    >>> X = np.linspace(-1, 1, 60).reshape(-1, 1)
    >>> y = np.maximum(X.ravel(), 0)
    >>> net = PositiveOutputRegressor(MLP, max_epochs=5, random_state=0)
    >>> search = BatchedGridSearchCV(net, {"lr": [1e-5, 1e-2]}, cv=3).fit(X, y)
    >>> search.best_params_
    {'lr': 0.01}
    """

    _parameter_constraints: ClassVar[dict] = {
        **GridSearchCV._parameter_constraints,
        "max_together": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        estimator: BaseEstimator,
        param_grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        scoring: Any = None,
        refit: bool | str | Callable = True,
        cv: Any = None,
        verbose: int = 0,
        error_score: Any = np.nan,
        return_train_score: bool = False,
        max_together: int = 64,
    ) -> None:
        super().__init__(
            estimator,
            param_grid,
            scoring=scoring,
            # Nets that train together are in one process.
            n_jobs=1,
            refit=refit,
            cv=cv,
            verbose=verbose,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.max_together = max_together

    def fit(self, X: ArrayLike, y: ArrayLike | None = None, **params: Any) -> Self:
        """Search.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        **params : object
            For the `fit` of the estimator, the scorers and the splitter, as in
            `GridSearchCV`; for example ``sample_weight``.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the candidates cannot train together.
        """
        # Both passes over the fits need the same splits.
        cv = _KeptSplits(check_cv(self.cv, y, classifier=is_classifier(self.estimator)))
        running = copy.copy(self)
        running.cv = cv
        running._asked = X, y, params
        super(BatchedGridSearchCV, running).fit(X, y, **params)
        for name, value in vars(running).items():
            if name.endswith("_"):
                setattr(self, name, value)
        return self

    def _run_search(self, evaluate_candidates: Callable) -> None:
        candidates = list(ParameterGrid(self.param_grid))
        _check_candidates(self.estimator, candidates)
        parts = self._parts(candidates)
        fits = JointFits(lambda: self._begin(next(parts, None)))
        # Here, a refusal is not mistaken for the failure of a fit.
        fits.train_more()
        before = fits.seconds
        with fits_from(fits):
            results = evaluate_candidates(candidates)
        if fits.refusal is not None:
            raise fits.refusal
        known = results["mean_fit_time"].mean()
        n_fits = len(candidates) * len(self.cv.splits)
        results["mean_fit_time"][:] = known + before / n_fits
        results["std_fit_time"][:] = 0.0

    def _parts(self, candidates: list[dict]) -> Iterator[list[dict]]:
        """Candidates whose fits train at a time."""
        X, y, params = self._asked
        n_splits = self.cv.get_n_splits(X, y, params.get("groups"))
        size = max(self.max_together // n_splits, 1)
        for start in range(0, len(candidates), size):
            yield candidates[start : start + size]

    def _begin(self, candidates: list[dict] | None) -> bool:
        """Let the fits of some candidates begin; they fail where training would."""
        if candidates is None:
            return False
        X, y, params = self._asked
        search = GridSearchCV(
            self.estimator,
            [{name: [value] for name, value in own.items()} for own in candidates],
            scoring=self.scoring,
            n_jobs=1,
            refit=False,
            cv=self.cv,
        )
        try:
            search.fit(X, y, **params)
        except ValueError as error:
            if "fits failed" not in str(error):
                raise
        return True


class _KeptSplits:
    """A splitter that splits once.

    Parameters
    ----------
    cv : splitter
    """

    def __init__(self, cv: Any):
        self.cv = cv
        self.splits: list = []
        if hasattr(cv, "get_metadata_routing"):
            self.get_metadata_routing = cv.get_metadata_routing

    def split(self, *rows: Any, **params: Any) -> Iterator:
        """Split rows, or repeat what was split before."""
        if not self.splits:
            self.splits = list(self.cv.split(*rows, **params))
        return iter(self.splits)

    def get_n_splits(self, *rows: Any, **params: Any) -> int:
        """Number of splits that the splitter makes."""
        return self.cv.get_n_splits(*rows, **params)


def _check_candidates(estimator: Any, candidates: list[dict]) -> None:
    for params in candidates:
        model = clone(estimator)
        try:
            model.set_params(**clone(params, safe=False))
        # It counts as a fit that failed, and scikit-learn says why.
        except (TypeError, ValueError):
            continue
        regressor = _regressor_of(model)
        if not isinstance(regressor, PositiveOutputRegressor):
            raise ValueError(
                f"estimator={shown(estimator)} must be a PositiveOutputRegressor, or a "
                "Pipeline or TransformedTargetRegressor of one; use GridSearchCV."
            )
        check_joint_params(regressor)


def _regressor_of(model: Any) -> Any:
    """The last step of nested pipelines."""
    while isinstance(model, (Pipeline, TransformedTargetRegressor)):
        is_pipeline = isinstance(model, Pipeline)
        model = model.steps[-1][1] if is_pipeline else model.regressor
    return model
