"""What the displays share: where to draw, and in which colours."""

from __future__ import annotations

# Okabe & Ito (2008): told apart by all kinds of colour vision, and in grey.
BLUE, VERMILLION, ORANGE = "#0072B2", "#D55E00", "#E69F00"
GREEN, SKY, PURPLE = "#009E73", "#56B4E9", "#CC79A7"
BLACK, GREY = "#000000", "#888888"


def get_axes(ax=None, figsize: tuple[float, float] = (6.4, 4.4)):
    """Return the axes to draw on, new ones if there are none.

    Parameters
    ----------
    ax : matplotlib Axes, optional
    figsize : tuple of float
        Of a new figure, in inches.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "the displays of sklpos need matplotlib; install it with "
            "pip install 'sklpos[plot]'."
        ) from error
    if ax is not None:
        return ax
    return plt.subplots(figsize=figsize, layout="constrained")[1]


def style(given: dict, **defaults) -> dict:
    """Return the look of a line: what is given, under any of its names, wins.

    Parameters
    ----------
    given : dict
        For ``Axes.plot``; aliases such as ``lw`` are understood.
    **defaults : object

    Returns
    -------
    dict
    """
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.lines import Line2D

    looks = [normalize_kwargs(look, Line2D) for look in (defaults, given)]
    return {**looks[0], **looks[1]}


def draw_bound(ax, lower_bound: float, *, vertical: bool = False) -> None:
    """Draw the bound, and shade what lies below it up to the limit of the axes.

    Parameters
    ----------
    ax : matplotlib Axes
        With its limits as they shall stay.
    lower_bound : float
        Unit of y; nothing is drawn for ``-inf``.
    vertical : bool, default=False
        Whether predictions run along x.
    """
    low, high = ax.get_xlim() if vertical else ax.get_ylim()
    if not low < lower_bound < high:
        return
    line, span = (ax.axvline, ax.axvspan) if vertical else (ax.axhline, ax.axhspan)
    line(lower_bound, color=BLACK, lw=0.8, zorder=1)
    span(low, lower_bound, color=VERMILLION, alpha=0.08, lw=0, zorder=0)
    (ax.set_xlim if vertical else ax.set_ylim)(low, high)
