"""Predictions out of bounds on a GPU, in float32 and below."""

from contextlib import contextmanager

import numpy as np
import torch

from benchmarks.gpu_times import FEW, STACK, markdown
from sklpos import MLP, STRATEGIES, PositiveOutputRegressor

FOREVER = {name for name, kind in STRATEGIES.items() if kind.guarantee == "everywhere"}
BOUNDS = {"0 and above": (0.0, np.inf), "0 to 1": (0.0, 1.0), "0.7 to 2": (0.7, 2.0)}
PRECISIONS = ("predict", "predict, TF32", "predict, autocast", "module, autocast")
NOTE = """## Guarantee

Predictions out of bounds, and how far the farthest is, of training rows in their order,
reversed, and, for some, one by one. Models that hold everywhere also predict rows 10
and 1,000 times as far out. The bounds are compared as float32 holds them. `predict`
leaves the autocast of its caller (bfloat16), so the last column calls the module. A
repaired head promises nothing in TF32 or bfloat16. A head of non-negative weights holds
a bound in bfloat16 as bfloat16 rounds it: 0.7 becomes 0.699."""


def guarantee(run) -> str:
    """Count predictions out of bounds."""
    X, raw = _rows(200 if run.quick else 10_000)
    names = (STACK, *sorted(FOREVER), *sorted(STRATEGIES.keys() - FOREVER))
    names = FEW if run.quick else names
    cases = [
        (name, bounds, dtype)
        for name in names
        for bounds in BOUNDS
        for dtype in _dtypes(run, name)
    ]
    lines = [[*("model", "bounds", "trained in"), *PRECISIONS], ["---"] * 7]
    for number, case in enumerate(cases):
        if run.left < 0.35 * run.limit:
            skipped = "; ".join(", ".join(case) for case in cases[number:])
            return f"{markdown(lines)}\n\nLeft out, as the time was up: {skipped}."
        lines.append([*case, *_counts(run, *case, X, raw)])
    return f"{NOTE}\n\n{markdown(lines)}"


def _rows(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 5)).astype(np.float32)
    return X, (X[:, 0] + X[:, 1] * X[:, 2] + 0.3 * rng.normal(size=n)).astype("f4")


def _dtypes(run, name) -> list[str]:
    # torch knows no autocast for the imitated device.
    mixed = name in {STACK, *FOREVER} and run.device != "fakegpu"
    return ["float32", "bfloat16-mixed"] if mixed else ["float32"]


def _counts(run, name, bounds, dtype, X, raw) -> list[str]:
    low, high = BOUNDS[bounds]
    own = {} if name == STACK else {"module": MLP, "strategy": name}
    # Two bounds need features in [0, 1].
    if name == "nonnegative_weights":
        own["module__activation"] = "sigmoid"
    model = PositiveOutputRegressor(
        device=run.device,
        dtype=dtype,
        lower_bound=low,
        upper_bound=high,
        max_epochs=2 if run.quick else 5,
        batch_size=128 if run.quick else 1_024,
        random_state=0,
        **own,
    ).fit(X, np.clip(raw, low, high))
    far = [10 * X, 1_000 * X] if name in {STACK, *FOREVER} else []
    found = _predictions(run, model, [X, X[::-1].copy(), *far])
    return [_cell(values, np.float32(low), np.float32(high)) for values in found]


def _cell(values, low, high) -> str:
    if values is None:
        return "not on this device"
    outside = np.maximum(low - values, values - high)
    n_outside = int((outside > 0).sum())
    worst = f", {outside.max():.1e}" if n_outside else ""
    return f"{n_outside:,} of {values.size:,}{worst}"


def _predictions(run, model, inputs) -> list[np.ndarray | None]:
    """By `PRECISIONS`; None where a device does not have one."""
    singles = [row[None] for row in inputs[0][:64]]
    found = [_joined(map(model.predict, [*inputs, *singles]))]
    with _tf32():
        found.append(_joined(map(model.predict, inputs)))
    if run.device == "fakegpu":
        return [*found, None, None]
    with torch.autocast(torch.device(run.device).type, dtype=torch.bfloat16):
        found.append(_joined(map(model.predict, inputs)))
        return [*found, _joined(_called(run, model, part) for part in inputs)]


def _joined(parts) -> np.ndarray:
    return np.concatenate([part.ravel() for part in parts]).astype(np.float32)


@torch.no_grad()
def _called(run, model, X) -> np.ndarray:
    outputs = model.module_(torch.as_tensor(X, device=run.device))
    return outputs.float().cpu().numpy()


@contextmanager
def _tf32():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
