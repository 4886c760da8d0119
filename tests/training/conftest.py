"""What tests of training share."""

import multiprocessing
import os
import sys

import killed
import pytest
import torch.distributed as dist


@pytest.fixture(scope="module")
def processes():
    """Fork processes from one that has run a fit: they start in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("OMP_NUM_THREADS", "1")
        context.set_forkserver_preload(["killed_warm"])
        context.Process(target=killed.torch.set_num_threads, args=(1,)).start()
    return context


@pytest.fixture
def alone(monkeypatch):
    """A group of one process."""
    if sys.platform == "linux":
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
