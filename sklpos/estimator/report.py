"""A report on a fitted model, on one page."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sklpos.certificates.certificate import Certificate
from sklpos.estimator.row_summary import RowSummary, fitted_regressor, summarise_rows
from sklpos.nets.bounded import as_bounded_model
from sklpos.nets.head import read_head
from sklpos.repair import Repair
from sklpos.training.kkt import KKTResiduals

_LEFT = "style='text-align:left'"
_PUSHES = {"lower": "up", "upper": "down"}

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
        None after `partial_fit`; after `enforce`, the second of them is None.
    rows_ : pair of RowSummary, or None
        Of the rows that the report was asked for.
    kkt_ : KKTResiduals or None
        In standard deviations of y.
    repair_ : Repair or None
    head_change_ : float or None
        Norm of the change of the head by the repair, over that of the head.
    certificate_ : Certificate or None
        In the unit of what the regressor takes, after a pipeline's scaler.

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

    def _tables(self) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
        """Yield titles, each with lines of a name and its values."""
        bounds = {"lower": self.lower_bound_, "upper": self.upper_bound_}
        sides = {side: own for side, own in bounds.items() if np.isfinite(own).any()}
        yield (
            self.model_,
            [
                *((f"{side} bound", _numbers(own)) for side, own in sides.items()),
                ("guarantee of the strategy", self.guarantee_),
                ("no prediction outside the bounds for", self.promise_),
            ],
        )
        for what, pair in (("training rows", self.training_), ("rows", self.rows_)):
            if pair is not None:
                yield f"{pair[0].n_samples} {what}", _row_lines(*pair, sides)
        if self.repair_ is not None:
            lines = _repair_lines(self.repair_, self.head_change_, sides)
            yield "repair of the head", lines
        if self.kkt_ is not None:
            yield (
                "optimality of the training, in standard deviations of y",
                [
                    (name.replace("_", " "), f"{value:.3g}")
                    for name, value in vars(self.kkt_).items()
                ],
            )

    def __repr__(self) -> str:
        blocks = [_as_text(*table) for table in self._tables()]
        if self.certificate_ is not None:
            blocks.append(repr(self.certificate_))
        return "\n".join(blocks)

    def _repr_html_(self) -> str:
        """Tables for notebooks."""
        rows = "".join(_as_html(*table) for table in self._tables())
        proof = self.certificate_
        after = "" if proof is None else proof.to_html()
        return f"<table>{rows}</table>{after}"


def report(model, X: ArrayLike | None = None, y: ArrayLike | None = None) -> Report:
    """Report what holds for a fitted model, and what its repair cost.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline or search
        Fitted; for a search, its best estimator is used.
    X : array-like of shape (n_samples, n_features), optional
        Further rows to look at, such as a holdout.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs), optional
        Their targets.

    Returns
    -------
    Report
        Prints as text, and as HTML in notebooks. Numbers are in the unit of y.

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
    regressor = fitted_regressor(model)[1]
    if y is not None and X is None:
        raise ValueError("y needs X, the rows that it belongs to.")
    return Report(
        # scikit-learn breaks long representations into lines.
        model_=" ".join(repr(regressor).split()),
        lower_bound_=regressor.net_.targets.bounds.lower,
        upper_bound_=regressor.net_.targets.bounds.upper,
        guarantee_=regressor.strategy_.guarantee,
        promise_=_promise(regressor),
        training_=regressor.fitted_.training,
        rows_=None if X is None else summarise_rows(model, X, y),
        kkt_=regressor.kkt_,
        repair_=regressor.repair_,
        head_change_=_head_change(regressor),
        certificate_=regressor.certificate_,
    )


def _promise(regressor) -> str:
    # The strongest promise first.
    if regressor.strategy_.guarantee == "everywhere":
        largest = regressor.fitted_.ending.largest_input
        if math.isinf(largest):
            return "any input without an overflow, by construction"
        return f"any input up to a size of {largest:.3g}, by construction"
    if regressor.certificate_:
        return f"any input of {regressor.certificate_.domain_!r}, proved"
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
    if regressor.repair_ is None:
        return None
    now, trained = (
        read_head(model.module.get_submodule(model.head))
        for model in (as_bounded_model(regressor), regressor.fitted_.as_trained)
    )
    return float(np.linalg.norm(now - trained) / np.linalg.norm(trained))


def _row_lines(as_trained: RowSummary, repaired: RowSummary | None, sides) -> list:
    columns = [as_trained] if repaired is None else [as_trained, repaired]
    shares = {"rows outside the bounds": [c.violation_rate for c in columns]}
    # Only with bounds on both sides is there a question which one it was.
    if len(sides) == 2:
        shares["rows below the lower bound"] = [c.below_rate for c in columns]
        shares["rows above the upper bound"] = [c.above_rate for c in columns]
    lines = [("", *("as trained", "repaired")[: len(columns)])]
    for name, rates in shares.items():
        lines.append((name, *(_share(rate, as_trained.n_samples) for rate in rates)))
    lines.append(("largest violation", *(_numbers(c.max_violation) for c in columns)))
    if as_trained.rmse is not None:
        lines.append(("root mean squared error", *(_numbers(c.rmse) for c in columns)))
    return lines


def _share(rate: float, n_samples: int) -> str:
    return f"{round(rate * n_samples)} ({rate:.1%})"


def _repair_lines(repair: Repair, head_change: float | None, sides) -> list:
    where = " or ".join(_PUSHES[side] for side in sides or _PUSHES)
    balanced = ["yes" if kept else "no" for kept in repair.balanced_]
    lines = [
        ("root mean square change of predictions", _numbers(np.sqrt(repair.cost_))),
        ("change of the head, of its norm", f"{head_change:.2%}"),
        (f"rows that hold it {where}", _numbers(repair.n_cuts_)),
    ]
    # A repair on a domain, or a shift, has no multipliers.
    if len(sides) == 2 and repair.multipliers_.any():
        up, down = repair.multipliers_ > 0, repair.multipliers_ < 0
        lines += [
            ("rows that hold it up", _numbers(up.sum(axis=0))),
            ("rows that hold it down", _numbers(down.sum(axis=0))),
        ]
    return [*lines, ("mean prediction is the mean target", _listed(balanced))]


def _numbers(values: np.ndarray) -> str:
    """Format one number per output, to four digits."""
    return _listed([f"{value:.4g}" for value in values])


def _listed(words: list[str]) -> str:
    """One word per output, as many as a line has room for."""
    return ", ".join(words[:8]) + (", ..." if len(words) > 8 else "")


def _as_text(title: str, lines: list[tuple[str, ...]]) -> str:
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    aligned = [
        name.ljust(widths[0])
        + "".join(
            cell.rjust(width + 3) for cell, width in zip(cells, widths[1:], strict=True)
        )
        for name, *cells in lines
    ]
    return "\n".join([title, *(f"  {line}" for line in aligned)])


def _as_html(title: str, lines: list[tuple[str, ...]]) -> str:
    rows = [f"<tr><th colspan='3' {_LEFT}>{html.escape(title)}</th></tr>"]
    for name, *cells in lines:
        span = "" if len(cells) > 1 else " colspan='2'"
        values = "".join(
            f"<td{span} {_LEFT}>{html.escape(cell)}</td>" for cell in cells
        )
        rows.append(f"<tr><td {_LEFT}>{html.escape(name)}</td>{values}</tr>")
    return "".join(rows)
