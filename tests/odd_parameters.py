"""Parameters, strategies and calls of any kind, for hypothesis; what each is owed."""

import copy
import datetime
import decimal
import fractions
import functools
import pickle
import re
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from generated import KINDS
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from skorch.callbacks import EpochTimer
from torch import nn
from torch.nn import functional as F

import sklpos
from sklpos import MLP, STRATEGIES, PositiveOutputRegressor
from sklpos.certificates import Ball, Box
from sklpos.strategies import Activation, AugmentedLagrangian, Lagrangian

N = 20
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
y = np.maximum(X[:, 0], 0)
CORNERS = (X.min(axis=0), X.max(axis=0))


class Hostile:
    """Refuses to be shown or compared."""

    def __repr__(self):
        raise RuntimeError("no")

    def __eq__(self, other):
        raise RuntimeError("no")

    __hash__ = None


def _own(value) -> Callable:
    return functools.partial(copy.copy, value)


#: Makers by name, because what one call has changed must not reach the next one.
VALUES: dict[str, Callable] = {
    **{repr(v): _own(v) for v in (None, True, False, 0, 1, -1, 3, 1.5, 0.1, -0.5)},
    **{repr(v): _own(v) for v in (np.nan, np.inf, -np.inf, 1e-300, 1e300, 1j, b"a")},
    **{repr(v): _own(v) for v in ("", "auto", "0.1", "cosine", "head", "sgd", "ADAM")},
    **{repr(v): _own(v) for v in ("relu", "mean", "none", "penalty", "box", "crown")},
    **{repr(v): _own(v) for v in ([], [1.0], [None], ["a"], [1, "a"], (0.9,))},
    **{repr(v): _own(v) for v in ((0.9, 0.99), ("a", "b"), {"a": 1}, {"lr": 0.1})},
    **{repr(v): _own(v) for v in (np.float32(0.1), np.int64(3), np.bool_(True))},
    **{repr(v): _own(v) for v in (set(), range(3), datetime.date(2026, 1, 1))},
    **{repr(v): _own(v) for v in (decimal.Decimal("0.1"), fractions.Fraction(1, 10))},
    **{
        f"array {v}": functools.partial(np.array, v) for v in (0.1, [1.0], [], [[1, 2]])
    },
    **{f"tensor {v}": functools.partial(torch.tensor, v) for v in (0.1, [1.0, 2.0])},
    **{
        getattr(v, "__name__", str(v)): _own(v)
        for v in (int, len, torch.relu, nn.Linear, nn.ReLU, nn.MSELoss, F.mse_loss)
    },
    **{v.__name__: _own(v) for v in (torch.optim.SGD, Lagrangian, EpochTimer, MLP)},
    "10**400": lambda: 10**400,
    "a long text": lambda: "x" * 1000,
    "a date of numpy": lambda: np.datetime64("2026-01-01"),
    "a series": lambda: pd.Series([1.0, 2.0]),
    "a frame": lambda: pd.DataFrame({"a": [1.0]}),
    "a generator": lambda: np.random.default_rng(0),
    "a random state": lambda: np.random.RandomState(0),
    "an object": object,
    "a hostile object": Hostile,
    "a layer": nn.ReLU,
    "a loss": nn.MSELoss,
    "a linear module": lambda: nn.Linear(3, 1),
    "a callback": EpochTimer,
    "a list of a callback": lambda: [EpochTimer()],
    "a pair of a name and a number": lambda: [("a", 3)],
    "an optimizer": lambda: torch.optim.SGD([nn.Parameter(torch.zeros(1))]),
    "a partial optimizer": lambda: functools.partial(torch.optim.SGD, momentum=0.9),
    "a strategy": AugmentedLagrangian,
    "a wrong activation": lambda: Activation(3),
    "a wrong strategy": lambda: Lagrangian("a"),
    "a function": lambda: lambda *args, **kwargs: None,
}

#: Further values for what a method takes.
ROWS: dict[str, Callable] = {
    "X": lambda: X.copy(),
    "X in float32": lambda: X.astype("f4"),
    "two columns": lambda: X[:, :2],
    "five rows": lambda: X[:5],
    "a row": lambda: X[0],
    "y": lambda: y.copy(),
    "below 0": lambda: -np.abs(y),
    "ones": lambda: np.ones(N),
    "zeros": lambda: np.zeros(N),
    "NaN": lambda: X * np.nan,
    "infinity": lambda: X * np.inf,
    "huge": lambda: X * 1e300,
    "text": lambda: X.astype(str),
    "objects": lambda: X.astype(object),
    "three dimensions": lambda: X[:, :, None],
    "no rows": lambda: X[:0],
    "corners": lambda: CORNERS,
    "corners in the wrong order": lambda: CORNERS[::-1],
    "a box": lambda: Box(*CORNERS),
    "balls": lambda: Ball(X[:2], 0.1),
    "columns": lambda: [0, (1, 2)],
    "columns that are none": lambda: [99],
    "a misspelled domain": lambda: "bax",
    "hull": lambda: "hull",
    "ball": lambda: "ball",
    "all": lambda: "all",
}

