"""The blocks of docs/how-to/own-loop.md that need processes, or Lightning."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from properties import assert_same_bits

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "own-loop.md"
TEXT = PAGE.read_text(encoding="utf-8")
LOCAL = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}

pytestmark = pytest.mark.slow


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


def test_two_processes_hold_equal_multipliers(tmp_path):
    script, _ = blocks("py")
    end = "dist.destroy_process_group()"
    assert script.count(end) == 1
    keep = "torch.save([summary, constraint.state_dict()], f'{dist.get_rank()}.pt')"
    (tmp_path / "train.py").write_text(script.replace(end, f"{keep}\n{end}"))
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, "-m", *torchrun, "train.py"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | LOCAL, check=True)

    one, other = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)
    )
    assert one[0] == other[0]
    assert 0 < one[0].max_violation < 0.2
    assert one[1]["state.multiplier"].any()
    assert_same_bits(dict(one[1]), dict(other[1]))
    net = torch.load(tmp_path / "net.pt", weights_only=False)
    torch.manual_seed(0)
    assert (net(2 * torch.rand(300, 2) - 1) >= 0).all()


@pytest.mark.filterwarnings("ignore")  # of Lightning
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.global_state
def test_lightning(precision, tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    exec(blocks("python")[0], names)
    options = "max_epochs=60, "
    code = blocks("py")[1]
    assert code.count(options) == 1
    quiet = f"{options}precision={precision!r}, enable_progress_bar=False, "
    if precision == "bf16-true":
        code = code.replace("self.net(X_batch)", "self.net(X_batch.bfloat16())")
    exec(code.replace(options, quiet), names)
    model, trainer = names["model"], names["trainer"]
    assert 0 < trainer.callback_metrics["max_violation"] < 0.2
    constraint = model.constraint
    assert constraint.multipliers.dtype == torch.float32
    assert constraint.multipliers.any()

    (path,) = (tmp_path / "checkpoints").glob("*.ckpt")
    stored = torch.load(path, weights_only=False)["state_dict"]
    fresh = names["PositiveNet"](names["y"])
    fresh.load_state_dict(stored)
    assert torch.equal(fresh.constraint.multipliers, constraint.multipliers)
