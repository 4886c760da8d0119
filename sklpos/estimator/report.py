"""A report on a fitted model, on one page."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sklpos.certificates.certificate import Certificate
from sklpos.estimator.attributes import certificate_for
from sklpos.estimator.pipelines import knows_steps, snapshot
from sklpos.estimator.report_tables import (
    as_html,
    as_text,
    numbers,
    repair_lines,
    row_lines,
)
from sklpos.estimator.row_summary import (
    RowSummary,
    bounds_of,
    in_data_unit,
    summarise_rows,
)
from sklpos.estimator.target_steps import behind_targets
from sklpos.nets.bounded import as_bounded_model
from sklpos.nets.head import read_head
from sklpos.nets.process import leaves_no_trace
from sklpos.repair import Repair
from sklpos.training.kkt import KKTResiduals

Pair = tuple[RowSummary, RowSummary | None]


@dataclass(frozen=True, eq=False)
class Report:
    """What holds for a fitted model, printed as text, and as HTML in notebooks.

    Pairs are a summary of the rows as trained, and one with the repaired head (None
    without a repair).

    Attributes
    ----------
    model_ : str
        The estimator, with the parameters that are not the defaults.
    lower_bound_, upper_bound_ : ndarray of shape (n_outputs,)
        Unit of y; infinite where an output is free.
    guarantee_ : str
        The guarantee of the strategy, that is of training before any repair.
    promise_ : str
        The inputs for which no prediction is outside the bounds.
    training_ : pair of RowSummary, or None
        None after `partial_fit`. After `enforce`, the error of the second one is exact,
        and its violations are NaN where they are not proved to be none.
    rows_ : pair of RowSummary, or None
        Of the rows that the report was asked for.
    kkt_ : KKTResiduals or None
        In standard deviations of y.
    repair_ : Repair or None
    head_change_ : float or None
        Norm of the change of the head by the repair, over that of the head; None
        without a repair, and if the model was changed since.
    certificate_ : Certificate or None
        In the unit of the data of the model that was repaired, which is the pipeline if
        `sklpos.enforce` was given one, and never that before a transform of y.
    changes_ : tuple of str
        Parts of the model that were changed since its fit or the last `enforce`. Then
        nothing is promised, and only `rows_` are those of the present model.

    Examples
    --------
    >>> sides = np.zeros(1), np.full(1, np.inf)
    >>> Report("PositiveOutputRegressor()", *sides, "none", "nothing")
    PositiveOutputRegressor()
      lower bound                                  0
      guarantee of the strategy                 none
      no prediction outside the bounds for   nothing
    """

    model_: str
    lower_bound_: np.ndarray
    upper_bound_: np.ndarray
    guarantee_: str
    promise_: str
    training_: Pair | None = None
    rows_: Pair | None = None
    kkt_: KKTResiduals | None = None
    repair_: Repair | None = None
    head_change_: float | None = None
    certificate_: Certificate | None = None
    changes_: tuple[str, ...] = ()

    def _tables(self) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
        """Yield titles, each with lines of a name and its values."""
        bounds = {"lower": self.lower_bound_, "upper": self.upper_bound_}
        sides = {side: own for side, own in bounds.items() if np.isfinite(own).any()}
        yield (
            self.model_,
            [
                *((f"{side} bound", numbers(own)) for side, own in sides.items()),
                ("guarantee of the strategy", self.guarantee_),
                ("no prediction outside the bounds for", self.promise_),
            ],
        )
        for what, pair in (("training rows", self.training_), ("rows", self.rows_)):
            if pair is not None:
                before = self._before() if pair is self.training_ else ""
                title = f"{pair[0].n_samples} {what}{before}"
                yield title, row_lines(*pair, sides)
        if self.repair_ is not None:
            lines = repair_lines(self.repair_, self.head_change_, sides)
            yield f"repair of the head{self._before()}", lines
        if self.kkt_ is not None:
            yield (
                "optimality of the training, in standard deviations of y",
                [
                    (name.replace("_", " "), f"{value:.3g}")
                    for name, value in vars(self.kkt_).items()
                ],
            )

    def _before(self) -> str:
        return ", before the model was changed" if self.changes_ else ""

    def __repr__(self) -> str:
        blocks = [as_text(*table) for table in self._tables()]
        if self.certificate_ is not None:
            blocks.append(repr(self.certificate_))
        return "\n".join(blocks)

    def _repr_html_(self) -> str:
        """Tables for notebooks."""
        rows = "".join(as_html(*table) for table in self._tables())
        proof = self.certificate_
        after = "" if proof is None else proof.to_html()
        return f"<table>{rows}</table>{after}"


@leaves_no_trace
def report(model, X: ArrayLike | None = None, y: ArrayLike | None = None) -> Report:
    """Report what holds for a fitted model, and what its repair cost.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline, TransformedTargetRegressor or search
        Fitted; for a search, its best estimator is used.
    X : array-like or sparse matrix of shape (n_samples, n_features), optional
        Further rows to look at, such as a holdout.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs), optional
        Their targets.

    Returns
    -------
    Report
        Prints as text, and as HTML in notebooks. Numbers are in the unit of y, also
        behind a ``TransformedTargetRegressor``; those of the training rows that a
        transformer other than a scaler bends are NaN.

    Raises
    ------
    ValueError
        For another model, or for targets without rows.

    Examples
    --------
    >>> import sklpos
    >>> X = np.linspace(-1, 1, 50).reshape(-1, 1)
    >>> model = sklpos.PositiveOutputRegressor(random_state=0)
    >>> found = report(model.fit(X, np.maximum(X.ravel(), 0)))
    >>> found.guarantee_
    'everywhere'
    """
    still = snapshot(model)
    _, regressor, targets = behind_targets(still)
    subject = regressor.fitted_.ending.subject
    proof = certificate_for(behind_targets(model)[1], regressor.fitted_)
    whole = knows_steps(proof)
    # A copy, or another pipeline, may end in the same regressor.
    if whole and regressor is not still and not targets.steps:
        proof = proof.of(model)
    changes = proof.subject_.changes() if whole else subject.differences(regressor)
    if y is not None and X is None:
        raise ValueError("y needs X, the rows that it belongs to.")
    bounds = bounds_of(still)
    training = regressor.fitted_.training
    if training is not None:
        training = tuple(in_data_unit(found, targets) for found in training)
    return Report(
        # scikit-learn breaks long representations into lines.
        model_=" ".join(repr(regressor).split()),
        lower_bound_=bounds.lower,
        upper_bound_=bounds.upper,
        guarantee_=regressor.strategy_.guarantee,
        promise_=_promise(regressor, proof, changes),
        training_=training,
        rows_=None if X is None else summarise_rows(still, X, y),
        kkt_=regressor.kkt_,
        repair_=targets.repair(regressor.repair_),
        head_change_=None if changes else _head_change(regressor),
        certificate_=proof,
        changes_=changes,
    )


def _promise(regressor, proof: Certificate | None, changes: tuple[str, ...]) -> str:
    if changes:
        return f"nothing, the model has changed since ({', '.join(changes)})"
    # The strongest promise first.
    if regressor.strategy_.guarantee == "everywhere":
        largest = regressor.fitted_.ending.largest_input
        if math.isinf(largest):
            return "any input without an overflow, by construction"
        return f"any input up to a size of {largest:.3g}, by construction"
    if proof:
        return f"any input of {proof.domain_!r}, proved"
    if regressor.repair_ is None:
        return "nothing exact, without a repair"
    infeasible = np.flatnonzero(~regressor.repair_.feasible_)
    if infeasible.size:
        return f"nothing, no head does for outputs {infeasible.tolist()}"
    # The predictions themselves have the last word.
    repaired = (regressor.fitted_.training or (None, None))[1]
    if repaired is not None and repaired.violation_rate > 0:
        return "nothing exact, the repair was lost to rounding"
    return regressor.repair_.promise_


def _head_change(regressor) -> float | None:
    # Another head need not have the same shape.
    if regressor.repair_ is None:
        return None
    now, trained = (
        read_head(model.module.get_submodule(model.head))
        for model in (as_bounded_model(regressor), regressor.fitted_.as_trained)
    )
    return float(np.linalg.norm(now - trained) / np.linalg.norm(trained))
