"""Named assertions about fitted estimators."""

import random
import signal
from contextlib import contextmanager

import numpy as np
import torch


def assert_obeys(model, X, lower_bound=0.0, upper_bound=None):
    """No prediction is out of bounds, whatever the batch; there is no tolerance.

    Rounding depends on the batch: the rows nearest to a bound are tried alone, too.
    """

    def predict(rows):
        return model.predict(rows).astype(np.float64).reshape(len(rows), -1)

    def side(bound, free):
        values = np.asarray(bound, dtype=np.float64)  # None becomes NaN
        return np.where(np.isnan(values), free, values)

    lower, upper = side(lower_bound, -np.inf), side(upper_bound, np.inf)
    found = predict(X)
    # An overflow to infinity is not near to a free side.
    with np.errstate(invalid="ignore"):
        room = np.fmin(found - lower, upper - found)
    nearest = np.argsort(room.min(axis=1))[:20]
    batches = [X[start : start + 7] for start in range(0, len(X), 7)]
    for batch in (X, *batches, *(X[row : row + 1] for row in nearest)):
        found = predict(batch)
        assert ((found >= lower) & (found <= upper)).all()


def assert_balanced(model, X, Y, weight=None, tolerance=1e-9):
    """The mean prediction is the mean target, in units of the target's deviation."""
    mean = np.average(Y, axis=0, weights=weight)
    deviation = np.sqrt(np.average((Y - mean) ** 2, axis=0, weights=weight))
    excess = np.average(model.predict(X).astype(np.float64), axis=0, weights=weight)
    assert (np.abs(excess - mean) <= tolerance * deviation).all()


def assert_same_bits(first, second):
    """Nested dicts, lists, arrays and numbers are equal, NaN included."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same_bits(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same_bits(one, other)
    elif isinstance(first, torch.Tensor):
        assert_same_bits(first.detach().cpu().numpy(), second.detach().cpu().numpy())
    elif isinstance(first, np.ndarray):
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)
    else:
        assert first == second


def training_state(model) -> dict:
    """Everything that training continues from, and its record."""
    timeless = [
        {name: value for name, value in epoch.items() if name not in ("dur", "batches")}
        for epoch in model.history_
    ]
    domain = model.net_.domain_constraint_
    return {
        "module": dict(model.net_.module_.state_dict()),
        "domain": {} if domain is None else dict(domain.state_dict()),
        "constraint": dict(model.net_.constraint_.state_dict()),
        "optimizer": model.optimizer_.state_dict(),
        "multipliers": model.multipliers_,
        "history": timeless,
    }


def assert_same_training_state(first, second):
    assert_same_bits(training_state(first), training_state(second))


@contextmanager
def untouched_random_state():
    """The global generators of torch, numpy and Python are left as they were."""
    before = global_random_state()
    yield
    assert global_random_state() == before, "a generator of the process was used"


def global_random_state() -> tuple:
    """States that one comparison compares, which happens around every call."""
    name, keys, *position = np.random.get_state()
    states = torch.get_rng_state().numpy().tobytes(), keys.tobytes()
    return *states, name, *position, random.getstate()


def global_state() -> dict:
    """What belongs to the process, but for random state and filters of warnings."""
    return {
        "default dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "interop threads": torch.get_num_interop_threads(),
        "float errors": np.geterr(),
        "signal handler": signal.getsignal(signal.SIGINT),
    }
