"""What only a real GPU has: streams, waits, several devices, NCCL, lower precision."""

import gc
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from device_checks import (
    BOTH_BOUNDS,
    X,
    assert_on_device,
    assert_same_model,
    regressor,
    y,
)
from device_uses import (
    MAKERS,
    USES,
    check_default_device,
    check_stack,
    check_use,
    stack,
)

from sklpos import STRATEGIES
from sklpos.training.net import ConstrainedNet

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("module", MAKERS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_no_step_waits(name, module, monkeypatch):
    """CUDA itself refuses to wait, in every step but the first ones."""
    step, n_steps = ConstrainedNet.train_step, []

    def train_step(net, batch, **params):
        n_steps.append(1)
        # The first steps allocate, and the optimizer makes its state.
        if len(n_steps) < 3:
            return step(net, batch, **params)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(net, batch, **params)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(ConstrainedNet, "train_step", train_step)
    model = MAKERS[module]("cuda", strategy=name, on_violated_y="ignore")
    assert_on_device("cuda", model.fit(X, y))
    assert len(n_steps) == 9


@pytest.mark.parametrize("module", MAKERS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_cuda_graph_changes_nothing(name, module):
    params = {"strategy": name, "max_epochs": 6, "batch_size": 9}
    weight = np.linspace(0.5, 2.0, len(X))
    with_graph, without = (
        MAKERS[module]("cuda", **params, cuda_graph=graph).fit(X, y, weight)
        for graph in (True, False)
    )
    assert_same_model("cuda", with_graph, without, X)


def test_a_cuda_graph_follows_the_schedule_and_partial_fit():
    models = [stack("cuda", cuda_graph=graph) for graph in (True, False)]
    for model in models:
        for rows in (slice(None), slice(None), slice(5, 30)):
            model.partial_fit(X[rows], y[rows])
    assert_same_model("cuda", *models, X)


def test_memory_of_a_graph_is_given_back():
    stack("cuda", cuda_graph=True).fit(X, y)
    gc.collect()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        stack("cuda", cuda_graph=True).fit(X, y)
    gc.collect()
    # Of the models themselves, 10 kB each.
    assert torch.cuda.memory_allocated() - before < 2**20


@two_gpus
def test_another_gpu():
    before = torch.cuda.get_rng_state(1)
    model = regressor("cuda:1", module__dropout=0.3).fit(X, y)
    assert {weight.device.index for weight in model.module_.parameters()} == {1}
    with torch.cuda.device(1):
        again = regressor("cuda", module__dropout=0.3).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), again.predict(X))
    assert torch.equal(torch.cuda.get_rng_state(1), before)


def _fit_in_a_fork(results):
    try:
        regressor("cuda").fit(X, y)
    except ValueError as error:
        results.put(str(error))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_process_is_told_so():
    torch.ones(1, device="cuda")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_fit_in_a_fork, args=(results,))
    child.start()
    assert "forked after CUDA had started" in results.get(timeout=60)
    child.join(timeout=60)


@pytest.fixture(params=["TF32", "bfloat16"])
def lower_precision(request):
    """Of matrix products, until the test ends."""
    before = torch.get_float32_matmul_precision()
    if request.param == "TF32":
        torch.set_float32_matmul_precision("high")
        yield
        torch.set_float32_matmul_precision(before)
    else:
        with torch.autocast("cuda", torch.bfloat16):
            yield


@pytest.mark.parametrize("upper_bound", [np.inf, 1.0])
def test_nonnegative_heads_hold_in_lower_precision(upper_bound, lower_precision):
    params = {"upper_bound": upper_bound, "dtype": "float32"}
    model = stack("cuda", **params).fit(X, np.minimum(y[:, 0], upper_bound))
    for factor in (1, 10, 1_000):
        rows = torch.as_tensor(factor * X, dtype=torch.float32, device="cuda")
        with torch.no_grad():
            outputs = model.module_(rows).float()
        assert outputs.min() >= 0
        # The weights themselves are rounded, each up or down.
        assert outputs.max() <= upper_bound * (1 + 2**-8)
        assert model.predict(rows).min() >= 0
        assert model.predict(rows).max() <= upper_bound


def test_both_bounds_trained_in_bfloat16():
    params = {**BOTH_BOUNDS, "dtype": "bfloat16-mixed", "strategy": "activation"}
    model = regressor("cuda", **params).fit(X, np.minimum(y, 0.5))
    assert model.predict(10 * X)[:, 0].min() >= 0
    assert (model.predict(10 * X).max(axis=0) <= [1, 0.5]).all()


ONE_PROCESS = """
import numpy as np, torch, torch.distributed as dist
from device_checks import X, regressor, y
from sklpos.distributed import fit_data_parallel
torch.cuda.set_device(0)
dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
model = fit_data_parallel(regressor("cuda:0"), X, y)
dist.destroy_process_group()
alone = regressor("cuda:0").fit(X, y)
np.testing.assert_allclose(model.predict(X), alone.predict(X), rtol=1e-6, atol=1e-6)
"""


def test_one_process_with_nccl():
    paths = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": paths, "NCCL_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", ONE_PROCESS]
    subprocess.run(command, env=environment, check=True, timeout=120)


# Last, as they take longest, and resemble what the CPU does.


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategy_of_the_default_module(name):
    check_stack("cuda", name)


@pytest.mark.parametrize("module", MAKERS)
@pytest.mark.parametrize("use", USES)
def test_use(use, module):
    check_use("cuda", use, module)


def test_default_device_of_the_caller():
    check_default_device("cuda")
