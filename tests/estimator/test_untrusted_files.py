"""A bad file does nothing: what is stored is plain, and loading runs no code of it."""

import io
import json
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from properties import assert_same_bits
from stored import REGRESSOR, Counter, Tied, by_skops, skops_io, untrusted
from torch import nn

import sklpos
from sklpos import TrainingCheckpoint

PLAIN = (
    type(None),
    bool,
    int,
    float,
    str,
    np.generic,
    np.ndarray,
    np.random.RandomState,
)


def leaves(value):
    if type(value) in (list, tuple):
        for item in value:
            yield from leaves(item)
    elif type(value) is dict:
        for key, item in value.items():
            yield from leaves(key)
            yield from leaves(item)
    else:
        yield value


def test_the_state_is_plain(small, data, strategy):
    model = small(strategy=strategy, early_stopping=True, module=sklpos.MLP)
    state = model.fit(data.X, data.Y).__getstate__()
    assert {type(leaf) for leaf in leaves(state) if not isinstance(leaf, PLAIN)} <= {
        set  # of strings
    }


@pytest.mark.parametrize(
    ("params", "types"),
    [
        ({}, []),
        ({"early_stopping": True}, []),
        ({"optimizer": torch.optim.SGD, "criterion": nn.HuberLoss}, []),
        ({"strategy": sklpos.STRATEGIES["certified"]()}, []),
        ({"module": nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))}, []),
        ({"module": Tied}, [Tied]),
        ({"module": Tied(3, 2)}, [Tied]),
        ({"callbacks": [Counter()]}, [Counter]),
        ({"callbacks": [TrainingCheckpoint("fit.ckpt")]}, [TrainingCheckpoint]),
    ],
)
def test_few_types_need_trust(small, data, params, types, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a checkpoint is written
    model = small(**params).fit(data.X, data.Y)
    names = [f"{cls.__module__}.{cls.__name__}" for cls in types]
    assert untrusted(skops_io().dumps(model)) == sorted([REGRESSOR, *names])


class Doctored:
    """A skops file whose nodes can be changed."""

    def __init__(self, model):
        with ZipFile(io.BytesIO(skops_io().dumps(model))) as file:
            self.members = {name: file.read(name) for name in file.namelist()}
        self.schema = json.loads(self.members["schema.json"])

    def nodes(self, where=None):
        where = self.schema if where is None else where
        if isinstance(where, dict):
            yield where
        parts = where.values() if isinstance(where, dict) else where
        for part in parts if isinstance(where, (dict, list)) else ():
            if isinstance(part, (dict, list)):
                yield from self.nodes(part)

    def replace_text(self, old, new):
        """Replace strings; they are stored as JSON inside the schema."""
        found = [n for n in self.nodes() if n.get("content") == json.dumps(old)]
        assert found
        for node in found:
            node["content"] = json.dumps(new)

    def stored(self):
        file = io.BytesIO()
        with ZipFile(file, "w") as out:
            for name, content in self.members.items():
                changed = json.dumps(self.schema) if name == "schema.json" else content
                out.writestr(name, changed)
        return file.getvalue()


class Bomb:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


@pytest.fixture
def doctored(small, data):
    return Doctored(small(module=Tied).fit(data.X, data.Y))


def refuse(doctored, error, match):
    honest = [REGRESSOR, Tied]
    with pytest.raises(error, match=match):
        skops_io().loads(doctored.stored(), trusted=honest)


def test_the_file_before_it_is_doctored_loads(doctored, data):
    model = skops_io().loads(doctored.stored(), trusted=[REGRESSOR, Tied])
    assert model.predict(data.X).shape == data.Y.shape


def test_a_file_has_no_room_for_a_pickle(doctored, tmp_path):
    """No node holds bytes; an array that is a pickle is not read."""
    loaders = {node.get("__loader__") for node in doctored.nodes()}
    assert not {"BytesNode", "BytearrayNode", "ReduceNode"} & loaders
    trace, bomb = tmp_path / "trace", np.empty(1, dtype=object)
    bomb[0] = Bomb(trace)
    file = io.BytesIO()
    np.save(file, bomb, allow_pickle=True)
    for name in doctored.members:
        if name.endswith(".npy"):
            doctored.members[name] = file.getvalue()
    refuse(doctored, ValueError, "allow_pickle=False")
    assert not trace.exists()


@pytest.mark.parametrize("loader", ["FunctionNode", "TypeNode", "ObjectNode"])
def test_a_foreign_type_is_refused(doctored, loader):
    """skops finds it among the types, whatever it stands in for."""
    from skops.io.exceptions import UntrustedTypesFoundException

    node = next(n for n in doctored.nodes() if n.get("__loader__") == "TypeNode")
    node.update(__class__="system", __module__="os", __loader__=loader)
    node.pop("__id__")
    refuse(doctored, UntrustedTypesFoundException, r"os\.system")


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "torch.hub.load",
        "sklpos.training.checkpoint.TrainingCheckpoint",
        "torch.load",
        "torch.nn.modules.module.Tensor",
        "torch.nn.modules.module.itertools",
        "torch.nn.functional.relu",
        "torch.nnx.Linear",
        "sklpos.training.packing._find",
        "sklpos.training.packing.import_module",
        "subprocess.Popen",
        "",
    ],
)
def test_a_foreign_name_is_refused(doctored, name):
    """Names that this package looks up itself are of its own and torch's classes."""
    doctored.replace_text("torch.optim.adamw.AdamW", name)
    refuse(doctored, ValueError, "is not a class of sklpos, torch.nn, torch.optim")


def test_an_object_of_another_kind_is_refused(doctored):
    doctored.replace_text("torch.nn.modules.linear.Linear", "torch.optim.adam.Adam")
    refuse(doctored, ValueError, "is not a class that a stored model may contain")


def test_a_foreign_kind_is_refused(doctored):
    doctored.replace_text("tensor", "_unpack")
    refuse(doctored, ValueError, "'_unpack' is not a known kind of stored object")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of inductor
def test_no_compiler_runs_to_load_and_predict(small, data, tmp_path):
    """A parameter can name a program; SECURITY.md says when it runs."""
    program, trace = tmp_path / "program", tmp_path / "trace"
    program.write_text(f"#!/bin/sh\ntouch {trace}\n", encoding="utf-8")
    program.chmod(0o700)
    model = small().fit(data.X, data.y)
    named = {"compile__options": {"cpp.cxx": (None, str(program))}}
    vars(model.net_).update(named, compile=True)
    loaded = by_skops(model.set_params(**named, compile=True))
    assert_same_bits(loaded.predict(data.X), model.predict(data.X))
    assert loaded.net_.compile
    assert not trace.exists()
