"""The answer to the question whether a model can leave its bounds."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sklpos.certificates.domains.shapes import All, Domain
from sklpos.nets.warnings import warn_user

Status = Literal["verified", "falsified", "unknown"]


def _renamed(old: str, new: str) -> property:
    """Attribute under its earlier name, until the next version."""

    def get(certificate):
        warn_user(
            f"Certificate.{old} is now called {new}; the old name will be removed in "
            "the next version.",
            FutureWarning,
        )
        return getattr(certificate, new)

    return property(get, doc=f"Earlier name of `{new}`.")


@dataclass(frozen=True, eq=False)
class Certificate:
    """What is proved, and what is disproved, about a model over a domain.

    A certificate is truthy only when it is verified.

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

    lower_bound_ = _renamed("lower_bound_", "proved_min_")
    upper_bound_ = _renamed("upper_bound_", "attained_min_")
    required_ = _renamed("required_", "required_min_")

    def __bool__(self) -> bool:
        return self.status_ == "verified"

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(_of_this_version(state))

    def __repr__(self) -> str:
        lines = [f"Certificate: {self.status_} over {self.domain_!r}{self._up_to()}"]
        lines += [
            f"  every prediction {side.sign} {side.proved} (asked: {side.required}), "
            f"{side.extreme} seen {side.attained}"
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
        for side in self._sides():
            cells[f"proved: every prediction at {side.word}"] = side.proved
            cells[f"asked for, at {side.word}"] = side.required
            cells[f"{side.extreme} prediction seen"] = side.attained
        cells |= {
            "method": f"{self.method_}, {self.n_boxes_} boxes, {self.time_:.2g} s",
            "rounding margin": _show(self.numerical_slack_),
            "assuming": "; ".join(self.assumptions_),
        }
        if self.counterexample_ is not None:
            cells[f"counterexample{self._which_side()}"] = _show(self.counterexample_)
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in cells.items()
        )
        return f"<table><caption>Certificate: {self.status_}</caption>{rows}</table>"

    _repr_html_ = to_html

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


def _of_this_version(state: dict) -> dict:
    """Fields of a stored certificate; earlier versions knew the lower side alone."""
    if "lower_bound_" not in state:
        return state
    names = {
        "lower_bound_": "proved_min_",
        "upper_bound_": "attained_min_",
        "required_": "required_min_",
    }
    state = {names.get(name, name): value for name, value in state.items()}
    free = np.full_like(state["required_min_"], np.inf)
    broken = None if state["counterexample_"] is None else "lower"
    sides = {"proved_max_": free, "attained_max_": -free, "required_max_": free}
    return state | sides | {"broken_side_": broken}


def _show(values: NDArray) -> str:
    # Most models have one output, which has room for more digits.
    if len(values) == 1:
        return f"{values[0]:.6g}"
    shown = ", ".join(f"{value:.4g}" for value in values[:8])
    return f"[{shown}{', ...' if len(values) > 8 else ''}]"
