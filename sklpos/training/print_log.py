"""skorch's table of the epochs, with the constraint's columns."""

from __future__ import annotations

import os
import sys

from skorch.callbacks import PrintLog


class QuietPrintLog(PrintLog):
    """skorch's table of the epochs, aligned, and with the main columns first.

    The table is not laid out while the net is silent. The best values are coloured on
    a terminal only, and not there if the environment variable NO_COLOR is set.

    Parameters
    ----------
    keys_ignored : str or list of str, optional
        Columns of the history to leave out; by default ``constraint``, which is
        ``train_loss - objective``, and ``mean_multiplier``.
    floatfmt : str, default=".4g"
        A column is as wide as any positive number in this format.
    sink, tablefmt, stralign : object
        As in skorch's PrintLog.

    Examples
    --------
    >>> log = QuietPrintLog().initialize()
    >>> print(log.table({"epoch": 1, "alpha": 1.0, "objective": 0.25, "dur": 0.01}))
      epoch    objective      alpha        dur
    -------  -----------  ---------  ---------
          1         0.25          1       0.01
    """

    _first = (
        "epoch",
        "train_loss",
        "valid_loss",
        "objective",
        "max_violation",
        "violation_rate",
        "max_multiplier",
        "alpha",
    )

    def __init__(
        self,
        keys_ignored=("constraint", "mean_multiplier"),
        sink=print,
        tablefmt="simple",
        floatfmt=".4g",
        stralign="right",
    ):
        super().__init__(keys_ignored, sink, tablefmt, floatfmt, stralign)

    def _sorted_keys(self, keys):
        known = super()._sorted_keys(keys)
        first = [name for name in self._first if name in known]
        return first + [name for name in known if name not in first]

    def _yield_keys_formatted(self, row):
        # The longest number has all digits and an exponent; a header is padded by 2.
        widest = len(format(1e-10 / 3, self.floatfmt)) - 2
        if not self._is_coloured():
            # These tell skorch which values to colour.
            row = {k: v for k, v in row.items() if not k.endswith("_best")}
        for key, value in super()._yield_keys_formatted(row):
            yield key if key == "epoch" else key.rjust(widest), value

    def _is_coloured(self) -> bool:
        # The convention of no-color.org: set to anything but an empty string.
        plain = os.environ.get("NO_COLOR")
        return self.sink is print and not plain and sys.stdout.isatty()

    def on_epoch_end(self, net, **kwargs):
        """Print the line of the epoch."""
        # skorch lays the table out before it looks at `verbose`.
        if net.verbose:
            super().on_epoch_end(net, **kwargs)
