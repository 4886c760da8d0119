"""Generated data sets, ordinary and odd, for hypothesis; and what a fit owes them."""

import re
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, reject, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers
from properties import assert_obeys
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array

from sklpos import MLP, STRATEGIES, PositiveOutputRegressor
from sklpos.nets.tensors import without_torch

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]
# Hypothesis takes numbers from the source of all modules that are imported, so that the
# cases of a test would depend on the tests before it. These are none.
_NO_CONSTANTS = providers._local_constants
providers._get_local_constants = lambda: _NO_CONSTANTS


def repeatable(max_examples: int, **more) -> settings:
    """The same examples in every run; nothing is stored; a slow machine is no fault."""
    fixed = {"derandomize": True, "database": None, "deadline": None}
    return settings(
        max_examples=max_examples, suppress_health_check=CHECKS, **fixed, **more
    )


# Values


def _subnormal(rng, shape):
    return rng.integers(-9, 10, size=shape) * 5e-324


def _duplicated(rng, shape):
    return np.repeat(rng.normal(size=(1, shape[1])), shape[0], axis=0)


def _constant_columns(rng, shape):
    X = rng.normal(size=shape)
    X[:, ::2] = 3.5
    return X


def _one_huge(rng, shape):
    X = rng.normal(size=shape)
    X[0, 0] = 1e30
    return X


INPUTS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "integers": lambda rng, shape: rng.integers(0, 100, size=shape).astype(float),
    "zeros": lambda rng, shape: np.zeros(shape),
    "duplicated rows": _duplicated,
    "constant columns": _constant_columns,
    "far from 0": lambda rng, shape: 1e8 + rng.normal(size=shape),
    "columns of any size": lambda rng, shape: (
        rng.normal(size=shape) * 10.0 ** rng.uniform(-30, 30, size=shape[1])
    ),
    "one huge": _one_huge,
    "subnormal": _subnormal,
    "1e300": lambda rng, shape: 1e300 * rng.normal(size=shape),
}

TARGETS = {
    "ordinary": lambda rng, shape: np.maximum(rng.normal(size=shape), 0),
    "below 0": lambda rng, shape: rng.normal(size=shape),
    "all 0": lambda rng, shape: np.zeros(shape),
    "all equal": lambda rng, shape: np.full(shape, rng.uniform(0.1, 1)),
    "nearly equal": lambda rng, shape: 1 + 1e-12 * rng.normal(size=shape),
    "one of many": lambda rng, shape: np.eye(*shape),
    "outputs of any size": lambda rng, shape: (
        rng.uniform(size=shape) * 10.0 ** rng.uniform(-20, 20, size=shape[1])
    ),
}

WEIGHTS = {
    "none": lambda rng, n: None,
    "1e-12 to 1e12": lambda rng, n: 10.0 ** rng.uniform(-12, 12, size=n),
    "some 0": lambda rng, n: rng.integers(0, 3, size=n),
    "a list": lambda rng, n: list(rng.uniform(size=n)),
    "huge": lambda rng, n: np.full(n, 1e300),
    "subnormal": lambda rng, n: np.full(n, 5e-324),
}


# Containers


def _read_only(values):
    values = np.array(values)
    values.setflags(write=False)
    return values


def _memory_map(values):
    values = np.ascontiguousarray(values)
    with tempfile.TemporaryDirectory() as folder:  # the pages outlive the name
        path = Path(folder, "rows.npy")
        np.save(path, values)
        return np.load(path, mmap_mode="r")


def _every_second(values):
    wide = np.zeros((2 * len(values), *values.shape[1:]), values.dtype)
    wide[::2] = values
    return wide[::2]


def _bfloat16(values):
    if values.dtype.kind == "c":
        raise TypeError("would lose the imaginary part")
    return torch.as_tensor(np.array(values)).bfloat16()


def _polars(values):
    if values.dtype.kind == "c":
        raise TypeError("would become objects")
    if values.ndim == 1:
        return polars.Series("y", values)
    return polars.DataFrame(values, schema=[f"x{j}" for j in range(values.shape[1])])


