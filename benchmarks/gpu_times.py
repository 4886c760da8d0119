"""Training and prediction beside a bare loop on the same GPU, and on one CPU thread."""

import time

import torch
from torch import nn

from benchmarks.problem import LR, WIDE, Problem
from sklpos import STRATEGIES, PositiveOutputRegressor

DEFAULT, STACK = "augmented_lagrangian", "Stack"
EVERY = (*STRATEGIES, STACK)
FEW = (DEFAULT, "nonnegative_weights", STACK)
# Rows, rows per step, and what is trained: the most telling first, as time may run out.
CELLS = [
    (100_000, 8_192, EVERY),
    (10_000, 1_024, EVERY),
    (1_000_000, 65_536, EVERY),
    (1_000_000, 8_192, FEW),
    (100_000, 1_024, FEW),
    (100_000, 65_536, FEW),
    (1_000_000, 1_024, FEW),
    (10_000, 8_192, FEW),
]
QUICK = [(512, 128, FEW)]
N_EPOCHS = 3
MOST_ON_CPU = 100_000
# Seconds for the steps of one CPU thread, which are all alike.
CPU_SECONDS = 1.5
HEADS = (
    "net 10-256-256-1",
    "ms per step",
    "of the bare loop's",
    f"fit of {N_EPOCHS} epochs, s",
    "predict, s",
)


def times(run) -> str:
    """Time every cell that the deadline leaves room for."""
    cells = QUICK if run.quick else CELLS
    _warm_up(run, cells[0][2])
    parts, skipped, slowest = [], [], {}
    for n_samples, batch_size, names in cells:
        problem = Problem(n_samples, WIDE, batch_size)
        if run.left < 2 * _guess(slowest, n_samples):
            skipped.append(str(problem))
            continue
        table, slowest[n_samples] = _table(run, problem, names)
        parts.append(table)
    if skipped:
        parts.append(f"Left out, as the time was up: {'; '.join(skipped)}.")
    return "\n\n".join(["## Time", *parts])


def _warm_up(run, names) -> None:
    """Start the device and load its kernels."""
    problem = Problem(256, WIDE, 128)
    bare_epoch(problem, run.device)()
    for name in names:
        estimator(problem, name, run.device).fit(problem.X, problem.y.ravel())


def _guess(slowest: dict[int, float], n_samples: int) -> float:
    """Seconds of the slowest row of a cell, by those of the cells before it."""
    # Few rows say too much about many, as some costs do not depend on their number.
    guesses = [own * max(n_samples / n, 1) for n, own in slowest.items()]
    return min(guesses, default=0.0)


def _table(run, problem, names) -> tuple[str, float]:
    """The table of a cell, and the seconds of its slowest row."""
    bare = _seconds_per_step(run, problem)
    rows = [HEADS, ["---", *["---:"] * (len(HEADS) - 1)]]
    for device, step in (run.device, bare), ("cpu", _cpu_seconds_per_step(problem)):
        seconds = _bare_predict(run, problem, device)
        cells = [f"{1e3 * step:.2f}", f"{step / bare:.1f}", "", f"{seconds:.3f}"]
        rows.append([f"bare loop, {device}", *cells])
    longest = 0.0
    for name in names:
        start = time.perf_counter()
        if run.left < longest:
            rows.append([name, "left out, the time was up"])
            continue
        rows.append(_row(run, problem, name, bare, run.device))
        longest = max(longest, time.perf_counter() - start)
    # A million rows would take a thread of the CPU too long.
    if problem.n_samples <= MOST_ON_CPU and run.left > 10 * longest:
        rows.append(_row(run, problem, DEFAULT, bare, "cpu"))
    title = f"### {problem.n_samples:,} rows, {problem.batch_size:,} per step"
    return f"{title}\n\n{markdown(rows)}", longest


def _row(run, problem, name, bare, device) -> list[str]:
    model = estimator(problem, name, device)
    start = time.perf_counter()
    model.fit(problem.X, problem.y.ravel())
    run.wait()
    fitted = time.perf_counter()
    model.predict(problem.X)
    predicted = time.perf_counter()
    # The first epoch allocates memory.
    step = min(model.history_[1:, "dur"]) / problem.n_batches
    return [
        f"{name}, one CPU thread" if device == "cpu" else name,
        f"{1e3 * step:.2f}",
        f"{step / bare:.1f}",
        f"{fitted - start:.2f}",
        f"{predicted - fitted:.3f}",
    ]


def estimator(problem, name, device, **params) -> PositiveOutputRegressor:
    """With its repair; `name` is a strategy for the net, or the default module."""
    own = {"max_epochs": N_EPOCHS, "device": device, "repair": "head", **params}
    if name != STACK:
        return problem.estimator(strategy=name, **own)
    return PositiveOutputRegressor(batch_size=problem.batch_size, random_state=0, **own)


def bare_epoch(problem, device):
    """An epoch of a plain loop on a device, where the rows are already."""
    X, y = (
        torch.as_tensor(part, device=device) for part in (problem.X, problem.scaled)
    )
    module = problem.module().to(device)
    optimizer = torch.optim.Adam(module.parameters(), lr=LR, fused=True)

    def epoch(seconds: float = torch.inf) -> int:
        order = torch.randperm(len(X)).to(device).split(problem.batch_size)
        start = time.perf_counter()
        for number, index in enumerate(order):
            loss = nn.functional.mse_loss(module(X[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if time.perf_counter() - start > seconds:
                return number + 1
        return len(order)

    return epoch


def _seconds_per_step(run, problem) -> float:
    epoch, found = bare_epoch(problem, run.device), []
    for _ in range(N_EPOCHS):
        run.wait()
        start = time.perf_counter()
        n_steps = epoch()
        run.wait()
        found.append((time.perf_counter() - start) / n_steps)
    return min(found[1:])


def _cpu_seconds_per_step(problem) -> float:
    epoch = bare_epoch(problem, "cpu")
    epoch(0.0)
    start = time.perf_counter()
    n_steps = epoch(CPU_SECONDS)
    return (time.perf_counter() - start) / n_steps


@torch.no_grad()
def _bare_predict(run, problem, device) -> float:
    module, found = problem.module().to(device), []
    for _ in range(2):
        start = time.perf_counter()
        module(torch.as_tensor(problem.X, device=device)).cpu()
        found.append(time.perf_counter() - start)
    return min(found)


def markdown(rows: list) -> str:
    """A table; rows that are too short end with empty cells."""
    width = len(rows[0])
    lines = [[*row, *[""] * (width - len(row))] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
