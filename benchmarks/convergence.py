"""How soon the optimum is reached: ``python -m benchmarks.convergence [--quick]``.

Linear models whose best weights under the bound are known from an exact solver. All
methods have the same start, rows, batches, optimizer (Adam) and learning rate, which
decays by the same factor after every epoch. Counted are the epochs until the mean loss
F is within 0.1 % of the optimum and no violation is above 0.001 standard deviations of
y, from there on for 10 epochs. Each method runs with its defaults, and with a few
settings of its dual steps.
"""

import argparse
import functools
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from skorch.callbacks import Callback, LRScheduler

from benchmarks import cooper_loop
from benchmarks.convex import Progress, Task, tasks
from sklpos import STRATEGIES, PositiveOutputRegressor

PACKAGES = ("torch", "scikit-learn", "skorch", "cooper-optim")

# What is tried beside the defaults, {}.
GRID = {
    "exact_penalty": [{"alpha": 10.0}, {"alpha": 100.0}],
    "slack": [{"alpha": 10.0}, {"alpha": 100.0, "dual_lr": 0.05}],
    "lagrangian": [{"dual_lr": 1.0}, {"dual_lr": 20.0}],
    "augmented_lagrangian": [
        {"dual_lr": 0.02},
        {"dual_lr": 0.1},
        {"growth": 1.03},
        {"growth": 1.2},
        {"dual_lr": 0.1, "growth": 2.0, "max_curvature": 100.0},
    ],
}
COOPER = {
    "Cooper, augmented Lagrangian": (
        cooper_loop.augmented_lagrangian,
        [
            {"curvature": 20.0},
            {"curvature": 200.0, "dual_lr": 0.05},
            {"curvature": 1000.0, "dual_lr": 0.05},
            {"growth": 1.01},
        ],
    ),
    "Cooper, nuPI": (
        cooper_loop.nupi,
        [
            {"dual_lr": 1.0, "proportional": 10.0},
            {"dual_lr": 10.0, "proportional": 20.0},
            {"dual_lr": 50.0, "proportional": 20.0},
        ],
    ),
}


class Watch(Callback):
    """Looks at the weights after each epoch; ends the fit at the goal."""

    def __init__(self, progress: Progress):
        self.progress = progress

    def on_train_begin(self, net, **kwargs):
        self.progress.start = time.process_time()

    def on_epoch_end(self, net, **kwargs):
        if self.progress.record(net.module_):
            raise KeyboardInterrupt  # the end of a fit, as for an early stop


def ours(task: Task, name: str, alpha: float = 1.0, **params) -> Progress:
    """Train by `PositiveOutputRegressor`, without a repair."""
    progress = Progress(task)
    decay = LRScheduler(torch.optim.lr_scheduler.ExponentialLR, gamma=task.gamma)
    PositiveOutputRegressor(
        task.module,
        strategy=STRATEGIES[name](**params),
        alpha=alpha,
        repair=None,
        optimizer=task.optimizer,
        lr=task.lr,
        max_epochs=task.max_epochs,
        batch_size=task.batch_size,
        iterator_train__drop_last=True,
        on_violated_y="ignore",
        random_state=0,
        callbacks=[decay, Watch(progress)],
    ).fit(task.X, task.y)
    return progress


def methods() -> dict:
    """Name to (function, further settings)."""
    names = ["unconstrained", "penalty"]
    names += [n for n, cls in STRATEGIES.items() if cls.guarantee == "training"]
    own = {
        f"sklpos, {name}": (functools.partial(ours, name=name), GRID.get(name, []))
        for name in names
    }
    return own | COOPER


def cost(progress: Progress) -> tuple:
    """What makes a run better than another: fewer epochs, else a smaller miss."""
    last = max(abs(progress.excess[-1]), progress.violation[-1])
    return (0, progress.epochs) if progress.epochs else (1, last)


