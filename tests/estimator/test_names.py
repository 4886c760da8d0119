"""Names and values of other libraries: taken, or answered with what to write."""

import copy
import functools
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from properties import assert_same_bits
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import EarlyStopping
from torch import nn

from sklpos import MLP, PositiveOutputRegressor
from sklpos.estimator.names import PREFIXES, SYNONYMS
from sklpos.strategies import Lagrangian, SlackMultipliers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
y = np.maximum(X[:, 0], 0)


def make(**params) -> PositiveOutputRegressor:
    small = {"module": MLP, "max_epochs": 2, "random_state": 0}
    return PositiveOutputRegressor(**{**small, **params})


# Names

MEANT = {
    "max_iter": "max_epochs",
    "n_epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "learning_rate": "lr",
    "learning_rate_init": "lr",
    "hidden_layer_sizes": "module=MLP with module__hidden_layer_sizes",
    "hidden_units": "module__hidden_layer_sizes",
    "activation": "module__activation",
    "dropout": "module__dropout",
    "batch": "batch_size",
    "solver": "optimizer",
    "loss": "criterion",
    "objective": "criterion",
    "ylim": "lower_bound",
    "y_min": "lower_bound",
    "y_max": "upper_bound",
    "nonnegative": "lower_bound=0, which is the default",
    "positive": "lower_bound=0, which is the default",
    "C": "weight_decay",
    "patience": "n_iter_no_change",
    "validation_split": "validation_fraction",
    "train_split": "early_stopping with validation_fraction, or X_val and y_val of fit",
    "eval_set": "X_val and y_val of fit",
    "seed": "random_state",
    "n_jobs": "GridSearchCV",
    # misspelled
    "lower_bond": "lower_bound",
    "stratgy": "strategy",
    "learningRate": "lr",
    "max_epoch": "max_epochs",
    "batchsize": "batch_size",
    "optimiser": "optimizer",
    "optimiser__lr": "optimizer__lr",
    "modul__width": "module__width",
    "module_width": "module__width",
    "iterator_train_shuffle": "iterator_train__shuffle",
}


@pytest.mark.parametrize("name", MEANT)
def test_a_name_of_another_library_gets_a_hint(name):
    with pytest.raises(TypeError, match=rf"{name!r}; did you mean .*") as error:
        PositiveOutputRegressor(**{name: 1})
    assert str(error.value).endswith(f"{MEANT[name]}?")
    # scikit-learn's own kind of error, and its words.
    with pytest.raises(ValueError, match=rf"^Invalid parameter {name!r}") as error:
        make().set_params(alpha=2.0, **{name: 1})
    assert str(error.value).endswith(f"{MEANT[name]}?")


def test_synonyms_are_no_parameters():
    own = PositiveOutputRegressor().get_params()
    names = [name for line in SYNONYMS.values() for name in line.split()]
    assert not set(names) & set(own)
    assert len(names) == len(set(names))
    # What is proposed exists: a parameter, one with a prefix, or words.
    proposed = {name for name in SYNONYMS if name.isidentifier()}
    known = {name for name in proposed if name.startswith(PREFIXES)}
    assert proposed - known <= set(own)


PAGE = "docs/how-to/names-elsewhere.md"


def test_the_page_on_names_proposes_what_the_errors_do():
    page = (Path(__file__).parents[2] / PAGE).read_text("utf-8")
    rows = re.findall(r"^\| (`.*) \| (.*) \|$", page, re.M)
    assert len(rows) > 10
    for elsewhere, here in rows:
        for name in re.findall(r"`(\w+)`", elsewhere):
            with pytest.raises(TypeError, match="did you mean") as error:
                PositiveOutputRegressor(**{name: 1})
            meant = re.findall(r"`?(\w+)", str(error.value).partition("mean ")[2])
            assert meant[0] in here, (name, error.value)


def test_a_name_like_no_other_is_told_the_prefixes():
    with pytest.raises(TypeError, match=r"'zzz'; .* start with one of module__, opt"):
        PositiveOutputRegressor(zzz=1)
    with pytest.raises(ValueError, match=r"'alpha__zzz' for estimator"):
        make().set_params(alpha__zzz=1)


