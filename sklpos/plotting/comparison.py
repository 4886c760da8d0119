"""The candidates of a search, by error and violation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sklpos.metrics import mean_score
from sklpos.plotting.axes import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    as_label,
    get_axes,
    style,
)

# Strategies differ in shape and in colour, so that either is enough to read the plot.
_LOOKS = [
    ("o", BLUE),
    ("s", VERMILLION),
    ("^", GREEN),
    ("D", ORANGE),
    ("v", PURPLE),
    ("P", SKY),
    ("X", BLACK),
    ("<", GREY),
    ("*", BLUE),
    (">", VERMILLION),
]


class StrategyComparisonDisplay:
    """Error against violation on held-out rows, with one point per candidate.

    The feasible set, from which `best_feasible` chooses, is shaded.

    Create one with `from_estimator` or `from_cv_results`.

    Parameters
    ----------
    names : list of str
        The strategy of each candidate.
    error, violation : ndarray of shape (n_candidates,)
        Smaller is better.
    tolerance : float, default=0.0
        Violation that still counts as feasible.
    best_index : int, optional
        The candidate that was chosen.
    labels : tuple of str
        Names of the error and the violation, for the labels of the axes.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    points_ : dict of matplotlib Line2D
        The points of each strategy.
    best_ : matplotlib Line2D or None

    Examples
    --------
    >>> import numpy as np
    >>> StrategyComparisonDisplay(
    ...     ["penalty", "activation"], np.array([1.0, 1.1]), np.array([0.1, 0.0])
    ... )
    StrategyComparisonDisplay(2 candidates, 1 feasible)
    """

    def __init__(
        self,
        names: Sequence[str],
        error: NDArray,
        violation: NDArray,
        *,
        tolerance: float = 0.0,
        best_index: int | None = None,
        labels: tuple[str, str] = ("rmse", "violation_rate"),
    ):
        self.names = names
        self.error = error
        self.violation = violation
        self.tolerance = tolerance
        self.best_index = best_index
        self.labels = labels

    def __repr__(self) -> str:
        feasible = np.count_nonzero(self.violation <= self.tolerance)
        return (
            f"{type(self).__name__}({len(self.names)} candidates, {feasible} feasible)"
        )

    @classmethod
    def from_estimator(cls, search, **options) -> StrategyComparisonDisplay:
        """Draw the candidates of a fitted search, with the one that it chose.

        Parameters
        ----------
        search : GridSearchCV or another search
            Fitted, with scorers of error and violation, such as
            `sklpos.metrics.SCORERS`.
        **options : object
            Options of `from_cv_results`.

        Returns
        -------
        StrategyComparisonDisplay
        """
        best_index = getattr(search, "best_index_", None)
        options = {"best_index": best_index, **options}
        return cls.from_cv_results(search.cv_results_, **options)

    @classmethod
    def from_cv_results(
        cls,
        cv_results: dict,
        *,
        score: str = "rmse",
        violation: str = "violation_rate",
        tolerance: float = 0.0,
        best_index: int | None = None,
        ax=None,
        **kwargs,
    ) -> StrategyComparisonDisplay:
        """Draw the candidates in the results of a search.

        Parameters
        ----------
        cv_results : dict
            As ``cv_results_`` of a search.
        score : str, default="rmse"
            Name of the scorer of the negated error.
        violation : str, default="violation_rate"
            Name of the scorer of the negated violation.
        tolerance : float, default=0.0
            Violation that still counts as feasible, as in `best_feasible`.
        best_index : int, optional
            The candidate to mark.
        ax : matplotlib Axes, optional
        **kwargs : object
            Options of the points.

        Returns
        -------
        StrategyComparisonDisplay

        Raises
        ------
        ValueError
            If the search had no such scorer.
        """
        names = [_strategy(candidate) for candidate in cv_results["params"]]
        display = cls(
            names,
            # Scorers are negated, as a search maximises them.
            -mean_score(cv_results, score),
            -mean_score(cv_results, violation),
            tolerance=tolerance,
            best_index=best_index,
            labels=(score, violation),
        )
        return display.plot(ax, **kwargs)

    def plot(self, ax=None, **kwargs) -> StrategyComparisonDisplay:
        """Draw the candidates.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default the axes of a new figure.
        **kwargs : object
            Options of the points.

        Returns
        -------
        StrategyComparisonDisplay
        """
        self.ax_ = get_axes(ax, figsize=(7.2, 4.4))
        self.figure_ = self.ax_.figure
        self.points_ = {}
        # One call per strategy, so that the legend has one entry for each.
        for number, name in enumerate(dict.fromkeys(self.names)):
            mine = [other == name for other in self.names]
            marker, color = _LOOKS[number % len(_LOOKS)]
            look = style(
                kwargs, marker=marker, color=color, ls="", label=as_label(name)
            )
            place = self.violation[mine], self.error[mine]
            (self.points_[name],) = self.ax_.plot(*place, **look)
        self._mark_best()
        self._shade()
        self._annotate()
        return self

    def _mark_best(self) -> None:
        self.best_ = None
        if self.best_index is not None:
            place = self.violation[self.best_index], self.error[self.best_index]
            (self.best_,) = self.ax_.plot(
                *place, "o", ms=14, mfc="none", mec=BLACK, label="chosen"
            )

    def _shade(self) -> None:
        """Shade the feasible set; it has a width even at tolerance 0."""
        finite = self.violation[np.isfinite(self.violation)]
        # Any width will do if no candidate violates its bound.
        widest = max(finite.max(initial=0.0), self.tolerance) or 1.0
        low = -0.06 * widest
        self.ax_.axvspan(low, self.tolerance, color=GREEN, alpha=0.12, lw=0, zorder=0)
        self.ax_.axvline(self.tolerance, color=GREEN, lw=0.8, zorder=1)
        self.ax_.set_xlim(low, 1.06 * widest)

    def _annotate(self) -> None:
        error, violation = (label.replace("_", " ") for label in self.labels)
        if violation.endswith("rate"):
            from matplotlib.ticker import PercentFormatter

            self.ax_.xaxis.set_major_formatter(PercentFormatter(1.0))
        self.ax_.set(
            xlabel=f"{as_label(violation)}, held-out rows (shaded: feasible)",
            ylabel=f"{as_label(error)}, held-out rows",
        )
        self.ax_.legend(
            frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1)
        )
        self.ax_.spines[["top", "right"]].set_visible(False)


def _strategy(candidate: dict) -> str:
    """Name of a candidate's strategy, or its parameters if it has none."""
    # In a pipeline or another wrapper, the name has a prefix.
    for name, value in candidate.items():
        if name.split("__")[-1] == "strategy":
            return value if isinstance(value, str) else type(value).__name__
    return ", ".join(f"{name}={value}" for name, value in candidate.items())
