"""How time and memory of a fit grow with the rows and with the outputs."""

from benchmarks.measuring import cost

# Features by module; with more, a fit of `Stack` would take minutes.
N_FEATURES = {"MLP": 40, "Stack": 10}
MODELS = {
    "MLP": "problem.estimator(repair={repair!r})",
    "Stack": "PositiveOutputRegressor(max_epochs=1, random_state=0, repair={repair!r})",
}
SETUP = """
import torch, warnings
from benchmarks.problem import Problem
from sklpos import PositiveOutputRegressor
warnings.simplefilter("ignore")
torch.set_num_threads(1)
def prepare(n):
    problem = Problem(n, {widths}, 256)
    return {model}, problem.X.astype({dtype!r}), problem.y.astype({dtype!r})
estimator, X, y = prepare(500)
estimator.fit(X, y)
estimator, X, y = prepare({n})
"""
HEAD = ("X, MB", "fit, s", "fit, MB", "repair, s", "+ repair, MB", "bytes per row")


def growth(sizes) -> dict:
    """CPU time of one epoch, and the memory it needs above that of X and y.

    Each of the (n_samples, n_outputs, dtype, module) in a process of its own, without
    and with the repair. The module is an `MLP` of 40-64-n_outputs if it is left out;
    `Stack` has its own defaults, and is never repaired.
    """
    print(f"\n{'one epoch':42s}", *(f"{name:>14s}" for name in HEAD), sep="")
    return {"title": "growth", "rows": dict(_measure(*size) for size in sizes)}


def _measure(n, n_outputs, dtype, module="MLP") -> tuple[str, dict]:
    n_features = N_FEATURES[module]
    params = {"n": n, "widths": (n_features, 64, n_outputs), "dtype": dtype}
    without, with_repair = (
        cost(
            SETUP.format(model=MODELS[module].format(repair=repair), **params),
            "estimator.fit(X, y)",
        )
        for repair in (None, "head")
    )
    itemsize = {"float32": 4, "float64": 8}[dtype]
    values = (
        n * n_features * itemsize / 2**20,
        *without,
        with_repair[0] - without[0],
        with_repair[1],
        max(without[1], with_repair[1]) * 2**20 / n,
    )
    name = f"n {n:,}, {n_outputs} outputs, {dtype}, {module}"
    print(f"{name:42s}", *(f"{value:14.2f}" for value in values), sep="", flush=True)
    return name, dict(zip(HEAD, values, strict=True))
