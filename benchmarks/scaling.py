"""How time and memory of a fit grow with the rows and with the outputs."""

from benchmarks.measuring import cost

N_FEATURES = 40
SETUP = """
import torch, warnings
from benchmarks.problem import Problem
warnings.simplefilter("ignore")
torch.set_num_threads(1)
def prepare(n):
    problem = Problem(n, {widths}, 256)
    estimator = problem.estimator(repair={repair!r})
    return estimator, problem.X.astype({dtype!r}), problem.y.astype({dtype!r})
estimator, X, y = prepare(500)
estimator.fit(X, y)
estimator, X, y = prepare({n})
"""
HEAD = ("X, MB", "fit, s", "fit, MB", "repair, s", "+ repair, MB", "bytes a row")


def growth(sizes) -> dict:
    """CPU time of one epoch, and the memory it needs above that of X and y.

    Each of the (n_samples, n_outputs, dtype) in a process of its own, without and with
    the repair.
    """
    print(f"\n{'one epoch, 40-64-k':34s}", *(f"{name:>14s}" for name in HEAD), sep="")
    return {"title": "growth", "rows": dict(_measure(*size) for size in sizes)}


def _measure(n, n_outputs, dtype) -> tuple[str, dict]:
    params = {"n": n, "widths": (N_FEATURES, 64, n_outputs), "dtype": dtype}
    without, with_repair = (
        cost(SETUP.format(**params, repair=repair), "estimator.fit(X, y)")
        for repair in (None, "head")
    )
    itemsize = {"float32": 4, "float64": 8}[dtype]
    values = (
        n * N_FEATURES * itemsize / 2**20,
        *without,
        with_repair[0] - without[0],
        with_repair[1],
        with_repair[1] * 2**20 / n,
    )
    name = f"n {n:,}, {n_outputs} outputs, {dtype}"
    print(f"{name:34s}", *(f"{value:14.2f}" for value in values), sep="", flush=True)
    return name, dict(zip(HEAD, values, strict=True))
