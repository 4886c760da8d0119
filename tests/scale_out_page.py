"""The recipes of docs/how-to/scale-out.md, with this machine for all others."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import joblib
import numpy as np

from sklpos import MLP, PositiveOutputRegressor

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "scale-out.md"
LOCAL = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
LONGEST = 240  # seconds, only for processes that would wait for ever


def block(language, word) -> str:
    """The only block of the page in a language that has a word."""
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    (found,) = [code for kind, code in blocks if kind == language and word in code]
    return found


def replaced(text, old, new) -> str:
    """Replace something that is there."""
    assert old in text, old
    return text.replace(old, new)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def running(command, folder, **env):
    """Run a command in the background; at the end, nothing of it is left."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        env=os.environ | LOCAL | {"PATH": path} | env,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition, *processes):
    """Poll until a condition holds, as long as processes live."""
    end = time.monotonic() + LONGEST
    while not condition():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < end
        time.sleep(0.1)


def save_rows(folder) -> None:
    """Write the rows that the scripts read."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 3))
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", np.maximum(X[:, 0] + 0.3 * rng.normal(size=240), 0))


def assert_fitted_as_by_one(folder) -> None:
    """Assert that the stored model is that of `fit` on all rows."""
    X, y = (np.load(folder / f"{name}.npy") for name in "Xy")
    whole = PositiveOutputRegressor(MLP, random_state=0, max_epochs=20).fit(X, y)
    predictions = joblib.load(folder / "model.joblib").predict(X)
    np.testing.assert_allclose(predictions, whole.predict(X), rtol=0, atol=1e-9)
