"""Processes that fit one model agree before they train, and end together."""

import inspect
from functools import partial

import numpy as np
import pytest
import ranks
import torch
from skorch.callbacks import Callback, PrintLog
from torch import nn

from sklpos import PositiveOutputRegressor
from sklpos.training.contents import content_digest

FITTED = [
    "nothing",
    "verbose",
    "seed of the first",
    "bar in the first",
    "number of a type",
    "same instance",
]
#: Case -> what both processes say.
SAID = {
    "alpha": "alpha differs between processes: rank 0 has 1.0, rank 1 has 2.0; ",
    "two": "rank 0 has 1.0, rank 1 has 2.0; so do lr; ",
    "nested": "strategy__dual_lr differs between processes: rank 0 has 1.0, rank 1 ",
    "of the net": "optimizer__eps differs between processes: rank 0 has none, rank 1 ",
    "another seed": "random_state differs between processes: rank 0 has 0, rank 1 has",
    "seed of the second": "random_state differs between processes: rank 0 has none, ",
    "another instance": "module differs between processes: rank 0 has Sequential, ",
    "another criterion": "criterion differs between processes: rank 0 has HuberLoss, ",
    "schedule in the second": "callbacks differs between processes: rank 0 has [], ",
    "another net": "module differs between processes: rank 0 has Sequential, rank 1 ",
    "another dtype": "3 columns of float64, rank 1 has 3 columns of float32; ",
    "fewer columns": "3 columns of float64, rank 1 has 2 columns of float64; ",
    "more outputs": "y differs between processes: rank 0 has a vector, rank 1 has 2 ",
    "weights in the second": "sample_weight differs between processes: rank 0 has none",
    "another torch": "the version of torch differs between processes: rank 0 has 2.0",
    "NaN": "rank 1: X contains NaN in column 0, row 0",
    "no rows": "rank 1: X: Found array with 0 sample(s)",
    "text": "rank 1: y holds text such as",
    "two complaints": "rank 0: y contains infinity in row 0; correct such values, or",
    "one complaint": "The 'alpha' parameter of PositiveOutputRegressor must be",
    "bad alpha": "rank 1: The 'alpha' parameter of PositiveOutputRegressor must be",
    "bad weight": "rank 1: sample_weight.shape == (21,), expected (20,)",
    "default module": "module=Stack needs the quantiles of all rows, which no process",
    "no module": "rank 1: TypeError: module=cannot_be_made cannot be made: KeyError",
}
#: An error of all processes keeps its type.
OTHER_KINDS = {"one complaint": "InvalidParameterError"}
#: Case -> the process that fails, with what, and what the other says of it.
FAILURES = {
    "disk": (1, "OSError", "RuntimeError", "OSError: no space left"),
    "disk of the first": (0, "OSError", "RuntimeError", "OSError: no space left"),
    "memory": (1, "RuntimeError", "RuntimeError", "allocate memory"),
    "Ctrl-C": (1, "KeyboardInterrupt", "RuntimeError", "KeyboardInterrupt"),
    "exit": (1, "SystemExit", "RuntimeError", "SystemExit"),
    "divergence of one": (1, "DivergenceError", "ValueError", "the loss became nan"),
    "repair": (1, "ArithmeticError", "RuntimeError", "ArithmeticError: no repair"),
}
SLOW_FAILURES = set(FAILURES) - {"disk", "Ctrl-C"}


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """How both processes end in each case, one after the other."""
    names = [*FITTED, *SAID, *(set(FAILURES) - SLOW_FAILURES), "divergence", "nothing"]
    return ranks.ends_of(tmp_path_factory.mktemp("ranks"), [*names, "kill in a step"])


@pytest.mark.parametrize("name", FITTED)
def test_what_may_differ_changes_no_bit(ends, name):
    first, second = ends[name]
    assert first == second
    assert first[0] == "fitted"
    # "nothing" comes last as well: no failure before it has left anything behind.
    if name != "same instance":
        assert first == ends["nothing"][0]


@pytest.mark.parametrize("name", SAID)
def test_both_processes_refuse_with_the_same_sentence(ends, name):
    (kind, text, unchanged), second = ends[name]
    assert second == (kind, text, unchanged)
    assert kind == (
        "InvalidParameterError" if name == "one complaint" else "ValueError"
    )
    assert SAID[name] in text
    assert len(text) <= 300
    assert unchanged


def check_failure(end, name):
    rank, kind, others_kind, said = FAILURES[name]
    own, other = end[rank], end[1 - rank]
    assert own[0] == kind
    start = f"rank {rank} failed, so no process has a new model: "
    assert other[0] == others_kind
    assert other[1].startswith(start)
    assert said in other[1]
    assert len(other[1]) <= 300
    assert own[2]
    assert other[2]


@pytest.mark.parametrize("name", sorted(set(FAILURES) - SLOW_FAILURES))
def test_a_failure_of_one_process_ends_both(ends, name):
    check_failure(ends[name], name)


def test_both_processes_may_fail_alike(ends):
    for kind, text, unchanged in ends["divergence"]:
        assert kind == "DivergenceError"
        assert "training diverged" in text
        assert unchanged


def check_death(end, rank):
    assert end[rank] is None
    kind, text, unchanged = end[1 - rank]
    assert kind == "RuntimeError"
    assert text.startswith(f"rank {rank} has ended or lost its connection, so no ")
    assert unchanged