def test_nothing_is_set_if_one_name_is_wrong():
    model = make()
    with pytest.raises(ValueError, match="max_epochs"):
        model.set_params(alpha=3.0, max_iter=1)
    assert model.alpha == 1.0


def test_a_search_and_a_pipeline_show_the_hint():
    search = GridSearchCV(make(), {"learning_rate": [0.1]}, cv=2, error_score="raise")
    with pytest.raises(ValueError, match="did you mean lr"):
        search.fit(X, y)
    pipe = make_pipeline(StandardScaler(), make())
    with pytest.raises(ValueError, match="did you mean max_epochs"):
        pipe.set_params(positiveoutputregressor__max_iter=1)


def test_a_subclass_has_its_own_names():
    class Small(PositiveOutputRegressor):
        def __init__(self, width=4, alpha=1.0):
            super().__init__(module=MLP, alpha=alpha, max_epochs=2)
            self.width = width

    model = Small().set_params(width=5)
    assert model.fit(X, y).width == 5
    with pytest.raises(ValueError, match="did you mean width"):
        model.set_params(widht=3)


def test_parameters_of_a_strategy():
    with pytest.raises(TypeError, match=r"AugmentedLagrangian\(dual_lr=\.\.\.\)"):
        PositiveOutputRegressor(strategy__dual_lr=0.1)
    model = make(strategy=Lagrangian())
    with pytest.raises(ValueError, match=r"'dual_rl' for Lagrangian; .*'dual_lr'"):
        model.set_params(strategy__dual_rl=0.1)
    assert model.set_params(strategy__dual_lr=0.3).strategy.dual_lr == 0.3
    # The instance that is passed in the same call counts.
    make().set_params(strategy__dual_lr=0.3, strategy=Lagrangian())


# Names behind a prefix

PREFIXED = {
    "module__hidden_layer_size": "'hidden_layer_sizes'",
    "optimizer__beta": "'betas'",
    "criterion__reductoin": "'reduction'",
    "callbacks__printlog__sink": "'print_log'",
    "callbacks__print_log__snik": "'sink'",
    "compile__mod": "'mode'",
    "iterator_train__bacth_size": "'batch_size'",
}


@pytest.mark.parametrize("name", PREFIXED)
def test_a_misspelled_name_behind_a_prefix(name):
    model = make(**{name: 1})
    with pytest.raises((TypeError, ValueError)) as error:
        model.fit(X, y)
    assert name.rpartition("__")[2] in str(error.value)
    assert str(error.value).endswith(f"did you mean {PREFIXED[name]}?")


def test_a_name_behind_a_prefix_that_is_like_no_other():
    with pytest.raises(TypeError, match=r"MLP has no parameter 'zzz'; it has hidden"):
        make(module__zzz=1).fit(X, y)
    with pytest.raises(TypeError, match=r"AdamW has no parameter 'zzz'; it has lr,"):
        make(optimizer__zzz=1).fit(X, y)


@pytest.mark.parametrize("name", ["width", "hidden_layer_sizes", "activaton"])
def test_a_parameter_of_the_other_module(name):
    class Own(nn.Linear):
        def __init__(self, n_features_in, n_outputs):
            super().__init__(n_features_in, n_outputs)

    with pytest.raises(TypeError, match=f"Own has no parameter '{name}'") as error:
        make(module=Own, **{f"module__{name}": 3}).fit(X, y)
    assert ("pass module=MLP" in str(error.value)) == (name != "width")


# Optimizers by name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adam", torch.optim.Adam),
        ("SGD", torch.optim.SGD),
        ("AdamW", torch.optim.AdamW),
        ("rmsprop", torch.optim.RMSprop),
        ("lbfgs", torch.optim.LBFGS),
    ],
)
def test_an_optimizer_by_its_name(name, kind):
    given = {"lr": 0.01, "batch_size": -1}
    model = make(optimizer=name, **given).fit(X, y)
    assert type(model.optimizer_) is kind
    assert model.get_params()["optimizer"] == name
    expected = make(optimizer=kind, **given).fit(X, y).predict(X)
    assert_same_bits(model.predict(X), expected)
    for copied in (clone(model).fit(X, y), pickle.loads(pickle.dumps(model))):
        assert copied.optimizer == name
        assert_same_bits(copied.predict(X), expected)