OF_ESTIMATOR = sorted(PositiveOutputRegressor().get_params())
OF_NET = [
    *(f"module__{n}" for n in ("hidden_layer_sizes", "activation", "dropout", "bias")),
    *(f"module__{n}" for n in ("n_outputs", "n_features_in", "X", "sample_weight")),
    *("module__hidden_layer_size", "module__foo", "optimizer__foo", "criterion__foo"),
    *(f"optimizer__{n}" for n in ("betas", "eps", "weight_decay", "lr", "amsgrad")),
    *(f"optimizer__{n}" for n in ("fused", "foreach", "param_groups", "params")),
    *(f"criterion__{n}" for n in ("reduction", "size_average")),
    *(f"callbacks__{n}" for n in ("print_log", "print_log__sink", "foo", "foo__bar")),
    *(f"callbacks__multiplier_ascent{n}" for n in ("", "__window", "__foo")),
    *(f"iterator_train__{n}" for n in ("shuffle", "drop_last", "batch_size")),
    *("iterator_valid__batch_size", "dataset__foo", "dataset__y", "compile__foo"),
]
OF_STACK = [f"module__{n}" for n in ("width", "n_folds", "kinds", "max_intervals")]
_OF_DOMAINS = ["X", "domain", "radius", "categorical", "margin", "time_limit"]
OF_CALLS = {
    "fit": ["X", "y", "sample_weight"],
    "partial_fit": ["X", "y", "sample_weight"],
    "predict": ["X"],
    "enforce": [*_OF_DOMAINS, "adjust", "risk_level", "confidence"],
    "certify": [*_OF_DOMAINS, "lower_bound", "upper_bound", "method"],
    "certify_risk": ["X_holdout", "risk_level", "confidence"],
    "output_bounds": ["X_low", "X_high"],
    "certified_radius": ["X", "scale"],
}
NEEDED = {
    "fit": {"X": X, "y": y},
    "partial_fit": {"X": X, "y": y},
    "predict": {"X": X},
    "enforce": {"X": X, "time_limit": 0.1},
    "certify": {"X": X, "time_limit": 0.1},
    "certify_risk": {"X_holdout": X},
    "output_bounds": {"X_low": X, "X_high": X},
    "certified_radius": {"X": X},
}


def make(stack: bool = False, **params) -> PositiveOutputRegressor:
    small = {"max_epochs": 2, "random_state": 0}
    if not stack:
        small |= {"module": MLP, "module__hidden_layer_sizes": (4,)}
    return PositiveOutputRegressor(**{**small, **params})


@functools.cache
def fitted(stack: bool) -> PositiveOutputRegressor:
    return make(stack).fit(X, y)


# Cases


@dataclass(frozen=True)
class Case:
    """Something to do, and the names one of which a refusal must hold."""

    name: str
    act: Callable
    names: tuple[str, ...]

    def __repr__(self):
        return self.name


def _drawn_values(draw, names, values) -> dict[str, str]:
    number = draw(st.sampled_from([1, 1, 2]))
    drawn = (draw(st.sampled_from(names)) for _ in range(number))
    return {name: draw(st.sampled_from(sorted(values))) for name in drawn}


@st.composite
def odd_parameters(draw) -> Case:
    """A fit with one or two parameters of any name and value."""
    stack = draw(st.integers(0, 9)) == 0
    names = [*OF_ESTIMATOR, *(OF_STACK if stack else OF_NET)]
    given = _drawn_values(draw, names, VALUES)
    early = draw(st.sampled_from([False, False, True]))

    def act():
        params = {name: VALUES[label]() for name, label in given.items()}
        return make(stack, **{"early_stopping": early, **params}).fit(X, y)

    # A strategy and a module have parameters of their own.
    inner = ("dual_lr", "function", "hidden_layer_sizes", "features", "weight")
    return Case(f"{given}, stack: {stack}", act, (*given, *inner))


@st.composite
def odd_strategies(draw) -> Case:
    """A fit under a strategy with parameters of any value."""
    name = draw(st.sampled_from(sorted(STRATEGIES)))
    kind = STRATEGIES[name]
    names = sorted(kind().get_params())
    given = _drawn_values(draw, names, VALUES) if names else {}

    def act():
        params = {name: VALUES[label]() for name, label in given.items()}
        return make(strategy=kind(**params)).fit(X, y)

    return Case(f"{name}: {given}", act, tuple(given))


