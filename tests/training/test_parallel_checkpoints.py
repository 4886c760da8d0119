"""Fits by several processes that are killed: what goes on ends as if it had not been.

Every start is a new group of processes; the file of the first process is all that goes
from one group to the next.
"""

import io
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from killed import guarded, make_data
from parallel import PATH, Group, fit_part, own_part
from properties import assert_same_bits
from skorch.callbacks import Callback

from sklpos.distributed import fit_data_parallel
from sklpos.training.archive import read_archive, write_archive
from sklpos.training.files import OwnedFile

can_kill = pytest.mark.skipif(
    not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL"
)


def n_epochs(path) -> int:
    return len(torch.load(path, weights_only=True)["history"])


@pytest.mark.slow
@can_kill
def test_two_processes_end_as_if_one_had_not_been_killed(tmp_path):
    params = {"max_epochs": 8}
    whole = Group(tmp_path / "whole", 2).run(fit_part, "slack", {}, params)
    killed = Group(tmp_path / "killed", 2)
    survivor, dead = killed.run(fit_part, "slack", {1: 5}, params)
    assert dead is None
    assert isinstance(survivor, RuntimeError)
    assert "rank 1 has ended" in str(survivor)
    assert n_epochs(killed.path) == 4
    assert_same_bits(killed.run(fit_part, "slack", {}, params), whole)
    assert whole[0]["n_iter"] == 8
    # Only the first process needs a file system.
    assert {file.name for file in (killed.folder / "1").iterdir()} == {"end2"}


@can_kill
@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "size"),
    [("augmented_lagrangian", 3), ("slack", 2)],
)
def test_kills_at_random_epochs(tmp_path, strategy, size):
    """Sums of three numbers or more depend on the order of the processes."""
    params = {"n_iter_no_change": 6, "lr": 0.1, "tol": 0.01}
    whole = Group(tmp_path / "whole", size).run(fit_part, strategy, {}, params)
    rng, killed, epoch = np.random.default_rng(), Group(tmp_path / "killed", size), 0
    while True:
        epoch += int(rng.integers(2, whole[0]["n_iter"] // 2))
        victims = rng.choice(size, rng.integers(1, size + 1), replace=False)
        deaths = {int(rank): epoch for rank in victims}
        ends = killed.run(fit_part, strategy, deaths, params)
        if all(isinstance(end, dict) for end in ends):
            break
    assert_same_bits(ends, whole)
    assert killed.n_starts > 1


# What is refused, by the same sentence in all processes


class OnOneProcess(Callback):
    """Acts in process 1 alone."""

    def __init__(self, act):
        self.act = act

    def on_epoch_end(self, net, **kwargs):
        if dist.get_rank() == 1 and len(net.history) == 3:
            getattr(self, self.act)(net)

    def stop(self, net):
        raise KeyboardInterrupt

    def move(self, net):
        with torch.no_grad():
            next(net.module_.parameters())[0] += 1e-6


CASES = {
    "rows": "another fit, which differs in data; ",
    "weights": "another fit, which differs in data; ",
    "file": "cannot be used as a checkpoint: it is damaged",
    "no state": "does not hold the states of 2 processes",
    "seed": "random_state=None draws different numbers",
    "folder": "in a folder that does not exist",
    "in use": "is in use: another process or thread trains with it",
    "guard": "callbacks differs between processes: rank 0 has .*, rank 1 has",
    "stop": r"end training after epoch 3 in the processes \[1\] of 2 only",
    "move": "the processes trained to different weights",
    "held out": "early_stopping=True holds out all 1 rows of process 1",
    "validation": "X_val differs between processes: rank 0 has some, rank 1 has none",
}


def arguments_of(case, rank, size) -> tuple:
    """Parameters of the model, rows and validation rows of a case."""
    X, Y, weight = own_part(rank, size)
    params, valid = {"max_epochs": 4, "scale_y": False}, {}
    if case == "rows" and rank == 1:
        X[0] += 1
    elif case == "weights" and rank == 1:
        weight *= 2
    elif case == "seed":
        params["random_state"] = None
    elif case == "guard" and rank == 1:
        params["callbacks"] = None
    elif case in ("stop", "move"):
        params["callbacks"] = [OnOneProcess(case)]
    elif case == "held out":
        params["validation_fraction"] = 0.8
        X, Y, weight = (part[: 1 if rank else None] for part in (X, Y, weight))
    elif case == "validation" and rank == 0:
        valid = {"X_val": X, "y_val": Y}
    return params, (X, Y, weight), valid


def damage(content: bytes) -> bytes:
    half = len(content) // 2
    return content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]


def shorten(content: bytes) -> bytes:
    saved = read_archive(io.BytesIO(content))
    saved["others"] = []
    file = io.BytesIO()
    write_archive(saved, file)
    return file.getvalue()


def try_all(rank, size) -> dict:
    """Errors, by case."""
    # The unit of y would tell weights apart, too.
    fit_part(rank, size, "slack", {}, {"max_epochs": 2, "scale_y": False})
    if rank == 0:
        content = Path(PATH).read_bytes()
        Path("file").write_bytes(damage(content))
        Path("no state").write_bytes(shorten(content))
        held = OwnedFile("in use")
        held.acquire()
    paths = {case: case for case in ("file", "no state", "in use")}
    paths["folder"] = "no/such/file"
    errors = {}
    for case in CASES:
        params, rows, valid = arguments_of(case, rank, size)
        model = guarded(paths.get(case, PATH), "slack", **params)
        with pytest.raises((ValueError, OSError)) as error:
            fit_data_parallel(model, *rows, **valid)
        assert not hasattr(model, "fitted_")
        errors[case] = repr(error.value)
    if rank == 0:
        held.release()
    return errors


def test_refusals_are_the_same_in_all_processes(tmp_path):
    group = Group(tmp_path / "group", 2)
    first, second = group.run(try_all)
    assert first == second
    for case, words in CASES.items():
        assert re.search(words, first[case]), case
        assert len(first[case]) < 320
    # Nor does a file of two processes suit one that has all rows.
    alone = guarded(group.path, "slack", max_epochs=4, scale_y=False)
    with pytest.raises(ValueError, match="differs in data, processes"):
        alone.fit(*make_data())
