"""The answer to the question whether a model can leave its bounds."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from sklpos.certificates.domains.shapes import All, Domain
from sklpos.certificates.earlier import of_this_version, renamed
from sklpos.certificates.subject import Subject
from sklpos.nets.columns import Columns

Status = Literal["verified", "falsified", "unknown"]


@dataclass(frozen=True, eq=False)
class Certificate:
    """What is proved, and what is disproved, about a model over a domain.

    A certificate is truthy only if it is verified and its model is as it was: it knows
    the model by digests of the weights, layers, hooks, scalers and bounds, and looks at
    it each time that it is asked. Of a stored certificate, or one whose model no longer
    exists, nobody knows the model; then it is false, until `holds_for` is given one.
    The attributes stay as they were found.

    Attributes
    ----------
    status_ : {"verified", "falsified", "unknown"}
        Whether every output is at least `required_min_` and at most `required_max_`
        over the whole domain.
    proved_min_, proved_max_ : ndarray of shape (n_outputs,)
        Proved: every prediction in the domain lies between. Unit of y.
    attained_min_, attained_max_ : ndarray of shape (n_outputs,)
        Smallest and largest prediction that were seen in the domain; they are searched
        for only on a side that has a bound. Unit of y.
    required_min_, required_max_ : ndarray of shape (n_outputs,)
        The bounds that were asked for; infinite where there is none. Unit of y.
    counterexample_ : ndarray of shape (n_features,) or None
        Input whose prediction is out of bounds. Unit of X.
    broken_side_ : {"lower", "upper"} or None
        The bound that the prediction for the counterexample breaks.
    domain_ : Domain
    method_ : str
        The method that decided the question, or the last one tried.
    n_boxes_ : int
        Number of boxes that were bounded.
    time_ : float
        Seconds.
    numerical_slack_ : ndarray of shape (n_outputs,)
        Margin against rounding, by which the proved range is wider than that of the
        exact network. Unit of y.
    assumptions_ : tuple of str
        What the proof takes for granted.
    rows_ : ndarray of str of shape (n_samples,) or None
        The status of each ball, if the domain consists of balls.
    largest_input_ : float
        Largest absolute value of a feature for which no sum can overflow, in any order
        of summation; beyond it nothing is proved. Infinite where it is not known,
        because a layer behind an output activation is not understood. Unit of X.
    subject_ : Subject or None
        The model; None if it was not recorded, as in files of earlier versions.
    columns_ : Columns or None
        The columns of the data, if the model knows them.

    Examples
    --------
    >>> from torch import nn
    >>> from sklpos.certificates import Box, certify_module
    >>> module = nn.Linear(1, 1).double()
    >>> _ = nn.init.ones_(module.weight), nn.init.ones_(module.bias)
    >>> found = certify_module(module, Box([0.0], [1.0]), upper_bound=1.5)
    >>> found.status_, found.broken_side_, found.counterexample_
    ('falsified', 'upper', array([1.]))
    >>> found.attained_min_, found.attained_max_
    (array([1.5]), array([2.]))
    """

    status_: Status
    proved_min_: NDArray
    proved_max_: NDArray
    attained_min_: NDArray
    attained_max_: NDArray
    required_min_: NDArray
    required_max_: NDArray
    counterexample_: NDArray | None
    broken_side_: Literal["lower", "upper"] | None
    domain_: Domain
    method_: str
    n_boxes_: int
    time_: float
    numerical_slack_: NDArray
    assumptions_: tuple[str, ...]
    rows_: NDArray | None = None
    # Certificates of earlier versions assume that nothing overflows.
    largest_input_: float = math.inf
    subject_: Subject | None = None
    columns_: Columns | None = None

    lower_bound_ = renamed("lower_bound_", "proved_min_")
    upper_bound_ = renamed("upper_bound_", "attained_min_")
    required_ = renamed("required_", "required_min_")

    def __bool__(self) -> bool:
        return self.status_ == "verified" and not self._doubt()

    def holds_for(self, model: Any) -> bool:
        """Whether it is verified, and was made of a model just as the model is now.

        From then on, the certificate looks at this model.

        Parameters
        ----------
        model : PositiveOutputRegressor, Pipeline, search or nn.Module
            Of the kind that was certified.

        Returns
        -------
        bool
        """
        if self.subject_ is None or self.subject_.differences(model):
            return False
        vars(self)["subject_"] = self.subject_.bound_to(model)
        return bool(self)

    def of(self, model: Any) -> Self:
        """Certificate that looks at a model, and is true only if that is the same.

        Parameters
        ----------
        model : PositiveOutputRegressor, Pipeline, search or nn.Module

        Returns
        -------
        Certificate
            A copy, if this one looks at another estimator.
        """
        subject = self.subject_
        if subject is None or subject.refers_to(model):
            return self
        bound = subject.bound_to(model)
        if subject.has_owner:
            return replace(self, subject_=bound)
        vars(self)["subject_"] = bound
        return self

    def _doubt(self) -> str:
        """Why it is not known to be about a present model; empty if it is."""
        if self.subject_ is None or not self.subject_.is_at_hand:
            return "its model is not at hand, see holds_for"
        changes = ", ".join(self._changes())
        return f"the model has changed since ({changes})" if changes else ""

    def _changes(self) -> tuple[str, ...]:
        at_hand = self.subject_ is not None and self.subject_.is_at_hand
        return self.subject_.changes() if at_hand else ()

    @property
    def counterexample_frame_(self) -> Any:
        """The counterexample as the model takes its data: a `pandas.DataFrame`.

        Its one row has the names, units and categories of the columns; those that the
        model ignores are NaN. None without a counterexample.
        """
        row = self.counterexample_
        if row is None:
            return None
        plain = Columns.numbers(range(len(row)), named=False)
        return (self.columns_ or plain).frame(row[None])

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(of_this_version(state))

    def __repr__(self) -> str:
        lines = [f"Certificate: {self._verdict()} over {self.domain_!r}{self._up_to()}"]
        # Nothing is claimed of a model that is another one now.
        if self._changes():
            return lines[0]
        lines += [
            f"  proved: every prediction {side.sign} {side.proved} (required: "
            f"{side.required}); {side.extreme} attained: {side.attained}"
            for side in self._sides()
        ]
        if self.counterexample_ is not None:
            lines.append(
                f"  counterexample{self._which_side()}: {_show(self.counterexample_)}"
            )
        if self.rows_ is not None:
            verified = np.count_nonzero(self.rows_ == "verified")
            lines.append(f"  {verified} of {len(self.rows_)} rows verified")
        lines.append(
            f"  by {self.method_} in {self.time_:.2g} s, {self.n_boxes_} boxes, "
            f"rounding margin {_show(self.numerical_slack_)}"
        )
        return "\n".join(lines)

    def to_html(self) -> str:
        """Table for notebooks.

        Returns
        -------
        str
        """
        cells = {"domain": f"{self.domain_!r}{self._up_to()}"}
        if not self._changes():
            cells |= self._findings()
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in cells.items()
        )
        verdict = html.escape(self._verdict())
        return f"<table><caption>Certificate: {verdict}</caption>{rows}</table>"

    _repr_html_ = to_html

    def _findings(self) -> dict[str, str]:
        """What was found, by its name in the table."""
        cells = {}
        for side in self._sides():
            cells[f"proved: every prediction at {side.word}"] = side.proved
            cells[f"required, at {side.word}"] = side.required
            cells[f"{side.extreme} prediction attained"] = side.attained
        cells |= {
            "method": f"{self.method_}, {self.n_boxes_} boxes, {self.time_:.2g} s",
            "rounding margin": _show(self.numerical_slack_),
            "assuming": "; ".join(self.assumptions_),
        }
        if self.counterexample_ is not None:
            cells[f"counterexample{self._which_side()}"] = _show(self.counterexample_)
        return cells

    def _verdict(self) -> str:
        doubt = self._doubt()
        return f"{doubt}; found then: {self.status_}" if doubt else self.status_

    def _sides(self) -> list[_Side]:
        """The sides that have a bound; the lower one if there is none."""
        least, most = self.required_min_, self.required_max_
        lower = self.proved_min_, least, self.attained_min_
        upper = self.proved_max_, most, self.attained_max_
        sides = []
        if np.isfinite(least).any() or not np.isfinite(most).any():
            sides.append(_Side(">=", "least", "smallest", *map(_show, lower)))
        if np.isfinite(most).any():
            sides.append(_Side("<=", "most", "largest", *map(_show, upper)))
        return sides

    def _up_to(self) -> str:
        """The end of an endless domain."""
        endless = isinstance(self.domain_, All) and math.isfinite(self.largest_input_)
        return f" up to a size of {self.largest_input_:.3g}" if endless else ""

    def _which_side(self) -> str:
        """Only worth saying where there are two."""
        return f" to the {self.broken_side_} bound" if len(self._sides()) == 2 else ""


class _Side(NamedTuple):
    """One side of a certificate in words."""

    sign: str
    word: str
    extreme: str
    proved: str
    required: str
    attained: str


def _show(values: NDArray) -> str:
    # Most models have one output, which has room for more digits.
    if len(values) == 1:
        return f"{values[0]:.6g}"
    shown = ", ".join(f"{value:.4g}" for value in values[:8])
    return f"[{shown}{', ...' if len(values) > 8 else ''}]"