def outcome(progress: Progress, unit: float) -> str:
    """Epochs and time, or how far it came."""
    if progress.epochs is None:
        far = f"F {progress.excess[-1]:+.0e}, g {progress.violation[-1]:+.0e}"
        return f"not reached: {far}"
    share = progress.seconds_an_epoch / unit
    return f"{progress.epochs:4d} epochs, time {progress.epochs * share:5.0f}"


def compare(task: Task) -> tuple[str, dict[tuple, float]]:
    """Return a task's table, and the epochs of each method and setting."""
    lines, reached, unit = [str(task)], {}, None
    lines.append(f"{'':30s}{'with defaults':38s}best of the grid")
    for name, (run, grid) in methods().items():
        runs = {words(params): run(task, **params) for params in [{}, *grid]}
        best = min(runs, key=lambda setting: cost(runs[setting]))
        unit = unit or runs[""].seconds_an_epoch
        line = f"{name:30s}{outcome(runs[''], unit):38s}"
        if grid:
            line += f"{outcome(runs[best], unit):36s}{best or 'the defaults'}"
        lines.append(line.rstrip())
        for setting, progress in runs.items():
            reached[name, setting] = progress.epochs or np.inf
    return "\n".join([*lines, ""]), reached


def words(params: dict) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in params.items())


def summary(results: list[dict]) -> str:
    """Return how often each method got there, and its ratio to the best.

    The setting of the grid is one for all tasks.
    """
    epochs = {key: np.array([each[key] for each in results]) for key in results[0]}
    fewest = np.minimum(np.min(list(epochs.values()), axis=0), 1e9)
    ratios = {key: own / fewest for key, own in epochs.items()}
    lines = [
        "epochs / the fewest of all methods and settings: median and worst",
        f"{'':30s}{'with defaults':>28s}{'the setting of the best median':>34s}",
    ]
    for name in dict.fromkeys(name for name, _ in ratios):
        settings = [setting for own, setting in ratios if own == name]
        best = min(settings, key=lambda setting: _rank(ratios[name, setting]))
        text = f"{name:30s}{_spread(ratios[name, ''])}"
        if len(settings) > 1:
            text += f"{_spread(ratios[name, best]):>34s}  {best or 'the defaults'}"
        lines.append(text)
    return "\n".join(lines)


def _rank(ratio: np.ndarray) -> tuple:
    return np.median(ratio), np.isinf(ratio).sum(), np.minimum(ratio, 1e9).mean()


def _spread(ratio: np.ndarray) -> str:
    there = f"{np.isfinite(ratio).sum()} of {len(ratio)} reached"
    return f"{there:>16s}{np.median(ratio):6.2f}{ratio.max():6.2f}"


NOTES = """# Results of `python -m benchmarks.convergence`

{doc}
"Time" is CPU time in epochs of the unconstrained run of the same task; the share of it
that an epoch takes is uncertain by a tenth or two on a busy machine. F is its relative
excess over the optimum and g the largest violation at the end of the budget. The
unconstrained net and the quadratic penalty have other optima and cannot get there.
The strategies that promise more than the training rows (`certified`,
`nonnegative_weights`, `activation`) have other optima, too, and are left out.

Cooper has no defaults for its dual steps; it starts from c = 2 and a dual step of
0.1 c, and nuPI from the same step with the proportional gain 1.

```text
{tables}```
"""


def head() -> str:
    versions = [f"{name} {version(name)}" for name in PACKAGES]
    versions.append(f"Python {platform.python_version()}")
    return ", ".join([*versions, "float64, 1 thread"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, to see it run")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/CONVERGENCE.md")
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of fits that end early
    doc, tables, results = __doc__.split("\n\n", 1)[1], head(), []
    print(tables)
    chosen = tasks(arguments.quick)
    for number, task in enumerate(chosen, start=1):
        table, reached = compare(task)
        print(table, flush=True)
        results.append(reached)
        tables += "\n" + table
        done = f"After {number} of {len(chosen)} problems:\n{summary(results)}"
        text = NOTES.format(doc=doc, tables=f"{done}\n\n{tables}")
        arguments.output.write_text(text)  # now: it takes some minutes
    print(f"{done}\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
