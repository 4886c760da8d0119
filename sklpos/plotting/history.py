"""The course of a fit: objective, violation, multipliers and alpha."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sklpos.estimator.target_steps import behind_targets
from sklpos.plotting.axes import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILLION,
    get_axes,
    style,
)

# Column of the history, label, colour and line style of each line, by panel.
_PANELS = {
    "objective": [
        ("objective", "training", BLUE, "-"),
        ("valid_loss", "held out", ORANGE, "--"),
    ],
    "violation": [
        ("max_violation", "largest, sd of y", VERMILLION, "-"),
        ("violation_rate", "share of predictions", PURPLE, "--"),
    ],
    "multipliers": [
        ("max_multiplier", "largest", GREEN, "-"),
        ("mean_multiplier", "mean", PURPLE, "--"),
    ],
    "alpha": [("alpha", "", BLUE, "-")],
}
# The axis is linear below, so that a violation of 0 has a place on it.
_LINEAR_BELOW = 1e-3


class ConstraintHistoryDisplay:
    """Objective, violation, multipliers and alpha over the epochs, in four panels.

    Everything is in scaled units (standard deviations of y), measured on the batches
    during training, before any repair.

    Create one with `from_estimator` or `from_history`.

    Parameters
    ----------
    history : list of dict
        One dictionary per epoch, with the columns of `ConstraintHistory`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The frame of the panels.
    axes_ : dict of matplotlib Axes
        The panels: "objective", "violation", "multipliers", "alpha".
    figure_ : matplotlib Figure

    Examples
    --------
    >>> ConstraintHistoryDisplay([{"objective": 1.0}, {"objective": 0.5}])
    ConstraintHistoryDisplay(2 epochs)
    """

    def __init__(self, history: Sequence[Mapping[str, Any]]):
        self.history = history

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.history)} epochs)"

    @classmethod
    def from_estimator(
        cls, estimator, *, ax=None, **kwargs
    ) -> ConstraintHistoryDisplay:
        """Draw the history of a fitted model.

        Parameters
        ----------
        estimator : PositiveOutputRegressor, Pipeline or search
            Fitted.
        ax : matplotlib Axes, optional
        **kwargs : object
            For the lines.

        Returns
        -------
        ConstraintHistoryDisplay
        """
        history = behind_targets(estimator)[1].history_
        return cls.from_history(history, ax=ax, **kwargs)

    @classmethod
    def from_history(cls, history, *, ax=None, **kwargs) -> ConstraintHistoryDisplay:
        """Draw a history.

        Parameters
        ----------
        history : list of dict
            As ``history_`` of an estimator or a net.
        ax : matplotlib Axes, optional
        **kwargs : object
            For the lines.

        Returns
        -------
        ConstraintHistoryDisplay
        """
        return cls(history).plot(ax, **kwargs)

    def plot(self, ax=None, **kwargs) -> ConstraintHistoryDisplay:
        """Draw the four panels.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Divided into the four panels; by default the axes of a new figure.
        **kwargs : object
            For the lines.

        Returns
        -------
        ConstraintHistoryDisplay

        Raises
        ------
        ValueError
            If `ax` is not part of a grid of subplots.
        """
        self.ax_ = get_axes(ax, figsize=(7.2, 5.0))
        self.figure_ = self.ax_.figure
        place = self.ax_.get_subplotspec()
        if place is None:
            raise ValueError("ax must be a subplot, which can be divided into panels.")
        # Only the frame is divided; its own ticks would lie behind the panels.
        self.ax_.set_axis_off()
        grid = place.subgridspec(2, 2)
        self.axes_ = {}
        for place, (name, columns) in zip(grid, _PANELS.items(), strict=True):
            panel = self.axes_[name] = self.figure_.add_subplot(place)
            self._draw(panel, columns, **kwargs)
            panel.set_title(name, fontsize="medium")
        _scale(self.axes_)
        for name in ("multipliers", "alpha"):
            self.axes_[name].set_xlabel("epoch")
        return self

    def _draw(self, panel, columns, **kwargs) -> None:
        for name, label, color, line in columns:
            # Not every epoch has every column: held-out losses need a validation split.
            epochs = [e for e, row in enumerate(self.history, 1) if name in row]
            values = [row[name] for row in self.history if name in row]
            if values:
                look = style(kwargs, color=color, ls=line, label=label)
                panel.plot(epochs, values, **look)
        if len(panel.lines) > 1:
            panel.legend(edgecolor="none", fontsize="small")
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.get_major_locator().set_params(integer=True)


def _scale(axes: dict) -> None:
    """Make axes logarithmic where values span decades."""
    # A violation may be 0, which a plain logarithm cannot show.
    axes["violation"].set_yscale("symlog", linthresh=_LINEAR_BELOW)
    axes["violation"].set_ylim(bottom=0)
    for name in ("objective", "alpha"):
        values = np.concatenate([line.get_ydata() for line in axes[name].lines] or [[]])
        if len(values) and values.min() > 0 and values.max() > 10 * values.min():
            axes[name].set_yscale("log")
        elif name == "alpha":
            axes[name].set_ylim(bottom=0)