def _frame(values, dtype=None):
    if values.ndim == 1:
        return pd.Series(values, name="y", dtype=dtype)
    return pd.DataFrame(values, dtype=dtype).rename(columns="x{}".format)


CONTAINERS = {
    "array": np.asarray,
    "Fortran order": np.asfortranarray,
    "every second row": _every_second,
    "backwards": lambda values: np.array(values[::-1])[::-1],
    "read-only": _read_only,
    "read-only memory map": _memory_map,
    "list": lambda values: values.tolist(),
    "tuple": lambda values: (
        tuple(map(tuple, np.atleast_2d(values))) if values.ndim > 1 else tuple(values)
    ),
    "objects": lambda values: values.astype(object),
    "masked array": np.ma.masked_array,
    "pandas": _frame,
    "pandas, nullable": lambda values: _frame(values, "Float64"),
    "pandas, categorical": lambda values: _frame(values).astype("category"),
    "torch": lambda values: torch.as_tensor(np.array(values)),
    "torch, a leaf": lambda values: torch.tensor(values).requires_grad_(),
    "torch, bfloat16": _bfloat16,
}
try:
    import polars
except ImportError:
    pass
else:
    CONTAINERS["polars"] = _polars

DTYPES = [
    *("float64", "float32", "float16", "longdouble", ">f8", ">f4", ">i4", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("complex128", "U", "S", "datetime64[s]", "timedelta64[s]"),
]


# Cases


@dataclass(frozen=True)
class Case:
    """What is fitted, and by which estimator."""

    name: str
    X: object
    y: object
    weight: object
    model: PositiveOutputRegressor

    def __repr__(self):
        return self.name


def _seeded(draw):
    return np.random.default_rng(draw(st.integers(0, 999), label="seed"))


def _shape(draw):
    n = draw(st.sampled_from([20, 7, 3, 2, 1]), label="rows")
    p = draw(st.sampled_from([3, 1, 40]), label="features")
    outputs = draw(st.sampled_from([None, 1, 2, 3]), label="outputs")
    rare = draw(st.integers(0, 19))
    p, outputs = (10_000 if rare == 1 else p), (50 if rare == 2 else outputs)
    return n, p, outputs


def _model(draw, bounds):
    options = {
        "strategy": sorted(STRATEGIES),
        "dtype": ["auto", "float32", "float64"],
        "repair": ["head", "head", None],
        "balance": [True, False],
        "batch_size": [8, -1, 1],
        "max_epochs": [1, 2],
        "early_stopping": [False, False, False, True],
        "scale_y": [True, True, False],
        "lr": [0.05, 0.004],
    }
    drawn = {name: draw(st.sampled_from(values)) for name, values in options.items()}
    # With an upper bound, this strategy may need features between 0 and 1.
    needs_sigmoid = drawn["strategy"] == "nonnegative_weights" and bounds[1] is not None
    return PositiveOutputRegressor(
        **dict(zip(("lower_bound", "upper_bound"), bounds, strict=True)),
        module=MLP,
        module__hidden_layer_sizes=(4,),
        module__activation="sigmoid" if needs_sigmoid else "relu",
        random_state=0,
        **drawn,
    )


def _bounds(draw, unit, n_outputs):
    bounds = {
        "0": (0.0, None),
        "below y": (-unit, None),
        "above y": (3 * unit, None),
        "1": (1.0, None),
        "free": ([-np.inf, *[0.0] * (n_outputs - 1)], None),
        "all free": (-np.inf, None),
        "huge": (1e300, None),
        "from above": (None, unit),
        "both": (0.0, unit),
        # No float32 number may lie between two equal float64 ones.
        "equal": (float(np.float32(unit)), float(np.float32(unit))),
        "mixed": ([None, *[0.0] * (n_outputs - 1)], [unit] * n_outputs),
        "far apart": (-1e20 * unit, 1e20 * unit),
        "crossed": (unit, -unit),
    }
    return bounds[draw(st.sampled_from(list(bounds)), label="bounds")]


@st.composite
def odd_values(draw) -> Case:
    """Arrays with values of any size and kind."""
    rng, (n, p, outputs) = _seeded(draw), _shape(draw)
    kinds = [draw(st.sampled_from(list(kind))) for kind in (INPUTS, TARGETS, WEIGHTS)]
    unit = 10.0 ** draw(st.integers(-30, 30), label="unit of y")
    X = INPUTS[kinds[0]](rng, (n, p))
    y = unit * TARGETS[kinds[1]](rng, (n, outputs or 1))
    weight = WEIGHTS[kinds[2]](rng, n)
    model = _model(draw, _bounds(draw, unit, outputs or 1))
    name = f"{kinds}, {n} rows, {p} features, {outputs} outputs, y ~ {unit}, {model}"
    return Case(name, X, y if outputs else y.ravel(), weight, model)


@st.composite
def odd_containers(draw) -> Case:
    """Ordinary values in any container and dtype."""
    rng, (n, p, outputs) = _seeded(draw), _shape(draw)
    p = min(p, 100)
    wrap_X, wrap_y = (draw(st.sampled_from(list(CONTAINERS))) for _ in range(2))
    dtype_X, dtype_y = (draw(st.sampled_from(DTYPES)) for _ in range(2))
    X = 3 * rng.normal(size=(n, p)) + 5 * (dtype_X.startswith("u"))
    y = 3 * np.maximum(rng.normal(size=(n, outputs) if outputs else n), 0)
    model = _model(draw, (0.0, None)).set_params(scale_y=True)
    name = f"X: {wrap_X} of {dtype_X}, y: {wrap_y} of {dtype_y}; {n} rows, {model}"
    try:
        X = CONTAINERS[wrap_X](_cast(X, dtype_X))
        y = CONTAINERS[wrap_y](_cast(y, dtype_y))
    except (TypeError, ValueError, RuntimeError):
        reject()  # this container does not take this dtype
    return Case(name, X, y, None, model)


def _cast(values, dtype):
    if dtype.startswith("u"):
        values = np.abs(values)
    return values.astype("i8" if "[s]" in dtype else values.dtype).astype(dtype)


# What is owed


NAMES = (
    r"\b(X|y|sample_weight|Sample weights|(lower|upper)_bound|early_stopping|lr"
    r"|strategy)\b"
)
KINDS = (UserWarning, ConvergenceWarning)


def assert_fits_or_refuses(case: Case) -> str:
    """A finite model that keeps its promise, or one sentence that names what is wrong.

    Returns the sentence, or "" for a fit.
    """
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            case.model.fit(case.X, case.y, case.weight)
        except (ValueError, TypeError) as error:
            assert_clear(error)
            return str(error)
    assert {warning.category for warning in seen} <= {*KINDS}, seen
    assert_sound(case)
    return ""


def assert_clear(error) -> None:
    """It names a parameter, and was raised by us or by scikit-learn's validation."""
    assert re.search(NAMES, str(error)), error
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    assert "torch" not in last, (last, error)


def assert_sound(case: Case) -> None:
    """Weights, predictions and records are finite; the bound holds where promised."""
    model = case.model
    assert all(weight.isfinite().all() for weight in model.module_.parameters())
    assert np.isfinite(model.predict(case.X)).all()
    assert np.isfinite(model.multipliers_).all()
    assert np.isfinite(model.loss_curve_).all()
    everywhere = model.strategy_.guarantee == "everywhere"
    if everywhere or model.repair_ is not None:
        used = slice(None) if case.weight is None else np.asarray(case.weight) > 0
        assert everywhere or model.repair_.feasible_.all()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "X does not have valid feature names")
            assert_obeys(
                model,
                check_array(without_torch(case.X), dtype=float)[used],
                model.lower_bound,
                model.upper_bound,
            )
