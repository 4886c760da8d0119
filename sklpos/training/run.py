"""State of a net while it trains, and how training ended."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from skorch.callbacks import Callback

from sklpos.nets.process import n_interrupts
from sklpos.training.backprop import Backprop
from sklpos.training.captured import StepGraphs
from sklpos.training.files import OwnedFile
from sklpos.training.stacked import StackBackprop
from sklpos.training.trees import Copies
from sklpos.training.world import Alone


@dataclass(eq=False)
class TrainingRun:
    """State that a net needs only while it trains.

    Attributes
    ----------
    world : Alone or Processes
    undo : dict or None
        The training state at the end of the last epoch, while the next one runs; empty
        if it is not kept.
    copies : Copies
        Memory of `undo`.
    keeps_state : bool
        False where an interrupted epoch need not be undone, as the net is dropped.
    epochs_resumed : int
        Number of epochs that were restored from a checkpoint.
    epochs_run : int
        Number of epochs that were finished, those of a checkpoint included.
    n_interrupts : int
        How often Ctrl-C had been pressed in the present call when training began.
    interrupted : bool
        Whether Ctrl-C ended training, or an epoch was cut.
    passes : Backprop, StackBackprop or None
        Those of the last epoch that could do without a graph.
    graphs : StepGraphs
        Steps that were recorded, with ``cuda_graph=True``.
    resources : ExitStack
        Closed when training ends, in whatever way.
    files : dict of Callback to OwnedFile
        Files that callbacks write, here as callbacks are copied and stored.
    """

    world: Alone = field(default_factory=Alone)
    undo: dict[str, Any] | None = None
    copies: Copies = field(default_factory=Copies)
    keeps_state: bool = True
    epochs_resumed: int = 0
    epochs_run: int = 0
    n_interrupts: int = 0
    interrupted: bool = False
    passes: Backprop | StackBackprop | None = None
    graphs: StepGraphs = field(default_factory=StepGraphs)
    resources: ExitStack = field(default_factory=ExitStack)
    files: dict[Callback, OwnedFile] = field(default_factory=dict)

    @property
    def pressed(self) -> bool:
        """Whether Ctrl-C was pressed since training began."""
        return n_interrupts() > self.n_interrupts


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes
    ----------
    n_iter : int
        Number of epochs run, those of a checkpoint included.
    interrupted : bool
        Whether Ctrl-C ended it, or a callback in the middle of an epoch.
    """

    n_iter: int
    interrupted: bool
