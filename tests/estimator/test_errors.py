"""Bad input, one row each: what is raised or warned of, and the words that help."""

import copy
import functools
from datetime import date
from typing import NamedTuple

import numpy as np
import pytest
import torch
from properties import assert_same_bits
from scipy import sparse
from sklearn.exceptions import NotFittedError
from torch import nn

from sklpos import MLP, STRATEGIES, PositiveOutputRegressor
from sklpos.strategies import Activation

N = 20
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
Y = np.maximum(X @ RNG.normal(size=(3, 2)), 0)
y = Y[:, 0]


def make(**params) -> PositiveOutputRegressor:
    return PositiveOutputRegressor(**({"max_epochs": 2, "random_state": 0} | params))


def marred(values, value, dtype=None):
    copied = np.array(values, dtype=dtype)
    copied.flat[3] = value
    return copied


def net(*layers):
    return lambda: nn.Sequential(nn.Linear(3, 2), *layers)


class Doubled(nn.Linear):
    def forward(self, X):
        return 2 * super().forward(X)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.only = nn.Linear(2, 2)

    def forward(self, X):
        return self.only(self.only(X))


class Fit(NamedTuple):
    """A fit that fails, and the words that its message must hold."""

    name: str
    X: object
    y: object
    kind: type[Exception]
    words: list[str]
    params: dict

    def __str__(self):
        return self.name


def case(name, X, y, kind, *words, **params) -> Fit:
    return Fit(name, X, y, kind, words, params)


def parameter(kind, *words, **params) -> Fit:
    """The message must name the parameter, too."""
    (name, value), *_ = params.items()
    words = (name.rpartition("__")[2], *words)
    shown = f"{value!r:.40}".partition(" at 0x")[0]  # the same in every process
    return Fit(f"{name}={shown}", X, y, kind, words, params)


DATA = [
    case("NaN in X", marred(X, np.nan), y, ValueError, "X contains NaN"),
    case("inf in X", marred(X, np.inf), y, ValueError, "X contains infinity"),
    case("NaN in y", X, marred(y, np.nan), ValueError, "y contains NaN"),
    case("inf in y", X, marred(Y, np.inf), ValueError, "y contains infinity"),
    case("sparse y", X, sparse.csr_array(Y), ValueError, "y is", "sparse", "toarray"),
    case("complex X", X + 1j, y, ValueError, "X: Complex data not supported"),
    case("complex y", X, y + 1j, ValueError, "y: Complex data not supported"),
    case(
        "strings in X",
        marred(X, "a", object),
        y,
        ValueError,
        "X: column",
        "text such as 'a'",
    ),
    case("strings in y", X, marred(y, "b", object), ValueError, "y holds text", "'b'"),
    case("an array of text in y", X, np.full(N, "b"), ValueError, "y holds", "'b'"),
    case("an endless integer in X", [[10**400]] * N, y, ValueError, "X: int too large"),
    case("an endless integer in y", X, [10**400] * N, ValueError, "y: int too large"),
    case("X without data", torch.empty(N, 3, device="meta"), y, ValueError, "X: "),
    case("sparse tensor", torch.eye(N).to_sparse(), y, TypeError, "X: ", "dense"),
    case("dates in y", X, [date(2026, 1, 1)] * N, ValueError, "y holds dates"),
    case("no rows", X[:0], y[:0], ValueError, "0 sample(s)", "minimum of 1"),
    case("no features", X[:, :0], y, ValueError, "0 feature(s)", "minimum of 1"),
    case("no y", X, None, ValueError, "requires y to be passed"),
    case("1-d X", X[:, 0], y, ValueError, "2D array", "reshape"),
    case("3-d X", X[:, :, None], y, ValueError, "dim 3"),
    case("3-d y", X, Y[:, :, None], ValueError, "dim 3"),
    case("shorter y", X, y[:5], ValueError, "numbers of samples", "[20, 5]"),
    case("huge y", X, y * 1e200, ValueError, "y has a size of", "unit of y"),
    case("y > float32", X.astype("f4"), y * 1e38, ValueError, "float32", "unit of y"),
    case("tiny y", X, y * 1e-200, ValueError, "standard deviation", "unit of y"),
    case(
        "bound far from y",
        X,
        y,
        ValueError,
        "lower_bound=[-1e+300]",
        "None",
        lower_bound=-1e300,
    ),
    case(
        "upper bound far from y",
        X,
        y,
        ValueError,
        "upper_bound=[1e+300]",
        "None",
        upper_bound=1e300,
    ),
    case("huge X", X * 1e200, y, ValueError, "diverged", "standardise X", module=MLP),
    case(
        "X > float32",
        X * 1e200,
        y,
        ValueError,
        "X has a size of",
        "standardise X",
        "dtype='float64'",
        dtype="float32",
    ),
    case("negative y", X, -y - 1, UserWarning, "lower_bound=[0.0]", "20 of 20"),
    case(
        "negative y is refused",
        X,
        y - 0.1,
        ValueError,
        "y is below lower_bound=[0.0]",
        "on_violated_y='warn'",
        on_violated_y="raise",
    ),
    case(
        "y above its bound is refused",
        X,
        np.r_[np.minimum(y[:-2], 2.0), 3.0, 4.0],
        ValueError,
        "y is above upper_bound=[2.5] in 2 of 20 rows, which",
        upper_bound=2.5,
        on_violated_y="raise",
    ),
    case(
        "y outside both bounds",
        X,
        np.r_[np.minimum(y[:-3], 2.0), -1.0, 3.0, 4.0],
        UserWarning,
        "below lower_bound=[0.0] in 1 and above upper_bound=[2.5] in 2 of 20 rows",
        upper_bound=2.5,
    ),
    case(
        "of several outputs, only the bounds that are violated are named",
        X,
        np.column_stack([y, -y - 1, -y - 1, -y - 1]),
        UserWarning,
        "y is below lower_bound=[-1.0, 0.0] in 20 and above upper_bound=[-9.0] in 20",
        lower_bound=[-7.0, -1.0, 0.0, None],
        upper_bound=[None, None, 8.0, -9.0],
        repair=None,
    ),
    case(
        "the former name of on_violated_y",
        X,
        y,
        FutureWarning,
        "on_negative_y='warn' is deprecated",
        "on_violated_y",
        on_negative_y="warn",
    ),
]

