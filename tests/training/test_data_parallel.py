"""One fit by two processes is the fit of one process that has all rows."""

import os
import pickle
import signal
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.distributed as dist
from properties import assert_obeys, assert_same_bits, assert_same_training_state
from scale_out_page import LOCAL, assert_fitted_as_by_one, block, replaced, save_rows
from sklearn.base import clone
from skorch.callbacks import Callback, Checkpoint, EpochScoring, LRScheduler
from torch import nn

from sklpos import (
    MLP,
    STRATEGIES,
    PositiveOutputRegressor,
)
from sklpos.distributed import fit_data_parallel
from sklpos.estimator import pooled_repair
from sklpos.nets.bounded import as_bounded_model
from sklpos.strategies import Lagrangian
from sklpos.training.loaders import BatchLoader
from sklpos.training.randomness import make_generator
from sklpos.training.rows import RowDataset
from sklpos.training.world import Processes

FIRST = 55  # rows of process 0; process 1 has 5, and sometimes none of a batch
IN_ONE_PLACE = {name for name, s in STRATEGIES.items() if s.guarantee == "domain"}
PLATEAU = LRScheduler("ReduceLROnPlateau", monitor="train_loss", patience=0)


STOPS = {"early_stopping": True, "n_iter_no_change": 4, "lr": 0.1, "max_epochs": 200}


class Weighed(nn.MSELoss):
    """Learns a weight of each output."""

    def __init__(self, reduction):
        super().__init__(reduction=reduction)
        self.weights = nn.Parameter(torch.ones(2))

    def forward(self, y_pred, y_true):
        return super().forward(y_pred, y_true) * self.weights + self.weights**2


def make_module() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


CASES = {
    **{name: {"strategy": name} for name in sorted(set(STRATEGIES) - IN_ONE_PLACE)},
    "whole batches": {"batch_size": -1},
    "free output": {"lower_bound": [-np.inf, 0.0]},
    "both bounds": {"upper_bound": [2.0, 1.5], "on_violated_y": "ignore"},
    "an upper bound": {
        "lower_bound": None,
        "upper_bound": [0.5, None],
        "on_violated_y": "ignore",
    },
    "no bias": {"module__bias": False, "strategy": Lagrangian(dual_lr=0.5)},
    "absolute error": {"criterion": nn.L1Loss},
    "line search": {"optimizer": torch.optim.LBFGS, "batch_size": -1, "max_epochs": 3},
    "learning rate by loss": {"callbacks": [PLATEAU], "max_epochs": 12},
    "single precision": {"dtype": "float32"},
    "no repair": {"repair": None},
    "no balance": {"balance": False},
    "instance": {"module": make_module()},
    "decay by noise": {"weight_decay": "auto", "lr": 0.01},
    "early stopping": {**STOPS, "validation_fraction": 0.2},
    "few to validate on": {**STOPS, "validation_fraction": 0.04},
    "own validation": {**STOPS, "n_iter_no_change": 2},
    "weights in the criterion": {"criterion": Weighed},
}


