"""Fits by several processes, forked from one that is warm; some kill themselves."""

import multiprocessing
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from killed import die, end_of, guarded, make_data
from skorch.callbacks import Callback

from sklpos.distributed import fit_data_parallel

LOCAL = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
SHARES = {1: [50], 2: [38, 12], 3: [22, 17, 11]}  # rows of each process
PATH = "fit.ckpt"


class Death(Callback):
    """Kills processes in the middle of an epoch, which it knows by rank."""

    def __init__(self, epochs):
        self.epochs = epochs
        self.seen = 0

    def on_violation(self, net, violation, index):
        self.seen += len(net.history) == self.epochs.get(dist.get_rank())
        if self.seen == 2:
            die()


def own_part(rank, size) -> list:
    """X, Y and weights of a process."""
    first = sum(SHARES[size][:rank])
    return [part[first : first + SHARES[size][rank]] for part in make_data()]


def fit_part(rank, size, strategy, deaths, params) -> dict:
    """Fit the own rows, and say how that ends."""
    model = guarded(PATH, strategy, **params)
    model.callbacks.append(("death", Death(deaths)))
    X, Y, weight = own_part(rank, size)
    fit_data_parallel(model, X, Y, weight)
    assert model.multipliers_.shape == Y.shape
    return end_of(model)


def _run(rank, size, folder, start, function, arguments) -> None:
    torch.set_num_threads(1)
    os.environ |= LOCAL
    # Each has a folder of its own, as on several machines.
    own = Path(folder, str(rank))
    own.mkdir(exist_ok=True)
    os.chdir(own)
    store = f"file://{folder}/store{start}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    try:
        left = function(rank, size, *arguments)
    except Exception as error:
        left = error
    Path(f"end{start}").write_bytes(pickle.dumps(left))
    if isinstance(left, Exception):
        os._exit(1)  # the group may be broken
    dist.barrier()
    dist.destroy_process_group()


class Group:
    """Some processes, each with a folder of its own, started as often as it takes."""

    def __init__(self, folder, size):
        folder.mkdir()
        self.folder, self.size = folder, size
        self.path = folder / "0" / PATH
        self.n_starts = 0
        self.context = _warm_context()

    def run(self, function, *arguments) -> list:
        """What it returns or raises in each process; None where that is killed."""
        self.n_starts += 1
        own = self.size, str(self.folder), self.n_starts, function, arguments
        processes = [
            self.context.Process(target=_run, args=(rank, *own))
            for rank in range(self.size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return [self._end(rank) for rank in range(self.size)]

    def _end(self, rank):
        left = self.folder / str(rank) / f"end{self.n_starts}"
        return pickle.loads(left.read_bytes()) if left.exists() else None


def _warm_context():
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("OMP_NUM_THREADS", "1")
        context.set_forkserver_preload(["killed_warm"])
        context.Process(target=torch.set_num_threads, args=(1,)).start()
    return context