PARAMETERS = [
    parameter(ValueError, *sorted(STRATEGIES), strategy="barrier"),
    parameter(ValueError, "ConstraintStrategy", strategy=STRATEGIES["slack"]),
    parameter(ValueError, "'cube'", "'softplus'", strategy=Activation("cube")),
    parameter(ValueError, "[0.0, inf)", "-1", alpha=-1),
    parameter(ValueError, "[0.0, inf)", "nan", alpha=np.nan),
    parameter(ValueError, "[0.0, inf)", "'1'", alpha="1"),
    parameter(ValueError, "alpha > 0", "'unconstrained'", alpha=0, module=MLP),
    parameter(ValueError, "(2,)", "1 outputs", lower_bound=[0.0, 1.0]),
    parameter(ValueError, "(1, 1)", "1 outputs", lower_bound=[[0.0]]),
    parameter(ValueError, "nan", "-inf", lower_bound=np.nan),
    parameter(ValueError, "=inf", "-inf", lower_bound=np.inf),
    parameter(ValueError, "'zero'", "finite number", lower_bound="zero"),
    parameter(ValueError, "(2,)", "1 outputs", upper_bound=[0.0, 1.0]),
    parameter(ValueError, "nan", "inf for no bound", upper_bound=np.nan),
    parameter(ValueError, "nan", "inf for no bound", upper_bound=[np.nan]),
    parameter(ValueError, "=-inf", "inf for no bound", upper_bound=-np.inf),
    parameter(ValueError, "'one'", "finite number", upper_bound="one"),
    parameter(
        ValueError, "upper_bound=-1", "below lower_bound=0", "at least", upper_bound=-1
    ),
    parameter(ValueError, "'bias'", "'head'", repair="bias"),
    parameter(ValueError, "bool", balance="yes"),
    parameter(ValueError, "callable", "'mse'", criterion="mse"),
    parameter(ValueError, "one loss per row and output", criterion=nn.CrossEntropyLoss),
    parameter(ValueError, "'admw'", "'adamw'", optimizer="admw"),
    parameter(ValueError, "(0.0, inf)", "0", lr=0),
    parameter(ValueError, "[0, inf)", "-1", max_epochs=-1),
    parameter(ValueError, "[1, inf)", "-1", "0", batch_size=0),
    parameter(ValueError, "(0.0, 1.0)", validation_fraction=1.0),
    parameter(ValueError, "[1, inf)", n_iter_no_change=0),
    parameter(ValueError, "[0.0, inf)", tol=-1e-3),
    parameter(TypeError, "holds 3", "skorch callback", callbacks=[3]),
    parameter(TypeError, "(name, callback)", callbacks=[("a", "b", "c")]),
    parameter(ValueError, "'warn'", "'raise'", "'ignore'", on_violated_y="drop"),
    parameter(ValueError, "float32", "float64", dtype="float16"),
    parameter(ValueError, "'abacus'", "'cpu'", "'auto'", device="abacus"),
    parameter(ValueError, "cuda:99", "'cpu'", device="cuda:99"),
    parameter(ValueError, "None", "'cpu'", device=None),
    parameter(ValueError, "RandomState", random_state=np.random.default_rng(0)),
    parameter(TypeError, "net_params", net_params={}),
    parameter(TypeError, "'foo'", optimizer__foo=1),
    parameter(TypeError, "'foo'", criterion__foo=1),
    parameter(TypeError, "'foo'", iterator_train__foo=1),
    parameter(TypeError, "'foo'", dataset__foo=1),
    parameter(ValueError, "print_logg", "print_log'", callbacks__print_logg__sink=3),
    parameter(TypeError, "'depth'", "n_folds", module__depth=3),
    parameter(ValueError, "width=0", "positive integer", module__width=0),
    parameter(ValueError, "n_folds=2.5", "positive integer", module__n_folds=2.5),
]