class BatchNorm(nn.Sequential):
    """Its running means follow the rows of the first process."""

    def __init__(self):
        super().__init__(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def make_model(params) -> PositiveOutputRegressor:
    defaults = {"lr": 0.05, "max_epochs": 6, "batch_size": 16, "random_state": 0}
    defaults["weight_decay"] = 0.0  # with decay, hardly a row needs the repair
    if "module" not in params:
        defaults["module"] = MLP
        defaults["module__hidden_layer_sizes"] = (8,)
    return PositiveOutputRegressor(**(defaults | params))


def make_data():
    """Rows on the bound in both parts, and weights that differ between them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    raw = X @ rng.normal(size=(3, 2)) + 0.4 * rng.normal(size=(60, 2)) - 0.3
    weight = rng.integers(0, 3, size=60) + 4.0 * (np.arange(60) >= FIRST)
    return X, np.maximum(raw, 0), weight


def validation_rows(name, rank=None) -> dict:
    """Rows to validate on, of one process or of both."""
    if name != "own validation":
        return {}
    own = {0: slice(3), 1: slice(3, None), None: slice(None)}[rank]
    names = "X_val", "y_val", "sample_weight_val"
    rows = (array[:20][own] for array in make_data())
    return dict(zip(names, rows, strict=True))


def fit_all_cases(rank, folder):
    """Run in each process: fit the own rows, write what came out."""
    torch.set_num_threads(1)
    pooled_repair._ROWS_PER_ROUND = 2  # so that the repair takes more than a round
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    own = slice(FIRST) if rank == 0 else slice(FIRST, None)
    parts = [array[own] for array in make_data()]
    fitted = {}
    for name, params in CASES.items():
        seed = 0 if rank == 0 else None  # that of process 0 holds
        model = make_model(params).set_params(random_state=seed)
        valid = validation_rows(name, rank)
        fitted[name] = fit_data_parallel(model, *parts, **valid)
    norm = make_model({"module": BatchNorm, "batch_size": -1})
    fitted["batch norm"] = fit_data_parallel(norm, *parts)
    with open(f"{folder}/{rank}", "wb") as file:
        pickle.dump(fitted, file)
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """The models of the two processes, for each case."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LOCAL.items():
            patch.setenv(name, value)
        torch.multiprocessing.spawn(fit_all_cases, (str(folder),), nprocs=2)
    models = [pickle.loads((folder / rank).read_bytes()) for rank in "01"]
    return {name: [part[name] for part in models] for name in models[0]}


def assert_close(first, second, tolerance):
    """Equal but for a tolerance, in units of the largest entry, or 1."""
    first, second = (np.asarray(value, dtype=np.float64) for value in (first, second))
    unit = np.abs(second).max(initial=1.0)
    np.testing.assert_allclose(first, second, rtol=0, atol=tolerance * unit)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_fit_what_one_does(by_two, name):
    X, Y, weight = make_data()
    whole = make_model(CASES[name]).fit(X, Y, weight, **validation_rows(name))
    tolerance = 1e-5 if whole.dtype == "float32" else 1e-9
    for model in by_two[name]:
        pairs = zip(
            model.net_.module_.parameters(),
            whole.net_.module_.parameters(),
            strict=True,
        )
        for own, all_ in pairs:
            assert_close(own.detach(), all_.detach(), tolerance)
        trained = (m.fitted_.as_trained.predict(X) for m in (model, whole))
        assert_close(*trained, tolerance)
        for column in set(whole.history_[0]) - {"dur", "batches"}:
            values = model.history_[:, column], whole.history_[:, column]
            assert_close(*values, tolerance)
        assert model.n_iter_ == whole.n_iter_ == len(whole.loss_curve_)
        assert_same_bits(*(as_bounded_model(m).input_range for m in (model, whole)))
        assert model.kkt_ is None
    stacked = np.concatenate([model.multipliers_ for model in by_two[name]])
    if not whole.strategy_.estimates_multipliers:
        assert_close(stacked, whole.multipliers_, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_rows_of_both_processes_are_repaired(by_two, name):
    X, Y, weight = make_data()
    whole = make_model(CASES[name]).fit(X, Y, weight, **validation_rows(name))
    models = by_two[name]
    assert_same_bits(*(dict(model.module_.state_dict()) for model in models))
    if whole.repair_ is None:
        assert models[0].repair_ is models[1].repair_ is None
        return
    repairs = [model.repair_ for model in models]
    for field in ("n_cuts_", "feasible_", "balanced_"):
        assert_same_bits(getattr(repairs[0], field), getattr(whole.repair_, field))
    stacked = np.concatenate([repair.multipliers_ for repair in repairs])
    assert stacked.any() == (name != "decay by noise")
    tolerance = 1e-3 if whole.dtype == "float32" else 1e-6
    assert_close(stacked, whole.repair_.multipliers_, tolerance)
    assert_close(repairs[1].cost_, whole.repair_.cost_, tolerance)
    bounds = {"lower_bound": whole.lower_bound, "upper_bound": whole.upper_bound}
    assert_obeys(models[1], X[weight > 0], **bounds)


@pytest.mark.slow
def test_a_process_has_the_multipliers_of_its_own_rows(by_two):
    own, other = by_two["augmented_lagrangian"]
    n_own = int((make_data()[2][:FIRST] > 0).sum())
    assert own.net_.constraint_.multipliers.shape == (n_own, 2)
    assert other.net_.constraint_.multipliers.shape == (60 - FIRST, 2)
    assert own.multipliers_.any()
    assert other.multipliers_.any()


@pytest.mark.slow
def test_running_means_are_the_same_in_all_processes(by_two):
    own, other = by_two["batch norm"]
    state, its = (dict(m.net_.module_.state_dict()) for m in (own, other))
    assert state["1.num_batches_tracked"] == 6
    assert_same_bits(state, its)


@pytest.mark.slow
def test_some_batches_were_empty_for_a_process():
    """Or the test above tests less than it says."""
    X, Y, weight = (array[make_data()[2] > 0] for array in make_data())
    first = len(X) - (60 - FIRST)
    rows = RowDataset(*map(torch.as_tensor, (X[first:], Y[first:], weight[first:])))
    everyone = Processes(first, len(X), 1.0).all_rows(rows)
    loader = BatchLoader(everyone, batch_size=16, shuffle=True, seed=0)
    assert any(len(part.index) == 0 for _ in range(6) for part in loader)


@pytest.mark.slow
def test_the_model_lives_on_without_the_others(by_two):
    X, Y, _ = make_data()
    model = by_two["lagrangian"][1]
    model.partial_fit(X, Y)
    assert_obeys(model.enforce(X), X)


@pytest.mark.slow
def test_the_script_of_the_page_fits_what_one_process_does(tmp_path):
    save_rows(tmp_path)
    code = block("py", "import joblib\nimport numpy as np\nimport torch\n")
    code = replaced(code, "random_state=0", "random_state=0, max_epochs=20")
    (tmp_path / "train.py").write_text(code, encoding="utf-8")
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, "-m", *torchrun, "train.py"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | LOCAL, check=True)
    assert_fitted_as_by_one(tmp_path)


# A group of one, and none


@pytest.mark.parametrize("params", [{}, {"criterion": nn.L1Loss}, STOPS], ids=str)
def test_a_group_of_one_fits_as_fit_does(alone, data, small, params):
    whole = small(batch_size=16, **params).fit(data.X, data.Y, data.weight)
    model = small(batch_size=16, **params)
    assert fit_data_parallel(model, data.X, data.Y, data.weight) is model
    assert_same_training_state(model, whole)
    assert_close(model.predict(data.X), whole.predict(data.X), 1e-12)
    again = clone(model).fit(data.X, data.Y, data.weight)
    assert_same_training_state(again, whole)


@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_means_over_parts_are_the_mean_over_the_batch(batch_size):
    X, Y, weight = (torch.as_tensor(array) for array in make_data())
    weight = weight + 0.5
    whole = RowDataset(X, Y, weight)
    cuts, totals = [0, 10, FIRST, 60], []
    for start, stop in pairwise(cuts):
        totals.append((stop - start, float(weight[start:stop].sum())))
    loaders = []
    for rank, (start, stop) in enumerate(pairwise(cuts)):
        own = RowDataset(X[start:stop], Y[start:stop], weight[start:stop])
        everyone = Processes.from_totals(totals, rank).all_rows(own)
        loaders.append(BatchLoader(everyone, batch_size, shuffle=True, seed=3))
    batches = BatchLoader(whole, batch_size, shuffle=True, seed=3)
    n_batches = 0
    for batch, *parts in zip(batches, *loaders, strict=True):
        found = [part.index + start for part, start in zip(parts, cuts, strict=False)]
        assert sorted(torch.cat(found).tolist()) == sorted(batch.index.tolist())
        means = [
            (part.weight * part.y).sum(0) / max(len(part.index), 1) for part in parts
        ]
        expected = (batch.weight * batch.y).mean(0)
        torch.testing.assert_close(sum(means) / 3, expected)
        n_batches += 1
    assert n_batches == len(batches)


@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_batches_that_are_gathered_at_once_are_those_of_one_at_a_time(batch_size):
    X, Y, weight = (torch.as_tensor(array) for array in make_data())
    rows = RowDataset(X[FIRST:], Y[FIRST:], weight[FIRST:])
    everyone = Processes(first=FIRST, n_samples=60, gain=0.7).all_rows(rows)
    loader = BatchLoader(everyone, batch_size, shuffle=True, seed=3)
    numbers = torch.randperm(60, generator=make_generator(3, 0, 0)).split(batch_size)
    for batch, index in zip(loader, numbers, strict=True):
        one = everyone[index]
        for name in ("X", "y", "index", "weight"):
            assert torch.equal(getattr(batch, name), getattr(one, name))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"warm_start": True}, "warm_start=True is not supported"),
        ({"callbacks": [EpochScoring("r2", on_train=True)]}, "rows of one process"),
        ({"callbacks": [Checkpoint("train_loss_best")]}, "write at the same time"),
        ({"strategy": "certified"}, "strategy='certified' needs a domain"),
    ],
)
def test_what_needs_all_rows_in_one_place_is_refused(
    alone, data, small, params, message
):
    with pytest.raises(ValueError, match=message):
        fit_data_parallel(small(**params), data.X, data.Y)


def test_an_interrupt_raises_and_leaves_the_estimator_as_it_was(alone, data, small):
    """Other processes are interrupted in other epochs."""

    class CtrlC(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 3:
                signal.raise_signal(signal.SIGINT)

    model = small(callbacks=[CtrlC()])
    with pytest.raises(KeyboardInterrupt):
        fit_data_parallel(model, data.X, data.Y)
    assert not hasattr(model, "net_")


def test_a_process_group_is_needed(data, small):
    with pytest.raises(ValueError, match="init_process_group first"):
        fit_data_parallel(small(), data.X, data.Y)


def test_a_failure_leaves_the_estimator_as_it_was(alone, data, small):
    model = small().fit(data.X, data.Y)
    before = model.predict(data.X)
    with pytest.raises(ValueError, match="NaN"):
        fit_data_parallel(model, data.X * np.nan, data.Y)
    assert_same_bits(model.predict(data.X), before)
