"""How often training waits for the GPU, its kernels, and the step as a CUDA graph."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_times import EVERY, FEW, estimator, markdown
from benchmarks.problem import SMALL, WIDE, Problem
from sklpos import PositiveOutputRegressor

# What torch says then.
WAIT = "called a synchronizing CUDA operation"
HEADS = ("strategy", "kernels per step", "waits per step", "waits per epoch")
HOW = """Kernels by `torch.profiler`, of the net 10-100-1 and of `Stack`; waits by
`torch.cuda.set_sync_debug_mode`, uploads from ordinary memory included. On other
devices than CUDA, nothing is counted."""


def waits(run) -> str:
    """Count kernels and waits, by the differences between fits of other lengths."""
    lines = [HEADS, ["---"] + ["---:"] * 3]
    for name in FEW if run.quick else EVERY:
        if run.left < 0.5 * run.limit:
            lines.append([name, "left out, the time was up"])
            continue
        base, of_steps, of_epochs = (
            _counted_fit(run, name, *size) for size in ((4, 2), (8, 2), (4, 3))
        )
        step = (of_steps - base) / 8
        rest = of_epochs - base - 4 * step
        lines.append([name, f"{step[0]:.1f}", f"{step[1]:.1f}", f"{rest[1]:.1f}"])
    return f"## Kernels and waits\n\n{HOW}\n\n{markdown(lines)}"


def _counted_fit(run, name, n_steps, n_epochs) -> np.ndarray:
    """Kernels and waits of a fit."""
    problem = Problem(128 * n_steps, SMALL, 128)
    model = estimator(problem, name, run.device, max_epochs=n_epochs, repair=None)
    activities = [ProfilerActivity.CUDA if run.is_cuda else ProfilerActivity.CPU]
    with profile(activities=activities) as record, _waits(run) as caught:
        model.fit(problem.X, problem.y.ravel())
    own = [event.name for event in record.events() if _is_kernel(event)]
    n_waits = sum(WAIT in str(warning.message) for warning in caught)
    return np.array([len(own), n_waits], dtype=float)


def _is_kernel(event) -> bool:
    return (
        event.device_type == torch.autograd.DeviceType.CUDA
        and not event.name.startswith(("Memcpy", "Memset"))
        and not getattr(event, "is_user_annotation", False)
    )


@contextmanager
def _waits(run) -> Iterator[list]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # It starts CUDA, which may be missing.
        if run.is_cuda:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            if run.is_cuda:
                torch.cuda.set_sync_debug_mode("default")


def graphs(run) -> str:
    """Train with and without a CUDA graph."""
    problem = Problem(512 if run.quick else 100_000, WIDE, 128 if run.quick else 1_024)
    heads = ["model", "ms per step", "as a graph", "largest difference of predictions"]
    lines, refusals = [heads, ["---"] + ["---:"] * 3], {}
    for name in FEW if run.quick else EVERY:
        if run.left < 0.25 * run.limit:
            lines.append([name, "left out, the time was up"])
            continue
        plain, seconds = _trained(run, problem, name)
        cells = [name, f"{1e3 * seconds:.3f}"]
        try:
            captured, faster = _trained(run, problem, name, cuda_graph=True)
        except (ValueError, TypeError, RuntimeError) as error:
            refusals.setdefault(str(error), []).append(name)
            lines.append([*cells, "refused"])
            continue
        gap = np.abs(captured.predict(problem.X) - plain.predict(problem.X)).max()
        lines.append([*cells, f"{1e3 * faster:.3f}", f"{gap:.1e}"])
    said = [f"Refused: {', '.join(n)}: `{error}`" for error, n in refusals.items()]
    parts = ["## The step as a CUDA graph", str(problem), markdown(lines), *said]
    return "\n\n".join(parts)


def _trained(run, problem, name, **params) -> tuple[PositiveOutputRegressor, float]:
    """A fitted model, and the seconds of a step."""
    model = estimator(problem, name, run.device, repair=None, **params)
    model.fit(problem.X, problem.y.ravel())
    return model, min(model.history_[1:, "dur"]) / problem.n_batches