OF_MLP = [
    parameter(ValueError, *words, **{f"module__{name}": value}, module=MLP)
    for name, value, words in [
        ("hidden_layer_sizes", (0,), ["positive integers"]),
        ("hidden_layer_sizes", 2.5, ["positive integers"]),
        ("activation", "softsign", ["'softsign'", "'relu'"]),
        ("dropout", 3, ["between 0 and 1", "3"]),
    ]
]

MODULES = [
    case(f"module {name}", X, Y, kind, *words, module=module, **params)
    for name, module, kind, words, params in [
        ("ends in ReLU", net(nn.ReLU()), ValueError, ["nn.Linear", "ReLU"], {}),
        ("ends in product", Doubled(3, 2), ValueError, ["nn.Linear", "Doubled"], {}),
        ("of width 5", nn.Linear(3, 5), ValueError, ["(n_samples, 2)", "(1, 5)"], {}),
        ("of 4 inputs", nn.Linear(4, 2), ValueError, ["module", "3 features"], {}),
        ("frozen", nn.Linear(3, 2).requires_grad_(False), ValueError, ["trained"], {}),
        ("number", 3, ValueError, ["module=3", "nn.Module"], {}),
        ("makes a dict", lambda: {}, TypeError, ["module=", "nn.Module"], {}),
        ("misses argument", nn.Linear, TypeError, ["in_features", "module__"], {}),
        (
            "instance with arguments",
            nn.Linear(3, 2),
            ValueError,
            ["module__bias", "not an instance"],
            {"module__bias": False},
        ),
    ]
]

FEATURES = [
    case(
        f"features that can be negative: {name}",
        X,
        Y,
        ValueError,
        "strategy='nonnegative_weights'",
        "nn.ReLU",
        strategy="nonnegative_weights",
        **params,
    )
    for name, params in {
        "tanh": {"module": MLP, "module__activation": "tanh"},
        "identity": {"module": MLP, "module__hidden_layer_sizes": ()},
        "instance": {"module": nn.Linear(3, 2)},
    }.items()
]

TRAINING = [
    case("a head used twice", X[:, :2], Y, ValueError, "nn.Linear once", module=Twice),
    case("lr=1e6", X, y, ValueError, "multipliers grew", "1000000", lr=1e6, module=MLP),
    case(
        "lr=1e6 with plain descent",
        X,
        y,
        ValueError,
        "diverged",
        "lr (now 1000000",
        lr=1e6,
        optimizer=torch.optim.SGD,
        max_epochs=100,
    ),
    case("lr=1e300", X, y, ValueError, "diverged", "lr (now 1e+300", lr=1e300),
    case(
        "one row to stop early on",
        X[:1],
        y[:1],
        ValueError,
        "early_stopping=True",
        "2 samples",
        early_stopping=True,
    ),
]


