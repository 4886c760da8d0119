"""The bounds of auto_LiRPA, if it is installed."""

import time
import warnings
from copy import deepcopy
from importlib.util import find_spec

import torch

# Our names of its methods.
METHODS = {"LiRPA, CROWN": "CROWN", "LiRPA, alpha-CROWN": "CROWN-Optimized"}


def bounds_of_lirpa(module, box):
    """Return, by method, the lower bound over a box and the seconds it takes."""
    if not find_spec("auto_LiRPA"):
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: _bound(module, box, METHODS[name]) for name in METHODS}


def _bound(module, box, method):
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    # Its tanh does not take float64.
    module = deepcopy(module).float()
    low, high = (
        torch.as_tensor(end.copy()).float()[None] for end in (box.low, box.high)
    )
    start = time.process_time()
    options = {"optimize_bound_args": {"iteration": 20}}
    bounded = BoundedModule(module, (low + high) / 2, bound_opts=options)
    inputs = BoundedTensor(
        (low + high) / 2, PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high)
    )
    lower, _ = bounded.compute_bounds(x=(inputs,), method=method, bound_upper=False)
    return lower.item(), time.process_time() - start
