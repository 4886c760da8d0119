"""Predictions around their bounds, before and after the repair."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklpos.estimator.pipelines import snapshot
from sklpos.estimator.row_summary import bounds_of, predict_twice
from sklpos.nets.bounds import Bounds
from sklpos.plotting.axes import BLUE, GREY, VERMILLION, draw_bounds, get_axes, style

_KINDS = ("sorted", "actual_vs_predicted")


class PositivityDisplay:
    """Predictions of one output around its bounds, with those outside marked.

    Create one with `from_estimator` or `from_predictions`.

    Parameters
    ----------
    y_pred : ndarray of shape (n_samples,)
    y_true : ndarray of shape (n_samples,), optional
    y_before : ndarray of shape (n_samples,), optional
        Predictions before the repair of the head.
    lower_bound : float or None, default=0.0
        Unit of y; ``-inf`` or None leaves the side free.
    upper_bound : float or None, default=None
        Unit of y; ``inf`` or None leaves the side free.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    points_, before_, outside_ : matplotlib Line2D or None
        The predictions, the ones before the repair, and those outside the bounds.

    Examples
    --------
    >>> import numpy as np
    >>> PositivityDisplay(y_pred=np.array([-1.0, 0.0, 2.0]))
    PositivityDisplay(1 of 3 rows below 0)
    >>> PositivityDisplay(y_pred=np.array([-1.0, 0.0, 2.0]), upper_bound=1)
    PositivityDisplay(2 of 3 rows outside [0, 1])
    """

    def __init__(
        self,
        *,
        y_pred: NDArray,
        y_true: NDArray | None = None,
        y_before: NDArray | None = None,
        lower_bound: float | None = 0.0,
        upper_bound: float | None = None,
    ):
        self.y_pred = y_pred
        self.y_true = y_true
        self.y_before = y_before
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._count(self.y_pred)})"

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        output: int = 0,
        kind: str | None = None,
        ax=None,
        **kwargs,
    ) -> PositivityDisplay:
        """Predict with the head as trained and as repaired, and draw both.

        Parameters
        ----------
        estimator : PositiveOutputRegressor, Pipeline or search
            Fitted.
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), optional
        output : int, default=0
            Which output to draw.
        kind : {"sorted", "actual_vs_predicted"}, optional
            See `plot`.
        ax : matplotlib Axes, optional
        **kwargs : object
            For the points.

        Returns
        -------
        PositivityDisplay
        """
        estimator = snapshot(estimator)
        as_trained, repaired = predict_twice(estimator, X)
        after = as_trained if repaired is None else repaired
        bounds = bounds_of(estimator)
        return cls.from_predictions(
            after[:, output],
            y_true=None if y is None else _column(y, output),
            y_before=None if repaired is None else as_trained[:, output],
            lower_bound=float(bounds.lower[output]),
            upper_bound=float(bounds.upper[output]),
            kind=kind,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_pred: ArrayLike,
        *,
        y_true: ArrayLike | None = None,
        y_before: ArrayLike | None = None,
        lower_bound: float | None = 0.0,
        upper_bound: float | None = None,
        kind: str | None = None,
        ax=None,
        **kwargs,
    ) -> PositivityDisplay:
        """Draw predictions of any model.

        Parameters
        ----------
        y_pred : array-like of shape (n_samples,)
        y_true : array-like of shape (n_samples,), optional
        y_before : array-like of shape (n_samples,), optional
            Other predictions to compare with, such as those before a repair.
        lower_bound : float or None, default=0.0
            Unit of y; ``-inf`` or None leaves the side free.
        upper_bound : float or None, default=None
            Unit of y; ``inf`` or None leaves the side free.
        kind : {"sorted", "actual_vs_predicted"}, optional
            See `plot`.
        ax : matplotlib Axes, optional
        **kwargs : object
            For the points.

        Returns
        -------
        PositivityDisplay

        Raises
        ------
        ValueError
            If the arrays do not have one value per row.
        """
        columns = {"y_pred": y_pred, "y_true": y_true, "y_before": y_before}
        for name, values in columns.items():
            columns[name] = None if values is None else np.asarray(values)
            if values is not None and columns[name].shape != (len(y_pred),):
                raise ValueError(
                    f"{name} has shape {columns[name].shape}, but one output is drawn: "
                    f"({len(y_pred)},) is needed."
                )
        display = cls(**columns, lower_bound=lower_bound, upper_bound=upper_bound)
        return display.plot(ax, kind=kind, **kwargs)

    def plot(self, ax=None, *, kind: str | None = None, **kwargs) -> PositivityDisplay:
        """Draw the predictions.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default the axes of a new figure.
        kind : {"sorted", "actual_vs_predicted"}, optional
            Predictions in the order of those before the repair, or the targets against
            the predictions. By default the latter if there are targets.
        **kwargs : object
            For the points.

        Returns
        -------
        PositivityDisplay

        Raises
        ------
        ValueError
            If the kind is unknown, or needs targets and there are none.
        """
        kind = kind or ("sorted" if self.y_true is None else "actual_vs_predicted")
        if kind not in _KINDS:
            raise ValueError(f"kind={kind!r} is unknown; choose one of {_KINDS}.")
        if kind == "actual_vs_predicted" and self.y_true is None:
            raise ValueError("kind='actual_vs_predicted' needs targets, y or y_true.")
        self.ax_ = get_axes(ax)
        self.figure_ = self.ax_.figure
        place = self._by_rank() if kind == "sorted" else self._by_target()
        self._draw(place, **kwargs)
        # After the points, which set the limits that the shading fills.
        sides = self._bounds.lower.item(), self._bounds.upper.item()
        draw_bounds(self.ax_, *sides, vertical=kind != "sorted")
        self.ax_.legend(edgecolor="none", fontsize="small")
        self.ax_.spines[["top", "right"]].set_visible(False)
        return self

    def _by_rank(self):
        first = self.y_pred if self.y_before is None else self.y_before
        # The order of an argsort is the rank of each row.
        rank = np.argsort(np.argsort(first, kind="stable"), kind="stable")
        self.ax_.set(xlabel="rows, in order of prediction", ylabel="prediction")
        return lambda values, rows: (rank[rows], values[rows])

    def _by_target(self):
        self.ax_.set(xlabel="prediction", ylabel="target")
        self.ax_.axline((0, 0), slope=1, color=GREY, lw=0.8, ls=":", zorder=1)
        return lambda values, rows: (values[rows], self.y_true[rows])

    def _draw(self, place, **kwargs) -> None:
        def draw(values, rows, marker, **look):
            return self.ax_.plot(*place(values, rows), marker, **look)[0]

        rows = np.arange(len(self.y_pred))
        outside = rows[~self._bounds.contain(self.y_pred)]
        alone = self.y_before is None
        count = self._count(self.y_pred)
        label = "predictions" if alone else f"repaired: {count}"
        self.before_ = self.outside_ = None
        if not alone:
            trained = f"as trained: {self._count(self.y_before)}"
            look = {"ms": 3, "color": GREY, "label": trained}
            self.before_ = draw(self.y_before, rows, "o", **look)
        look = style(kwargs, ms=3, color=BLUE, label=label)
        self.points_ = draw(self.y_pred, rows, "o", **look)
        if outside.size:
            look = {"ms": 6, "mew": 1.5, "color": VERMILLION}
            look["label"] = count if alone else None
            self.outside_ = draw(self.y_pred, outside, "x", **look)

    @property
    def _bounds(self) -> Bounds:
        return Bounds.read(self.lower_bound, self.upper_bound, n_outputs=1)

    def _count(self, values) -> str:
        outside = np.count_nonzero(~self._bounds.contain(np.asarray(values)))
        return f"{outside} of {len(values)} rows {_outside_of(self._bounds)}"


def _outside_of(bounds: Bounds) -> str:
    lower, upper = bounds.lower.item(), bounds.upper.item()
    if not bounds.bounded:
        return "outside, without bounds"
    if np.isinf(upper):
        return f"below {lower:g}"
    return f"above {upper:g}" if np.isinf(lower) else f"outside [{lower:g}, {upper:g}]"


def _column(y, output: int) -> np.ndarray:
    y = np.asarray(y)
    return y if y.ndim == 1 else y[:, output]
