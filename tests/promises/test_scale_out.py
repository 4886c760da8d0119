"""The recipes of docs/how-to/scale-out.md for several machines, here on this one."""

import shutil
import socket
import sys
from contextlib import ExitStack

import numpy as np
import pytest
from problems import make_data
from scale_out_page import (
    LONGEST,
    assert_fitted_as_by_one,
    block,
    free_port,
    replaced,
    running,
    save_rows,
    wait_for,
)
from sklearn.base import clone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the commands are for bash"),
]

DEATH = """
import os, signal
from skorch.callbacks import Callback
import torch.distributed as dist

class Once(Callback):
    def on_epoch_begin(self, net, **kwargs):
        rank = dist.get_rank()
        print(len(net.history), file=open(f"epochs.{rank}", "a"))
        if len(net.history) == 8 and rank and not os.path.exists("died"):
            open("died", "w")
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_two_machines_meet_and_restart(tmp_path, monkeypatch):
    """Each is a `torchrun` of its own; a process of one of them is killed."""
    save_rows(tmp_path)
    script = block("py", "import joblib\nimport numpy as np\nimport torch\n")
    guarded, given = block("py", "TrainingCheckpoint("), "callbacks=[checkpoint"
    guarded = replaced(guarded, f"{given}]", f"{given}, Once()], max_epochs=20")
    start, end = script.index("model = "), script.index("if rank == 0")
    code = script[:start] + "from death import Once\n" + guarded + script[end:]
    (tmp_path / "train.py").write_text(code)
    (tmp_path / "death.py").write_text(DEATH)
    meeting = f"localhost:{free_port()}"
    command = replaced(block("bash", "--nnodes"), "node0:29400", meeting)
    # The name of a machine in a container may lead nowhere.
    command = replaced(command, "--nnodes", "--local-addr localhost --nnodes")
    with ExitStack() as stack:
        machines = [stack.enter_context(running(command, tmp_path)) for _ in range(2)]
        assert [machine.wait(LONGEST) for machine in machines] == [0, 0]
    epochs = [int(epoch) for epoch in (tmp_path / "epochs.1").read_text().split()]
    assert epochs == [*range(1, 9), *range(6, 21)]
    monkeypatch.syspath_prepend(tmp_path)
    assert_fitted_as_by_one(tmp_path)


RECORDED = """
def recorded(n_features_in, n_outputs):
    with open({path!r}, "a") as file:
        print(where_it_runs(), file=file)
    return MLP(n_features_in, n_outputs)
"""


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore")  # of dask: sizes, ports
def test_each_worker_of_dask_sees_a_gpu_of_its_own(tmp_path):
    pytest.importorskip("distributed")
    from distributed import Client

    address = f"tcp://127.0.0.1:{free_port()}"
    host, port = address.removeprefix("tcp://").split(":")
    scheduler = block("bash", "dask scheduler")
    scheduler = replaced(
        scheduler, "--host node0 --port 8786", f"--host {host} --port {port}"
    )
    workers = replaced(block("bash", "dask worker"), "tcp://node0:8786", address)
    names = {"__name__": "page"}
    exec(block("py", "def search_on"), names)
    code = replaced(block("py", "def where_it_runs"), "tcp://node0:8786", address)
    definitions, search = code.split("\n\n\nwith ")
    exec(definitions, names)
    jobs = tmp_path / "jobs"
    exec(RECORDED.format(path=str(jobs)), names)
    names["model"].set_params(module=names["recorded"])
    names["X"], names["y"] = make_data(300, np.eye(5)[0], noise=0.3)
    with running(scheduler, tmp_path) as first, running(workers, tmp_path) as second:
        wait_for(lambda: answers(host, port), first, second)
        with Client(address) as client:
            client.wait_for_workers(2, timeout=LONGEST)
            seen = client.run(names["where_it_runs"])
        assert sorted(seen.values()) == ["0", "1"]
        exec(f"with {search}", names)
    search = names["search"]
    *ran, refitted = jobs.read_text().split()
    assert len(ran) == 18
    assert set(ran) == {"0", "1"}
    assert refitted == "None"
    serial = clone(search).fit(names["X"], names["y"])
    for name in ("mean_test_score", "split0_test_score", "rank_test_score"):
        np.testing.assert_array_equal(
            search.cv_results_[name], serial.cv_results_[name]
        )


def answers(host, port) -> bool:
    """Whether somebody listens."""
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def fit_as_the_page(folder, code) -> None:
    """Run a script of the page, in a folder that stands for the shared one."""
    save_rows(folder)
    code = replaced(code, "/data", str(folder))
    (folder / "fit.py").write_text(replaced(code, "random_state=0", SHORT))
    with running(f"exec '{sys.executable}' fit.py", folder) as process:
        assert process.wait(LONGEST) == 0
    assert_fitted_as_by_one(folder)


SHORT = "random_state=0, max_epochs=20"


def test_ray_train_starts_the_processes(tmp_path):
    pytest.importorskip("ray.train.torch", exc_type=ImportError)
    fit_as_the_page(tmp_path, block("py", "TorchTrainer"))


def test_spark_starts_the_processes(tmp_path, monkeypatch):
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    fit_as_the_page(tmp_path, block("py", "TorchDistributor"))
