"""Processes that train together hold equal multipliers: those of the whole batch."""

import copy
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from constraints import WAITING, make_constraint, make_problem
from properties import assert_same_bits

from sklpos.strategies.gathering import gather_rows

LOCAL = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}

#: By number of processes: the rows of each, batch by batch; unequal, empty, repeated.
BATCHES = {
    2: [([0, 1, 2], [3, 4, 5, 6, 7]), ([6, 5, 4], []), ([], []), ([1, 2], [2, 1, 1])],
    3: [([0, 1], [2], [3, 4, 5, 6, 7]), ([], [7], []), ([3, 3], [3], [0])],
}


def train_part(constraint, batches):
    """Go through the batches of one process, or of all."""
    _, y_pred, _ = make_problem()
    y_pred[4] = torch.nan  # moves nothing, whoever has it
    for number, index in enumerate(batches):
        constraint.dual_step(y_pred[index] - number, index)
    summary = vars(constraint.end_epoch())
    return [dict(constraint.state_dict()), constraint.multipliers, summary]


def make_all(group=None):
    y, _, weight = make_problem()
    weight[6] = 0
    params = {"weight": weight, "process_group": group}
    return {name: make_constraint(name, y, **params) for name in WAITING}


def run_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=3,
        timeout=timedelta(seconds=60),
    )
    pair = dist.new_group([0, 1])
    single = [dist.new_group([other]) for other in range(3)][rank]

    found = {}
    for n_ranks, group in ((3, None), (2, pair)):
        if rank < n_ranks:
            own = [parts[rank] for parts in BATCHES[n_ranks]]
            constraints = make_all(group).items()
            found[n_ranks] = {n: train_part(each, own) for n, each in constraints}

    if rank == 0:  # the others do not take part, and are not waited for
        alone = make_constraint("lagrangian", make_problem()[0], process_group=single)
        found["alone"] = train_part(copy.deepcopy(alone), own)
    found["gathered"] = gather_rows(
        torch.full((rank, 2), 1.0 * rank), torch.arange(rank)
    )
    torch.save(found, f"{folder}/{rank}")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of three processes has found."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LOCAL.items():
            patch.setenv(name, value)
        torch.multiprocessing.spawn(run_rank, (str(folder),), nprocs=3)
    return [torch.load(folder / str(rank)) for rank in range(3)]


def whole_batches(n_ranks):
    return [[row for part in parts for row in part] for parts in BATCHES[n_ranks]]


@pytest.mark.slow
@pytest.mark.parametrize("n_ranks", BATCHES)
def test_all_processes_hold_the_same(ranks, n_ranks):
    for other in ranks[1:n_ranks]:
        assert_same_bits(other[n_ranks], ranks[0][n_ranks])


@pytest.mark.slow
@pytest.mark.parametrize("n_ranks", BATCHES)
def test_they_hold_what_one_process_with_all_rows_holds(ranks, n_ranks):
    for name, constraint in make_all().items():
        alone = train_part(constraint, whole_batches(n_ranks))
        together = ranks[0][n_ranks][name]
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
        if name != "exact_penalty":  # which keeps no multipliers
            assert alone[1].any()


@pytest.mark.slow
def test_a_group_of_one_opts_out(ranks):
    constraint = make_constraint("lagrangian", make_problem()[0])
    own = [parts[0] for parts in BATCHES[2]]
    assert_same_bits(ranks[0]["alone"], train_part(constraint, own))


@pytest.mark.slow
def test_rows_are_gathered_in_the_order_of_the_ranks(ranks):
    for found in ranks:
        violation, index = found["gathered"]
        assert violation.tolist() == [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]
        assert index.tolist() == [0, 0, 1]


def test_without_processes_nothing_is_gathered():
    rows = torch.ones(2, 1), torch.arange(2)
    assert gather_rows(*rows)[0] is rows[0]
