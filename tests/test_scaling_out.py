"""What docs/how-to/scale-out.md says of networks and of GPUs is what the code does."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from scale_out_page import PAGE, block

ROOT = Path(__file__).parents[1]


@pytest.fixture
def scaling_out(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.scaling_out")


def test_the_exchanges_on_the_page_are_those_of_the_benchmark(scaling_out):
    networks, lines = scaling_out.NETWORKS, []
    heads = ["net", "gradients", "processes", *networks]
    for widths in (scaling_out.SMALL, scaling_out.LARGE):
        n_bytes = scaling_out.n_bytes(scaling_out.Problem(1, widths, 1))
        net, size = "-".join(map(str, widths)), f"{n_bytes / 1e6:.2g} MB"
        for processes in scaling_out.SIZES:
            seconds = [network.exchange(n_bytes, processes) for network in networks]
            times = [f"{1e3 * value:.2f} ms" for value in seconds]
            lines.append([net, size, processes, *times])
    lines = [" | ".join(map(str, line)) for line in (heads, *lines)]
    page = PAGE.read_text(encoding="utf-8")
    assert [line for line in lines if line not in page] == []


def test_two_processes_exchange_each_gradient_once(scaling_out):
    """A ring of two: each sends one half, and then the sum of the other one."""
    seconds = scaling_out.Network(8, 10).exchange(10**9, 2)
    assert seconds == pytest.approx(1 + 2 * 10e-6)


def test_the_script_of_the_page_takes_one_gpu_for_each_process(monkeypatch):
    calls = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    cuda = SimpleNamespace(
        is_available=lambda: True, set_device=lambda n: calls.append(f"GPU {n}")
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(dist, "init_process_group", calls.append)
    script = block("py", "import joblib\nimport numpy as np\nimport torch\n")
    head, _ = script.split("rank, n_processes = ")
    names = {}
    exec(head, names)
    assert calls == ["GPU 3", "cpu:gloo,cuda:nccl"]
    assert names["device"] == "cuda:3"
    assert "device=device" in script
    cuda.is_available = lambda: False
    exec(head, names)
    assert calls[2:] == ["gloo"]
    assert names["device"] == "cpu"


def test_speed_ups_are_those_of_shared_work_and_an_exchange(scaling_out, capsys):
    problem = scaling_out.Problem(512, scaling_out.SMALL, 128)
    one, two = scaling_out.Timing([3.0], [2.0]), scaling_out.Timing([1.5], [1.0])
    slow, fast = scaling_out.computed({problem: [one, two]})["rows"].values()
    assert slow["speed-up of 8"] == pytest.approx(2 / (2 / 8 + 0.000707), rel=1e-5)
    assert slow["speed-up of 64"] < fast["speed-up of 64"] < 64
    (row,) = scaling_out.measured({problem: [one, two]})["rows"].values()
    assert row["speed-up"] == 2.0
    assert "speed-up of 64" in capsys.readouterr().out