@functools.cache
def fitted(**params) -> PositiveOutputRegressor:
    """A model that calls are made on in vain."""
    return make(**params).fit(X, y)


def assert_says(error, words):
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "bad", [*DATA, *PARAMETERS, *OF_MLP, *MODULES, *FEATURES, *TRAINING], ids=str
)
def test_bad_fit(bad):
    """One clear sentence, and nothing lost; warnings are errors here."""
    model = make(**bad.params)
    before = vars(model).copy()
    with pytest.raises(bad.kind) as error:
        model.fit(bad.X, bad.y)
    assert_says(error, bad.words)
    assert vars(model) == before

    model = copy.deepcopy(fitted()).set_params(**bad.params)
    with pytest.raises(bad.kind):
        model.fit(bad.X, bad.y)
    assert_same_bits(model.predict(X), fitted().predict(X))


CALLS = {
    "predict before fit": (lambda: make().predict(X), NotFittedError, ["fit"]),
    "enforce before fit": (lambda: make().enforce(X), NotFittedError, ["fit"]),
    "wrong number of features at predict": (
        lambda: fitted().predict(X[:, :2]),
        ValueError,
        ["X has 2 features", "expecting 3"],
    ),
    "wrong number of features at enforce": (
        lambda: fitted().enforce(X[:, :2]),
        ValueError,
        ["X has 2 features", "expecting 3"],
    ),
    "other features in partial_fit": (
        lambda: fitted().partial_fit(X[:, :2], y),
        ValueError,
        ["X has 2 features", "expecting 3"],
    ),
    "more outputs in partial_fit": (
        lambda: fitted().partial_fit(X, Y),
        ValueError,
        ["y has 2 outputs", "built for 1"],
    ),
    "early stopping in partial_fit": (
        lambda: make(early_stopping=True).partial_fit(X, y),
        ValueError,
        ["partial_fit", "early_stopping=True"],
    ),
    "NaN at predict": (
        lambda: fitted().predict(marred(X, np.nan)),
        ValueError,
        ["X contains NaN"],
    ),
    "X > float32 at predict": (
        lambda: fitted(dtype="float32").predict(X * 1e200),
        ValueError,
        ["X has a size of", "float32"],
    ),
    "X > float32 in partial_fit": (
        lambda: fitted(dtype="float32").partial_fit(X * 1e200, y),
        ValueError,
        ["X has a size of", "float32"],
    ),
    "no rows at enforce": (
        lambda: fitted().enforce(X[:0]),
        ValueError,
        ["0 sample(s)"],
    ),
    "unknown keyword": (
        lambda: make(hidden_layer_sizes=(3,)),
        TypeError,
        ["'hidden_layer_sizes'", "module=MLP with module__hidden_layer_sizes"],
    ),
    "unknown parameter": (
        lambda: make().set_params(gamma=1),
        ValueError,
        ["'gamma'", "start with", "module__", "optimizer__"],
    ),
    "negative weights": (
        lambda: make().fit(X, y, marred(np.ones(N), -1.0)),
        ValueError,
        ["Negative", "sample_weight"],
    ),
    "NaN in weights": (
        lambda: make().fit(X, y, marred(np.ones(N), np.nan)),
        ValueError,
        ["sample_weight contains NaN"],
    ),
    "text in weights": (
        lambda: make().fit(X, y, ["a"] * N),
        ValueError,
        ["sample_weight holds text", "'a'"],
    ),
    "text to predict for": (
        lambda: fitted().predict([["a"] * 3]),
        ValueError,
        ["X: column 0", "'a'"],
    ),
    "weights of 0": (
        lambda: make().fit(X, y, np.zeros(N)),
        ValueError,
        ["ample", "weight", "at least one"],
    ),
    "shorter weights": (
        lambda: make().fit(X, y, np.ones(5)),
        ValueError,
        ["sample_weight", "(5,)", "(20,)"],
    ),
    "2-d weights": (
        lambda: make().fit(X, y, np.ones((N, 2))),
        ValueError,
        ["ample weights", "1D array"],
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_call(name):
    call, kind, words = CALLS[name]
    with pytest.raises(kind) as error:
        call()
    assert_says(error, words)