def test_a_search_over_names_of_optimizers():
    search = GridSearchCV(make(), {"optimizer": ["adam", "sgd"]}, cv=2).fit(X, y)
    assert search.best_params_["optimizer"] in ("adam", "sgd")


def test_a_warm_start_may_name_another_optimizer():
    model = make(optimizer="adam", warm_start=True).fit(X, y)
    assert type(model.fit(X, y).optimizer_) is torch.optim.Adam
    model.set_params(optimizer="sgd").fit(X, y)
    assert type(model.optimizer_) is torch.optim.SGD
    assert type(model.partial_fit(X, y).optimizer_) is torch.optim.SGD


def test_an_optimizer_with_parameters_bound_to_it():
    bound = functools.partial(torch.optim.SGD, momentum=0.5)
    model = make(optimizer=bound, lr=0.01).fit(X, y)
    expected = make(optimizer="sgd", optimizer__momentum=0.5, lr=0.01).fit(X, y)
    assert_same_bits(model.predict(X), expected.predict(X))


# Values

SENTENCES = {
    "the name of no optimizer": (
        {"optimizer": "adamm"},
        "optimizer='adamm' is no optimizer of torch.optim; did you mean 'adam'?",
    ),
    "an instance of an optimizer": (
        {"optimizer": torch.optim.Adam([torch.zeros(1, requires_grad=True)])},
        "must be the class torch.optim.Adam or its name",
    ),
    "an optimizer for sparse gradients": (
        {"optimizer": "sparseadam"},
        "optimizer=SparseAdam cannot be used: SparseAdam does not support dense",
    ),
    "betas of the wrong length": (
        {"optimizer__betas": (0.9,)},
        "optimizer__betas=(0.9,) is not valid for AdamW: the default is (0.9, 0.999).",
    ),
    "betas out of range": (
        {"optimizer__betas": (1.5, 0.9)},
        "optimizer__betas=(1.5, 0.9) is not valid for AdamW: Invalid beta parameter",
    ),
    "text for a number of the optimizer": (
        {"optimizer__eps": "a"},
        "optimizer__eps='a' is not valid for AdamW",
    ),
    "groups that are none": (
        {"optimizer__param_groups": ["*bias"]},
        "optimizer__param_groups=['*bias'] must be a list of pairs",
    ),
    "a group with a wrong value": (
        {"optimizer__param_groups": [("*bias", {"lr": "a"})]},
        "optimizer__lr='a' is not valid",
    ),
    "a learning rate twice": (
        {"lr": 0.1, "optimizer__lr": 0.1},
        "lr=0.1 and optimizer__lr are the same thing",
    ),
    "the name of a loss": (
        {"criterion": "mse"},
        "criterion='mse' must be a callable, such as the class torch.nn.MSELoss",
    ),
    "the name of another loss": ({"criterion": "hubber"}, "torch.nn.HuberLoss"),
    "a reduction": (
        {"criterion__reduction": "mean"},
        "reduction='mean' must be 'none'",
    ),
    "the name of a module": ({"module": "mlp"}, "such as sklpos.MLP, not its name"),
    "True for a size": ({"batch_size": True}, "'batch_size' parameter"),
    "True for a number of epochs": ({"max_epochs": True}, "Got True instead"),
    "a list for a number": ({"alpha": [1.0]}, "in the range [0.0, inf). Got [1.0]"),
    "an array for a number": ({"lr": np.array(0.1)}, "Got array(0.1) instead"),
    "a long array": ({"alpha": np.zeros((40, 40))}, "Got [[0.0, 0.0,"),
    "text for a number": ({"lr": "0.1"}, "Got '0.1' instead"),
    "NaN": ({"alpha": np.nan}, "Got nan instead"),
    "infinity": ({"alpha": np.inf}, "Got inf instead"),
    "an endless number": ({"alpha": 10**400}, "Got 1000000000"),
    "an endless size": ({"batch_size": 10**400}, "Got 1000000000"),
    "an endless bound": ({"lower_bound": 10**400}, "lower_bound=1000000"),
    "an endless device": ({"device": 10**400}, "device=1000000"),
    "a device of another library": ({"device": "gpu"}, "device='gpu' cannot be used"),
    "a negative seed": ({"random_state": -1}, "'random_state' parameter"),
    "True for a repair": ({"repair": True}, "'head'"),
    "a dtype of numpy": ({"dtype": np.float32}, "'dtype' parameter"),
    "a misspelled strategy": (
        {"strategy": "lagrangean"},
        "strategy='lagrangean' is unknown; did you mean 'lagrangian'?",
    ),
    "the class of a strategy": (
        {"strategy": SlackMultipliers},
        "SlackMultipliers is a class; pass an instance of it",
    ),
    "a strategy with a wrong value": (
        {"strategy": Lagrangian(growth="a")},
        "growth='a' of Lagrangian must be a finite number, at least 1.",
    ),
    "a callback that is in no list": (
        {"callbacks": EarlyStopping()},
        "pass callbacks=[EarlyStopping(...)]",
    ),
    "the name of a callback": ({"callbacks": "early"}, "Got 'early' instead"),
    "a number for a callback": (
        {"callbacks__print_log": 1},
        "callbacks__print_log=1 must be a skorch callback, or None",
    ),
    "outputs that contradict y": (
        {"module__n_outputs": 3},
        "module__n_outputs=3 must be left out, because fit passes n_outputs itself",
    ),
    "features that contradict X": (
        {"module__n_features_in": 7},
        "module__n_features_in=7 must be left out",
    ),
    "rows for the module": (
        {"module__X": X + 1},
        "must be left out, because fit passes X",
    ),
    "a size of a batch, behind a prefix": (
        {"iterator_train__batch_size": True},
        "'iterator_train__batch_size' parameter",
    ),
    "text for a switch": ({"iterator_train__shuffle": "yes"}, "Got 'yes' instead"),
    "an activation that is a function": (
        {"module__activation": torch.relu},
        "activation=relu is unknown; choose one of",
    ),
    "a share that is none": ({"module__dropout": np.nan}, "dropout=nan must be"),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_value_is_answered_in_a_sentence(name):
    params, words = SENTENCES[name]
    model = make(**params)
    with pytest.raises((ValueError, TypeError)) as error:
        model.fit(X, y)
    said = str(error.value)
    assert words in said
    assert len(said) <= 300
    assert "\n" not in said


NUMBERS = {
    "numpy's float": {"lr": np.float32(0.01), "alpha": np.float64(2.0)},
    "numpy's int": {"batch_size": np.int64(8), "max_epochs": np.int32(2)},
    "an int of the loader": {"iterator_train__batch_size": np.int64(8)},
    "numpy's bool": {"early_stopping": np.bool_(False), "warm_start": np.bool_(True)},
    "sizes that are right": {"module__n_outputs": 1, "module__n_features_in": 3},
}


@pytest.mark.parametrize("params", NUMBERS.values(), ids=NUMBERS)
def test_numbers_of_numpy_are_numbers(params):
    plain = {
        name: getattr(value, "item", lambda v=value: v)()
        for name, value in params.items()
    }
    expected = make(**plain).fit(X, y).predict(X)
    assert_same_bits(make(**params).fit(X, y).predict(X), expected)


def test_a_parameter_that_is_an_array_is_compared_in_a_warm_start():
    def linear(n_features_in, n_outputs, weights):
        return nn.Sequential(nn.Linear(n_features_in, n_outputs))

    model = make(module=linear, module__weights=np.ones(3), warm_start=True)
    model.fit(X, y).set_params(module__weights=np.ones(3)).fit(X, y)
    model.set_params(module__weights=np.zeros(3))
    with pytest.raises(ValueError, match="module__weights is part of the net"):
        model.fit(X, y)


def test_a_refused_value_loses_nothing():
    model = make().fit(X, y)
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match="betas"):
        model.set_params(optimizer__betas=3).fit(X, y)
    assert_same_bits(model.predict(X), before.predict(X))