def test_a_process_that_dies_ends_the_other(ends):
    check_death(ends["kill in a step"], 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kill", "leave"])
def test_any_death_ends_the_other(tmp_path, name):
    check_death(ranks.ends_of(tmp_path, [name])[name], 1)


@pytest.mark.slow
def test_any_failure_ends_both(tmp_path):
    names = sorted(SLOW_FAILURES)
    for name, end in ranks.ends_of(tmp_path, names).items():
        check_failure(end, name)


@pytest.mark.slow
def test_three_processes_end_together(tmp_path):
    names = ["two", "NaN", "disk", "nothing", "kill"]
    ends = ranks.ends_of(tmp_path, names, size=3)
    assert len(set(ends["two"])) == len(set(ends["NaN"])) == 1
    first, failed, third = ends["disk"]
    assert first == third
    assert first[1].startswith("rank 1 failed")
    assert failed[0] == "OSError"
    assert {end[0] for end in ends["nothing"]} == {"fitted"}
    check_death(ends["kill"][:2], 1)
    assert ends["kill"][0] == ends["kill"][2]


#: Another valid value of each parameter than those of `ranks.make_model`.
OTHER = {
    "module": nn.Linear,
    "strategy": "penalty",
    "alpha": 2.0,
    "lower_bound": -1.0,
    "upper_bound": 100.0,
    "repair": None,
    "balance": False,
    "criterion": nn.L1Loss,
    "optimizer": torch.optim.SGD,
    "lr": 0.1,
    "lr_schedule": None,
    "weight_decay": 0.5,
    "max_epochs": 4,
    "batch_size": 8,
    "early_stopping": True,
    "validation_fraction": 0.2,
    "n_iter_no_change": 5,
    "tol": 0.1,
    "callbacks": [Callback()],
    "scale_y": False,
    "on_violated_y": "ignore",
    "on_negative_y": "ignore",
    "dtype": "float32",
    "on_interrupt": "raise",
    "random_state": 5,
    "warm_start": True,  # is refused anyway
    "module__hidden_layer_sizes": (5,),
    "module__activation": "tanh",
    "optimizer__betas": (0.8, 0.9),
    "criterion__delta": 2.0,
    "callbacks__print_log": None,
    "iterator_train__shuffle": False,
    "iterator_valid__batch_size": 3,
    "dataset__length": 7,
    "compile": False,
}
MAY_DIFFER = {"verbose", "device"}


def differing_in(name, rank):
    return {"params": {name: OTHER[name]} if rank else {}}


@pytest.mark.slow
def test_no_parameter_may_differ(tmp_path):
    own = PositiveOutputRegressor().get_params(deep=False)
    assert own.keys() - MAY_DIFFER <= OTHER.keys()
    cases = {partial(differing_in, name): name for name in OTHER}
    ends = ranks.ends_of(tmp_path, list(cases))
    assert len(ends) == len(OTHER)
    for case, (first, second) in ends.items():
        name = cases[case]
        assert first == second, name
        assert first[0] == "ValueError"
        assert name in first[1], name


# Digests of contents


class Setting:
    def __init__(self, value):
        self.value = value


class Holder:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


def adder(value):
    return lambda other: other + value


def looped(value):
    items = [value]
    items.append(items)
    return items


MAKERS = {
    "number": float,
    "text": str,
    "complex number": lambda value: complex(value, 1),
    "array": lambda value: np.full(3, value),
    "array of objects": lambda value: np.array([value, None], dtype=object),
    "tensor": lambda value: torch.full((3,), float(value)),
    "dict": lambda value: {"a": {"b": value}},
    "set": lambda value: {value, "a", None},
    "list in itself": looped,
    "object": Setting,
    "slots": Holder,
    "object in objects": lambda value: Setting([Setting((value,))]),
    "closure": adder,
    "default": lambda value: eval(f"lambda other=({value},): other"),
    "code": lambda value: eval(f"lambda: {value}"),
    "partial": lambda value: partial(max, value),
    "class": lambda value: type("Made", (), {"f": eval(f"lambda self: {value}")}),
    "method": lambda value: Setting(value).__init__,
    "module": lambda value: nn.Dropout(value / 10),
    "generator": np.random.default_rng,
    "random state": np.random.RandomState,
    "dtype": lambda value: np.dtype(f"f{4 * value}"),
    "device": lambda value: torch.device("cuda", value),
    "range": range,
    "callback": lambda value: PrintLog(floatfmt=str(value)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_digest_tells_contents_and_nothing_else(name):
    make = MAKERS[name]
    assert content_digest(make(1)) == content_digest(make(1))
    assert content_digest(make(1)) != content_digest(make(2))


def test_a_digest_is_of_values_not_of_types_of_numbers():
    assert content_digest([1, 2.5]) == content_digest([np.int8(1), np.float64(2.5)])
    assert content_digest(1) != content_digest("1")
    assert content_digest((1, 2)) != content_digest([1, 2])
    assert content_digest({1, "a", None}) == content_digest({None, "a", 1})
    nan = float("nan")
    assert content_digest(nan) == content_digest(float("nan"))


def test_a_digest_takes_what_cannot_be_pickled(tmp_path):
    with open(tmp_path / "file", "w") as file:
        assert content_digest(file) == content_digest(file)
    assert content_digest(inspect) == content_digest(inspect)
    assert content_digest(x for x in ()) == content_digest(x for x in ())
