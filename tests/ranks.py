"""Fits by two processes that differ, or of which one fails: how they end."""

import multiprocessing
import os
import pickle
import signal
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
from skorch.callbacks import Callback, LRScheduler, ProgressBar
from torch import nn

from sklpos import MLP, PositiveOutputRegressor, Stack, distributed
from sklpos.distributed import fit_data_parallel
from sklpos.strategies import AugmentedLagrangian
from sklpos.training.step import DivergenceError

LONGEST = 240  # seconds, only for a process that would wait for ever
LOCAL = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}


class Trouble(Callback):
    """Does something in one process, in the second epoch; the same object in all."""

    def __init__(self, rank, action, hook="on_epoch_end"):
        self.rank = rank
        self.action = action
        self.hook = hook

    def _act(self, hook, net):
        second = len(net.history) == 2
        if hook == self.hook and second and dist.get_rank() == self.rank:
            self.action()

    def on_epoch_end(self, net, **kwargs):
        self._act("on_epoch_end", net)

    def on_grad_computed(self, net, **kwargs):
        self._act("on_grad_computed", net)


def run_out_of_disk():
    raise OSError("no space left\nand much more to say")


def diverge():
    raise DivergenceError("the loss became nan")


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


def run_out_of_memory():
    torch.empty(2**60)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(0)


def make_data(rank):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    y = np.maximum(X[:, 0] + 0.3 * rng.normal(size=40), 0)
    return {"X": X[rank::2].copy(), "y": y[rank::2].copy()}


def make_model(**params):
    defaults = {"module": MLP, "max_epochs": 3, "batch_size": 16, "random_state": 0}
    if "module" not in params:
        defaults["module__hidden_layer_sizes"] = (4,)
    return PositiveOutputRegressor(**(defaults | params))


