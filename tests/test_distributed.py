"""The search of docs/scale-out.md, on two processes of which one is killed."""

import os
import re
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

pytest.importorskip("distributed")

PAGE = Path(__file__).parents[1] / "docs" / "scale-out.md"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore"),  # of dask: sizes, ports, lost workers
]


@pytest.fixture
def page():
    """What the page defines."""
    code = re.search(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)[1]
    names = {"__name__": "page"}
    exec(code, names)
    return names


@pytest.fixture
def client(page):
    settings = {"distributed.scheduler.active-memory-manager.start": False}
    with (
        page["dask"].config.set(settings),
        page["Client"](n_workers=2, threads_per_worker=1, dashboard_address=None) as it,
    ):
        yield it


def make_data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 5))
    return X, np.maximum(X[:, 0] + 0.3 * rng.normal(size=400), 0)


def kill_a_worker(client, deaths):
    """SIGKILL one of the processes as soon as it has work to do."""
    while not any(client.processing().values()):
        time.sleep(0.01)
    time.sleep(0.3)
    victim = next(iter(client.run(os.getpid).values()))
    os.kill(victim, signal.SIGKILL)
    deaths.append(victim)


@pytest.mark.parametrize("killed", [False, True])
def test_scores_are_those_of_the_serial_search(page, client, killed):
    X, y = make_data()
    deaths = []
    if killed:
        killer = threading.Thread(target=kill_a_worker, args=(client, deaths))
        killer.start()
    search = page["search_on"](client, X, y)
    if killed:
        killer.join()
    assert len(deaths) == killed
    serial = clone(search).fit(X, y)
    for name in ("mean_test_score", "split0_test_score", "rank_test_score"):
        np.testing.assert_array_equal(
            search.cv_results_[name], serial.cv_results_[name]
        )
    np.testing.assert_array_equal(search.predict(X), serial.predict(X))
