"""Training steps as CUDA graphs, which start all kernels of a step at once.

In a small net, starting the kernels of a step one by one takes longer than they do. A
graph is recorded from the very step that runs without it, on tensors that stay where
they are. Its learning rates and decays are tensors, too, so that schedules go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import AdamW

from sklpos.nets.hints import in_one_line
from sklpos.training.fast import drop_gradients, step_optimizer
from sklpos.training.figures import figures_of
from sklpos.training.recordable import check_recordable, holds, recorded_state
from sklpos.training.rows import Batch

# Steps that run as usual first: torch allocates and initialises in them.
_WARM_UP = 3
# What a schedule changes.
_RATES = ("lr", "weight_decay")


class Recorder(Protocol):
    """What records the work of a function on a device."""

    def warm_up(self, function: Callable[[], None]) -> None:
        """Call a function as it is."""

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Record a function without running it; what is returned runs the record."""


class CudaRecorder:
    """Records CUDA graphs, as torch's documentation asks for it.

    Parameters
    ----------
    device : torch.device

    References
    ----------
    .. [1] "CUDA Graphs", in the notes on CUDA semantics of PyTorch,
       https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
    """

    def __init__(self, device: torch.device):
        self.device = device

    def warm_up(self, function: Callable[[], None]) -> None:
        """Call a function on a stream of its own, as it will be while it is recorded.

        Parameters
        ----------
        function : callable
        """
        with torch.cuda.device(self.device):
            usual, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(usual)
            with torch.cuda.stream(side):
                function()
            usual.wait_stream(side)

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        """Record a function.

        Parameters
        ----------
        function : callable

        Returns
        -------
        callable
            Runs the kernels again, on the same memory.
        """
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on to allocate memory while this one records.
        how = {"capture_error_mode": "thread_local"}
        with torch.cuda.device(self.device):
            # torch's own is on the device of the first record in the process.
            stream = torch.cuda.Stream()
            with torch.cuda.graph(graph, stream=stream, **how):
                function()
        return graph.replay


#: What records on a device, by its type.
RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CudaRecorder}


class StepGraphs:
    """The recorded steps of a training, one for each size of a batch.

    Examples
    --------
    >>> StepGraphs().graphs
    {}
    """

    def __init__(self):
        self.graphs: dict[int, StepGraph] = {}
        self.state: list[Any] = []

    def __deepcopy__(self, memo: dict) -> StepGraphs:
        # A graph works on the memory of one net alone.
        return type(self)()

    def begin_epoch(self, net: Any, iterator: Any) -> None:
        """Check that steps can be recorded, and drop records that no longer hold.

        Parameters
        ----------
        net : ConstrainedNet
        iterator : iterable of Batch

        Raises
        ------
        ValueError
        """
        check_recordable(net, iterator, RECORDERS)
        # A callback may have changed anything since the last epoch.
        state = recorded_state(net)
        if not holds(self.state, state):
            self.graphs.clear()
        self.state = state

    def step(self, net: Any, batch: Batch) -> dict[str, Any]:
        """Make the step of a batch.

        Parameters
        ----------
        net : ConstrainedNet
        batch : Batch

        Returns
        -------
        dict
            Empty: nothing of it is known before the end of the epoch.
        """
        graph = self.graphs.get(len(batch))
        if graph is None:
            graph = self.graphs[len(batch)] = StepGraph(net, batch)
        net.steps_.add_figures(graph.step(net, batch), len(batch))
        # The first step allocates the averages of the optimizer.
        if not graph.is_recorded:
            self.state = recorded_state(net)
        return {}


class StepGraph:
    """A training step on batches of one size, recorded after a few of them.

    Parameters
    ----------
    net : ConstrainedNet
    batch : Batch
        Of the size to record.
    """

    def __init__(self, net: Any, batch: Batch):
        device = torch.device(net.device)
        self.recorder = RECORDERS[device.type](device)
        self.batch = batch.copy()
        groups = net.optimizer_.param_groups
        self.rates = [GroupRates(net.optimizer_, group) for group in groups]
        self.n_steps = 0
        self._replay: Callable[[], None] | None = None
        self._figures: Tensor | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether the next step will be a replay."""
        return self._replay is not None

    def step(self, net: Any, batch: Batch) -> Tensor:
        """Make the step of a batch.

        Parameters
        ----------
        net : ConstrainedNet
        batch : Batch

        Returns
        -------
        torch.Tensor of shape (n_figures, 1)
            See `figures_of`.
        """
        self.batch.fill(batch)
        for rates in self.rates:
            rates.follow()
        self.n_steps += 1
        if self.n_steps <= _WARM_UP:
            self.recorder.warm_up(partial(self._run, net))
        else:
            self._replay = self._replay or self._record(net)
            self._replay()
        # The next step writes into the same memory.
        return self._figures.clone()

    def _record(self, net: Any) -> Callable[[], None]:
        try:
            return self.recorder.record(partial(self._run, net))
        except RuntimeError as error:
            raise ValueError(
                "cuda_graph=True: a step of this module, criterion or strategy cannot "
                f"be recorded ({in_one_line(error, 100)}); leave out cuda_graph."
            ) from error

    def _run(self, net: Any) -> None:
        """A step as skorch makes it, without the hooks, which nobody listens to."""
        step = {}

        def closure() -> Tensor | None:
            drop_gradients(net.optimizer_)
            net.steps_.dual_step_due = True
            step.update(net.train_step_single(self.batch))
            for rates in self.rates:
                rates.shrink()
            return step["loss"]

        with _installed(self.rates):
            step_optimizer(net.optimizer_, closure)
        rows = {"index": self.batch.index, "weight": self.batch.weight}
        self._figures = figures_of(net, [rows | step])


class GroupRates:
    """Learning rate and decay of a group of weights, as tensors.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    group : dict
        One of its groups.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, group: dict[str, Any]):
        self.group = group
        weight = group["params"][0]
        # The fused kernel of CUDA reads a float32, whatever the weights are.
        single = group.get("fused") and not weight.is_cpu
        self.lr = weight.new_zeros((), dtype=torch.float32 if single else weight.dtype)
        self.shrinkage = weight.new_ones(())
        # AdamW shrinks the weights by a number, which a record would keep.
        self.shrinks = isinstance(optimizer, AdamW)
        self._known: tuple[float, float] | None = None

    def follow(self) -> None:
        """Take over the present values of the group."""
        values = self.group["lr"], self.group.get("weight_decay", 0.0)
        if values == self._known:
            return
        self._known = values
        lr, decay = map(float, values)
        self.lr.fill_(lr)
        self.shrinkage.fill_(1 - lr * decay)

    @torch.no_grad()
    def shrink(self) -> None:
        """Shrink the weights that have a gradient, as AdamW does before its step."""
        weights = [weight for weight in self.group["params"] if weight.grad is not None]
        if self.shrinks and weights:
            torch._foreach_mul_(weights, self.shrinkage)


@contextmanager
def _installed(rates: list[GroupRates]) -> Iterator[None]:
    """Let the optimizer work with rates that are tensors."""
    before = [
        {name: own.group[name] for name in _RATES if name in own.group} for own in rates
    ]
    try:
        for own in rates:
            own.group["lr"] = own.lr
            if own.shrinks:
                own.group["weight_decay"] = 0.0
        yield
    finally:
        for own, known in zip(rates, before, strict=True):
            own.group.update(known)