def make_module(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def cannot_be_made(n_features_in, n_outputs):
    if dist.get_rank() == 1:
        raise KeyError("width")
    return make_module(0)


def of_another_width(n_features_in, n_outputs):
    width = 4 + dist.get_rank()
    return nn.Sequential(nn.Linear(n_features_in, width), nn.Linear(width, n_outputs))


def other_version(rank):
    distributed.versions = lambda: {"the version of torch": 2.0 + rank}


def fails_while_repairing(rank):
    def fail(*args):
        raise ArithmeticError("no repair")

    if rank == 1:
        distributed.repair_together = fail


#: Name -> what `run_case` takes: parameters, and changes of the data and the process.
CASES = {
    "nothing": lambda r: {},
    "verbose": lambda r: {"params": {"verbose": 1 - r}},
    "seed of the first": lambda r: {"params": {"random_state": None if r else 0}},
    "bar in the first": lambda r: {
        "params": {"callbacks": [] if r else [ProgressBar()]}
    },
    "number of a type": lambda r: {
        "params": {
            "alpha": np.float32(1) if r else 1,
            "max_epochs": [3, np.int64(3)][r],
        }
    },
    "same instance": lambda r: {"params": {"module": make_module(0)}},
    # Differences
    "alpha": lambda r: {"params": {"alpha": 1.0 + r}},
    "two": lambda r: {"params": {"alpha": 1.0 + r, "lr": 0.1 + r}},
    "nested": lambda r: {"params": {"strategy": AugmentedLagrangian(dual_lr=1.0 + r)}},
    "of the net": lambda r: {"params": {"optimizer__eps": 1e-3} if r else {}},
    "another seed": lambda r: {"params": {"random_state": r}},
    "seed of the second": lambda r: {"params": {"random_state": 0 if r else None}},
    "another instance": lambda r: {"params": {"module": make_module(r)}},
    "another criterion": lambda r: {
        "params": {"criterion": nn.HuberLoss(delta=1.0 + r)}
    },
    "schedule in the second": lambda r: {
        "params": {"callbacks": [LRScheduler("StepLR", step_size=1)] if r else None}
    },
    "another net": lambda r: {"params": {"module": of_another_width}},
    "another dtype": lambda r: {"X": lambda X: X.astype("f4") if r else X},
    "fewer columns": lambda r: {"X": lambda X: X[:, : 3 - r]},
    "more outputs": lambda r: {"y": lambda y: np.c_[y, y] if r else y},
    "weights in the second": lambda r: {"weight": np.ones(20) if r else None},
    "another torch": lambda r: {"patch": other_version},
    # Arguments that one process refuses
    "NaN": lambda r: {"X": lambda X: X * np.nan if r else X},
    "no rows": lambda r: {"X": lambda X: X[: 20 - 20 * r]},
    "text": lambda r: {"y": lambda y: y.astype(str) + "?" if r else y},
    "two complaints": lambda r: {
        "X": lambda X: X * np.nan if r else X,
        "y": lambda y: y if r else y + np.inf,
    },
    "one complaint": lambda r: {"params": {"alpha": -1}},
    "bad alpha": lambda r: {"params": {"alpha": -1.0 if r else 1.0}},
    "bad weight": lambda r: {"weight": np.ones(20 + r)},
    "default module": lambda r: {"params": {"module": Stack}},
    "no module": lambda r: {"params": {"module": cannot_be_made}},
    # Failures later on
    "disk": lambda r: {"params": {"callbacks": [Trouble(1, run_out_of_disk)]}},
    "disk of the first": lambda r: {
        "params": {"callbacks": [Trouble(0, run_out_of_disk, "on_grad_computed")]}
    },
    "memory": lambda r: {
        "params": {"callbacks": [Trouble(1, run_out_of_memory, "on_grad_computed")]}
    },
    "Ctrl-C": lambda r: {"params": {"callbacks": [Trouble(1, press_ctrl_c)]}},
    "exit": lambda r: {"params": {"callbacks": [Trouble(1, sys.exit)]}},
    "divergence": lambda r: {"params": {"lr": 1e30}},
    "divergence of one": lambda r: {"params": {"callbacks": [Trouble(1, diverge)]}},
    "repair": lambda r: {"patch": fails_while_repairing},
    "kill": lambda r: {"params": {"callbacks": [Trouble(1, die)]}},
    "kill in a step": lambda r: {
        "params": {"callbacks": [Trouble(0, die, "on_grad_computed")]}
    },
    "leave": lambda r: {"params": {"callbacks": [Trouble(1, leave)]}},
}


def run_case(rank, params=None, X=None, y=None, weight=None, patch=None):
    """Fit the own rows: how that ends, and whether the estimator is as before."""
    data, model = make_data(rank), make_model(**(params or {}))
    kept = vars(distributed).copy()
    if patch is not None:
        patch(rank)
    X = data["X"] if X is None else X(data["X"])
    y = data["y"] if y is None else y(data["y"])
    before = dict(vars(model))
    try:
        fit_data_parallel(model, X, y, weight)
    except BaseException as error:
        unchanged = vars(model) == before
        return type(error).__name__, str(error), unchanged
    finally:
        vars(distributed).update(kept)
    return "fitted", model.predict(make_data(0)["X"]).tolist(), True


def run_cases(rank, size, folder, names) -> None:
    torch.set_num_threads(1)
    os.environ |= LOCAL
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    for name in names:
        case = CASES[name](rank) if isinstance(name, str) else name(rank)
        end = run_case(rank, **case)
        with open(f"{folder}/{rank}", "ab") as file:
            pickle.dump(end, file)
    # After a death the group is broken, and torch would wait for it.
    os._exit(0)


def ends_of(folder, names, size=2) -> dict:
    """How each case ends in each process; None where that died."""
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("OMP_NUM_THREADS", "1")
        context.set_forkserver_preload(["killed_warm"])
        processes = [
            context.Process(target=run_cases, args=(rank, size, str(folder), names))
            for rank in range(size)
        ]
        for process in processes:
            process.start()
    for process in processes:
        process.join(LONGEST)
        process.kill()
    ends = [_read(folder / str(rank)) for rank in range(size)]
    longest = max(map(len, ends))
    padded = [end + [None] * (longest - len(end)) for end in ends]
    return dict(zip(names, zip(*padded, strict=True), strict=False))


def _read(path) -> list:
    found = []
    # A process that died in its first case has left none.
    path.touch()
    with open(path, "rb") as file:
        while file.peek(1):
            found.append(pickle.load(file))
    return found
