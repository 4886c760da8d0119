"""The answer to the question whether a model can fall below its bound."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sklpos.certificates.domains.shapes import Domain

Status = Literal["verified", "falsified", "unknown"]


@dataclass(frozen=True, eq=False)
class Certificate:
    """What is proved, and what is disproved, about a model over a domain.

    A certificate is truthy only when it is verified.

    Attributes
    ----------
    status_ : {"verified", "falsified", "unknown"}
        Whether every output is at least `required_` over the whole domain.
    lower_bound_ : ndarray of shape (n_outputs,)
        Proved: no prediction in the domain is smaller. Unit of y.
    upper_bound_ : ndarray of shape (n_outputs,)
        Smallest prediction that was seen in the domain. Unit of y.
    counterexample_ : ndarray of shape (n_features,) or None
        Input whose prediction is below the bound. Unit of X.
    required_ : ndarray of shape (n_outputs,)
        The bound that was asked for.
    domain_ : Domain
    method_ : str
        The method that decided the question, or the last one tried.
    n_boxes_ : int
        Number of boxes that were bounded.
    time_ : float
        Seconds.
    numerical_slack_ : ndarray of shape (n_outputs,)
        Margin against rounding, already subtracted from `lower_bound_`. Unit of y.
    assumptions_ : tuple of str
        What the proof takes for granted.
    rows_ : ndarray of str of shape (n_samples,) or None
        The status of each ball, if the domain consists of balls.

    Examples
    --------
    >>> from sklpos.certificates import Box
    >>> one = np.ones(1)
    >>> Certificate("verified", one, 2 * one, None, 0 * one, Box([0.0], [1.0]), "crown",
    ...             1, 0.001, 1e-6 * one, ())
    Certificate: verified over Box(1 features: 0 to 1)
      every prediction >= 1 (asked: 0), smallest seen 2
      by crown in 0.001 s, 1 boxes, rounding margin 1e-06
    """

    status_: Status
    lower_bound_: NDArray
    upper_bound_: NDArray
    counterexample_: NDArray | None
    required_: NDArray
    domain_: Domain
    method_: str
    n_boxes_: int
    time_: float
    numerical_slack_: NDArray
    assumptions_: tuple[str, ...]
    rows_: NDArray | None = None

    def __bool__(self) -> bool:
        return self.status_ == "verified"

    def __repr__(self) -> str:
        lines = [f"Certificate: {self.status_} over {self.domain_!r}"]
        lines.append(
            f"  every prediction >= {_show(self.lower_bound_)} "
            f"(asked: {_show(self.required_)}), smallest seen "
            f"{_show(self.upper_bound_)}"
        )
        if self.counterexample_ is not None:
            lines.append(f"  counterexample: {_show(self.counterexample_)}")
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
        cells = {
            "domain": repr(self.domain_),
            "proved: every prediction at least": _show(self.lower_bound_),
            "asked for": _show(self.required_),
            "smallest prediction seen": _show(self.upper_bound_),
            "method": f"{self.method_}, {self.n_boxes_} boxes, {self.time_:.2g} s",
            "rounding margin": _show(self.numerical_slack_),
            "assuming": "; ".join(self.assumptions_),
        }
        if self.counterexample_ is not None:
            cells["counterexample"] = _show(self.counterexample_)
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in cells.items()
        )
        return f"<table><caption>Certificate: {self.status_}</caption>{rows}</table>"

    _repr_html_ = to_html


def _show(values: NDArray) -> str:
    # Most models have one output, which has room for more digits.
    if len(values) == 1:
        return f"{values[0]:.6g}"
    shown = ", ".join(f"{value:.4g}" for value in values[:8])
    return f"[{shown}{', ...' if len(values) > 8 else ''}]"
