"""Axes, colours and line styles that the displays share."""

from __future__ import annotations

from sklpos.nets.hints import literal

# The palette of Okabe & Ito (2008), which can be told apart with any kind of colour
# vision, and in grey.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
ORANGE = "#E69F00"
GREEN = "#009E73"
SKY = "#56B4E9"
PURPLE = "#CC79A7"
BLACK = "#000000"
GREY = "#888888"


def get_axes(ax=None, figsize: tuple[float, float] = (6.4, 4.4)):
    """Choose the axes to draw on: the given ones, or those of a new figure.

    Parameters
    ----------
    ax : matplotlib Axes, optional
    figsize : tuple of float
        Size of a new figure, in inches.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    # Imported here, as matplotlib is an optional dependency.
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
    """Combine the defaults of a line with the user's options, which win.

    Parameters
    ----------
    given : dict
        Options of ``Axes.plot``; aliases such as ``lw`` are understood.
    **defaults : object

    Returns
    -------
    dict
    """
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.lines import Line2D

    # matplotlib raises if it gets both an option and its alias.
    looks = [normalize_kwargs(look, Line2D) for look in (defaults, given)]
    return {**looks[0], **looks[1]}


def as_label(name: str) -> str:
    r"""Name as matplotlib shows it, letter by letter.

    matplotlib reads text between dollars as mathematics, and leaves out entries of a
    legend that are empty or begin with an underscore.

    Parameters
    ----------
    name : str

    Returns
    -------
    str

    Examples
    --------
    >>> as_label("$_$"), as_label("_x")
    ('\\$_\\$', ' _x')
    """
    shown = literal(name).replace("$", r"\$")
    return shown if shown[:1] not in ("", "_") else f" {shown}"


def draw_bounds(
    ax, lower_bound: float, upper_bound: float, *, vertical: bool = False
) -> None:
    """Draw the bounds, and shade what is outside up to the limits of the axes.

    Parameters
    ----------
    ax : matplotlib Axes
        Its limits are kept.
    lower_bound, upper_bound : float
        Unit of y; nothing is drawn for a bound that is infinite or not in sight.
    vertical : bool, default=False
        Whether the predictions are on the x axis.
    """
    low, high = ax.get_xlim() if vertical else ax.get_ylim()
    line, span = (ax.axvline, ax.axvspan) if vertical else (ax.axhline, ax.axhspan)
    for bound, end in ((lower_bound, low), (upper_bound, high)):
        if low < bound < high:
            line(bound, color=BLACK, lw=0.8, zorder=1)
            span(*sorted((bound, end)), color=VERMILLION, alpha=0.08, lw=0, zorder=0)
    # Spans make matplotlib recompute the limits.
    (ax.set_xlim if vertical else ax.set_ylim)(low, high)
