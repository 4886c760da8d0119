"""The lines and tables of a report."""

from __future__ import annotations

import html

import numpy as np

from sklpos.estimator.row_summary import RowSummary
from sklpos.repair import Repair

_LEFT = "style='text-align:left'"
_PUSHES = {"lower": "up", "upper": "down"}


def row_lines(as_trained: RowSummary, repaired: RowSummary | None, sides) -> list:
    """Lines on the predictions for some rows.

    Parameters
    ----------
    as_trained : RowSummary
    repaired : RowSummary or None
    sides : dict
        The sides that have a bound, by name.

    Returns
    -------
    list of tuple of str
    """
    columns = [as_trained] if repaired is None else [as_trained, repaired]
    shares = {"rows outside the bounds": [c.violation_rate for c in columns]}
    # Only with bounds on both sides is there a question which one it was.
    if len(sides) == 2:
        shares["rows below the lower bound"] = [c.below_rate for c in columns]
        shares["rows above the upper bound"] = [c.above_rate for c in columns]
    lines = [("", *("as trained", "repaired")[: len(columns)])]
    for name, rates in shares.items():
        lines.append((name, *(_share(rate, as_trained.n_samples) for rate in rates)))
    lines.append(("largest violation", *(numbers(c.max_violation) for c in columns)))
    if as_trained.rmse is not None:
        lines.append(("root mean squared error", *(numbers(c.rmse) for c in columns)))
    return lines


def _share(rate: float, n_samples: int) -> str:
    if np.isnan(rate):
        return "not measured"
    return f"{round(rate * n_samples)} ({rate:.1%})"


def repair_lines(repair: Repair, head_change: float | None, sides) -> list:
    """Lines on a repair of the head.

    Parameters
    ----------
    repair : Repair
    head_change : float or None
        Norm of the change of the head, over that of the head.
    sides : dict
        The sides that have a bound, by name.

    Returns
    -------
    list of tuple of str
    """
    where = " or ".join(_PUSHES[side] for side in sides or _PUSHES)
    balanced = ["yes" if kept else "no" for kept in repair.balanced_]
    lines = [
        ("root mean square change of predictions", numbers(np.sqrt(repair.cost_))),
        (f"rows that hold it {where}", numbers(repair.n_cuts_)),
    ]
    if head_change is not None:
        lines.insert(1, ("change of the head, of its norm", f"{head_change:.2%}"))
    # A repair on a domain, or a shift, has no multipliers.
    if len(sides) == 2 and repair.multipliers_.any():
        up, down = repair.multipliers_ > 0, repair.multipliers_ < 0
        lines += [
            ("rows that hold it up", numbers(up.sum(axis=0))),
            ("rows that hold it down", numbers(down.sum(axis=0))),
        ]
    return [*lines, ("mean prediction is the mean target", _listed(balanced))]


def numbers(values: np.ndarray) -> str:
    """Format one number per output, to four digits.

    Parameters
    ----------
    values : ndarray of shape (n_outputs,)

    Returns
    -------
    str
    """
    if np.isnan(values).all():
        return "not measured"
    return _listed([f"{value:.4g}" for value in values])


def _listed(words: list[str]) -> str:
    """One word per output, as many as a line has room for."""
    return ", ".join(words[:8]) + (", ..." if len(words) > 8 else "")


def as_text(title: str, lines: list[tuple[str, ...]]) -> str:
    """Table as text.

    Parameters
    ----------
    title : str
    lines : list of tuple of str
        Each with a name and its values.

    Returns
    -------
    str
    """
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


def as_html(title: str, lines: list[tuple[str, ...]]) -> str:
    """Rows of an HTML table.

    Parameters
    ----------
    title : str
    lines : list of tuple of str
        Each with a name and its values.

    Returns
    -------
    str
    """
    rows = [f"<tr><th colspan='3' {_LEFT}>{html.escape(title)}</th></tr>"]
    for name, *cells in lines:
        span = "" if len(cells) > 1 else " colspan='2'"
        values = "".join(
            f"<td{span} {_LEFT}>{html.escape(cell)}</td>" for cell in cells
        )
        rows.append(f"<tr><td {_LEFT}>{html.escape(name)}</td>{values}</tr>")
    return "".join(rows)