@st.composite
def odd_calls(draw) -> Case:
    """One or two arguments of any value, for a method of a model, fitted or not."""
    stack, ready = draw(st.booleans()), draw(st.integers(0, 9)) > 0
    method = draw(st.sampled_from(sorted(OF_CALLS)))
    values = {**VALUES, **ROWS}
    given = _drawn_values(draw, OF_CALLS[method], values)
    base = {}
    if method in ("enforce", "certify") and "domain" not in given:
        base["domain"] = draw(st.sampled_from(["box", "hull", "ball"]))
        base |= {"radius": 0.1} if base["domain"] == "ball" else {}

    def act():
        model = copy.deepcopy(fitted(stack)) if ready else make(stack)
        arguments = {name: values[label]() for name, label in given.items()}
        getattr(model, method)(**{**NEEDED[method], **base, **arguments})
        return model

    name = f"{method}({base}, {given}), stack: {stack}, fitted: {ready}"
    return Case(name, act, (*given, *base, "X", "y", "rows"))


@st.composite
def odd_orders(draw) -> Case:
    """Methods in any order, with other parameters, copies and files in between."""
    steps = draw(st.lists(st.sampled_from(sorted(_STEPS)), min_size=1, max_size=6))
    warm = draw(st.booleans())
    names = [*OF_ESTIMATOR, *OF_NET]
    given = [_drawn_values(draw, names, VALUES) for _ in steps]

    def act():
        model = make(warm_start=warm)
        for step, params in zip(steps, given, strict=True):
            values = {name: VALUES[label]() for name, label in params.items()}
            before = copy.copy(model)
            try:
                model = _STEPS[step](model, values)
            except (ValueError, TypeError) as error:
                said = (*OF_ESTIMATOR, *OF_NET, "dual_lr", "function", "strategy")
                assert_readable(error, said)
                model = before
        return model

    return Case(f"{steps}, {given}", act, ())


_STEPS: dict[str, Callable] = {
    "fit": lambda model, values: model.fit(X, y),
    "fit two outputs": lambda model, values: model.fit(X, np.column_stack([y, y])),
    "partial_fit": lambda model, values: model.partial_fit(X, y),
    "predict": lambda model, values: model.predict(X) is None or model,
    "score": lambda model, values: model.score(X, y) is None or model,
    "enforce": lambda model, values: model.enforce(X),
    "certify": lambda model, values: model.certify(time_limit=0.1) is None or model,
    "set_params": lambda model, values: model.set_params(**values),
    "clone": lambda model, values: clone(model),
    "copy": lambda model, values: copy.deepcopy(model),
    "pickle": lambda model, values: _stored(model),
    "show": lambda model, values: _shown(model),
}


def _stored(model):
    try:
        return pickle.loads(pickle.dumps(model))
    # A function or an object of a test cannot be stored, whatever holds it.
    except (pickle.PicklingError, AttributeError, TypeError):
        return model


def _shown(model):
    if not any(isinstance(value, Hostile) for value in model.get_params().values()):
        repr(model)
    return model


# What is owed

#: Words of errors from inside torch, numpy or Python, which help nobody.
INNER = (
    r"object has no|has no len|not supported (between|for)|unsupported operand"
    r"|ambiguous|unhashable|invalid combination|size mismatch|not iterable|to unpack"
    r"|cannot unpack|must be real number|cannot be interpreted|Expected all tensors"
    r"|not callable"
)


def assert_answers(case: Case) -> str:
    """A finite model, or one readable sentence that names what is wrong.

    Returns the sentence, or "" for a model.
    """
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            model = case.act()
            if hasattr(model, "fitted_"):
                assert np.isfinite(model.predict(X)).all()
        except (ValueError, TypeError) as error:
            assert_readable(error, case.names)
            return str(error)
        finally:
            assert {w.category for w in seen} <= {*KINDS, FutureWarning}, seen
    return ""


def assert_readable(error: Exception, names: tuple[str, ...]) -> None:
    """In one line of at most 300 characters, raised by us or by scikit-learn."""
    said = str(error)
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    # Its own validation has words of its own, which others look for.
    if "sklearn" in last or isinstance(error, NotFittedError):
        return
    assert Path(sklpos.__file__).parent in Path(last).parents, (last, said)
    assert len(said) <= 300, said
    assert "\n" not in said, said
    # The errors of a module or a criterion of the user are quoted.
    if not re.search(r"\w+Error: |^criterion=", said):
        assert not re.search(INNER, said), said
    words = {word for name in names for word in (name, name.rpartition("__")[2])}
    words |= {name.partition("__")[0] for name in names}
    assert any(re.search(rf"\b{re.escape(word)}\b", said) for word in words), said
