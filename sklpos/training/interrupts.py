"""What Ctrl-C during training means for its caller."""

from __future__ import annotations

from sklearn.exceptions import ConvergenceWarning

from sklpos.nets.warnings import warn_user


def report_interrupt(outcome, n_epochs: int, on_interrupt: str) -> None:
    """Say so if a fit was interrupted; the model is that of its last finished epoch.

    Parameters
    ----------
    outcome : Outcome or Fit
        With ``interrupted`` and ``n_iter``, the number of epochs that were finished.
    n_epochs : int
        Epochs that were planned.
    on_interrupt : {"warn", "raise"}

    Raises
    ------
    KeyboardInterrupt
        If `on_interrupt` is ``"raise"``.
    """
    if not outcome.interrupted:
        return
    epoch = min(outcome.n_iter + 1, n_epochs)
    message = (
        f"training was interrupted at epoch {epoch} of {n_epochs}; the model is that "
        f"of epoch {outcome.n_iter}"
    )
    if on_interrupt == "raise":
        raise KeyboardInterrupt(f"{message}.")
    warn_user(
        f"{message}. In a search, set on_interrupt='raise' to stop the search as well.",
        ConvergenceWarning,
    )
