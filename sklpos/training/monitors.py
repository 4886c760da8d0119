"""Callbacks that look at a column of the history: whether it will be there."""

from __future__ import annotations

import re

from skorch.callbacks import (
    BatchScoring,
    Callback,
    Checkpoint,
    EpochScoring,
    LRScheduler,
    PassthroughScoring,
    TrainEndCheckpoint,
)
from torch.optim.lr_scheduler import ReduceLROnPlateau

from sklpos.nets.hints import shortened
from sklpos.nets.warnings import warn_user

_SCORES = (EpochScoring, BatchScoring)
# Columns of every history that nobody would wait for.
_INNER = ("batches", "constraint", "dur", "epoch", "event_", "mean_", "train_batch")
_MEND = "set early_stopping=True, or pass X_val and y_val to fit"


def check_validation_scores(callbacks: list[tuple[str, Callback]]) -> None:
    """Look for callbacks that need validation rows, where there are none.

    A score is left out with a warning, as skorch does without one.

    Parameters
    ----------
    callbacks : list of (str, Callback)
        Initialised.

    Raises
    ------
    ValueError
        If a callback waits for such a score.
    """
    kinds = (*_SCORES, PassthroughScoring)
    scores = {
        name: callback
        for name, callback in callbacks
        if isinstance(callback, kinds) and not callback.on_train
    }
    columns = {_column(score) for score in scores.values()}
    for name, callback in callbacks:
        monitor = _monitor(callback)
        if monitor is not None and monitor.removesuffix("_best") in columns:
            raise ValueError(
                f"callbacks holds {name} with monitor={monitor!r}, but there are no "
                f"validation rows; {_MEND}."
            )
    for name, score in scores.items():
        if isinstance(score, _SCORES):
            warn_user(
                f"callbacks holds {name}, which scores validation rows, but there are "
                f"none, so it is left out; {_MEND}, or give it on_train=True."
            )


def check_shared(callbacks: list[tuple[str, Callback]]) -> None:
    """Refuse callbacks that would not do the same where several processes train a net.

    Parameters
    ----------
    callbacks : list of (str, Callback)

    Raises
    ------
    ValueError
    """
    for name, callback in callbacks:
        if isinstance(callback, _SCORES):
            raise ValueError(
                f"callbacks holds {name}, which would score the rows of one process "
                "only; leave it out, as train_loss and valid_loss are of the rows of "
                "all processes, and score the model when it is fitted."
            )
        if isinstance(callback, (Checkpoint, TrainEndCheckpoint)):
            raise ValueError(
                f"callbacks holds {name}, whose files all processes would write at the "
                "same time; pass a TrainingCheckpoint, or store the model when it is "
                "fitted."
            )


def missing_column(name: str, error: Exception, history) -> ValueError:
    """Make the error for a callback that reads a column that no epoch has recorded.

    Parameters
    ----------
    name : str
        Name of the callback.
    error : Exception
        Of skorch.
    history : skorch.history.History

    Returns
    -------
    ValueError
    """
    known = [key for key in history[-1] if not key.startswith(_INNER)]
    column = re.search(r"Key '([^']*)'", str(error.args[0]))
    scores = [key for key in known if not key.endswith(("_best", "batch_count"))]
    return ValueError(
        f"callbacks holds {name}, which reads {column[1] if column else 'a column'!r}, "
        f"but the history has {shortened(', '.join(scores), 110)}; a score must come "
        "before it, and valid_loss needs early_stopping=True, or X_val and y_val."
    )


def _column(score: Callback) -> str:
    # Only PassthroughScoring has no name that `initialize` completes.
    return getattr(score, "name_", None) or score.name


def _monitor(callback: Callback) -> str | None:
    """Name of the column that a callback looks at."""
    if isinstance(callback, LRScheduler):
        policy = callback.policy_
        if not (isinstance(policy, type) and issubclass(policy, ReduceLROnPlateau)):
            return None
    monitor = getattr(callback, "monitor", None)
    return monitor if isinstance(monitor, str) else None
