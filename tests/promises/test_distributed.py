"""The search of docs/how-to/scale-out.md, on two processes of which one is killed."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from problems import make_data
from scale_out_page import block
from sklearn.base import clone

from sklpos import MLP, PositiveOutputRegressor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore"),  # of dask: sizes, ports, lost workers
]


@pytest.fixture
def page():
    """What the page defines."""
    pytest.importorskip("distributed")
    names = {"__name__": "page"}
    exec(block("py", "def search_on"), names)
    return names


@pytest.fixture
def client(page):
    settings = {"distributed.scheduler.active-memory-manager.start": False}
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with page["dask"].config.set(settings), page["Client"](**options) as client:
        client.run(__import__, "sklpos")  # a task then spends its time in a fit
        yield client


def kill_a_worker(client, victims):
    """SIGKILL a process that is at work."""
    pids = client.run(os.getpid)
    deadline = time.monotonic() + 60
    while not victims and time.monotonic() < deadline:
        time.sleep(0.1)
        for address, tasks in client.processing().items():
            if tasks and not victims:
                os.kill(pids[address], signal.SIGKILL)
                victims.append(address)


def interrupted_tasks(client, address):
    """Tasks that a worker had in hand when the scheduler lost it."""
    events = [event for _, event in client.cluster.scheduler.get_events("all")]
    lost = [event for event in events if event["action"] == "remove-worker"]
    (death,) = [event for event in lost if event["worker"] == address]
    assert not death["expected"]
    return death["processing-tasks"]


def test_a_killed_worker_changes_nothing_in_a_search(page, client):
    X, y = make_data(1_000, np.eye(5)[0], noise=0.3)
    victims = []
    killer = threading.Thread(target=kill_a_worker, args=(client, victims))
    killer.start()
    model = PositiveOutputRegressor(MLP, max_epochs=20, random_state=0)
    search = page["search_on"](client, X, y, model)
    killer.join()
    assert interrupted_tasks(client, *victims)
    serial = clone(search).fit(X, y)
    for name in ("mean_test_score", "split0_test_score", "rank_test_score"):
        np.testing.assert_array_equal(
            search.cv_results_[name], serial.cv_results_[name]
        )
    np.testing.assert_array_equal(search.predict(X), serial.predict(X))
