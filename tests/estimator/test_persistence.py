"""What is stored is plain: any loader brings it back, and a bad file does nothing."""

import copy
import io
import json
import pickle
import subprocess
import sys
from zipfile import ZipFile

import joblib
import numpy as np
import pytest
import torch
from properties import assert_same_bits, assert_same_training_state
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from torch import nn

import sklpos
from sklpos import TrainingCheckpoint
from sklpos.training.storage import PlainState

REGRESSOR = "sklpos.estimator.regressor.PositiveOutputRegressor"
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


class Tied(nn.Module):
    """Two layers with the same weights, a statistic, and attributes of many types."""

    made = 0

    def __init__(self, n_features_in, n_outputs):
        super().__init__()
        type(self).made += 1
        self.first = nn.Linear(n_features_in, n_features_in)
        self.second = nn.Linear(n_features_in, n_features_in)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(n_features_in)
        self.register_buffer("gain", torch.ones(1), persistent=False)
        self.sizes = {"in": [n_features_in], "out": (n_outputs,)}
        self.head = nn.Linear(n_features_in, n_outputs)

    def forward(self, X):
        hidden = self.second(torch.tanh(self.first(X)))
        return self.head(torch.relu(self.norm(hidden)) * self.gain)


class Counter(Callback):
    """A user's callback, with a state of its own."""

    def initialize(self):
        self.seen_ = []
        return self

    def on_epoch_end(self, net, **kwargs):
        self.seen_.append((len(net.history), np.float64(net.history[-1, "train_loss"])))


def skops_io():
    return pytest.importorskip("skops.io")


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def by_joblib(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    return joblib.load(file)


def by_skops(model):
    stored = skops_io().dumps(model)
    return skops_io().loads(stored, trusted=untrusted(stored))


def untrusted(stored):
    return skops_io().get_untrusted_types(data=stored)


LOADERS = [by_pickle, by_joblib, by_skops]


def assert_goes_on_alike(one, other, data):
    """The next epoch, a warm start and a repair are the same, bit for bit."""
    for model in (one, other):
        model.partial_fit(data.X, data.Y, data.weight)
    assert_same_training_state(one, other)
    for model in (one, other):
        model.set_params(warm_start=True).fit(data.X, data.Y, data.weight)
    assert_same_training_state(one, other)
    for model in (one, other):
        model.enforce(data.X_new)
    assert_same_bits(one.predict(data.X_new), other.predict(data.X_new))


@pytest.mark.parametrize("load", LOADERS)
def test_every_strategy_goes_on_as_if_it_had_stayed(small, data, strategy, load):
    model = small(strategy=strategy, batch_size=16, module__dropout=0.2)
    model.fit(data.X, data.Y, data.weight)
    loaded = load(model)
    assert_same_bits(loaded.predict(data.X_new), model.predict(data.X_new))
    assert_same_bits(loaded.multipliers_, model.multipliers_)
    assert_same_bits(list(loaded.history_), list(model.history_))
    assert repr(loaded.repair_) == repr(model.repair_)
    assert repr(loaded.certificate_) == repr(model.certificate_)
    assert_goes_on_alike(loaded, model, data)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    "params",
    [
        {"optimizer": torch.optim.LBFGS, "lr": 0.1, "weight_decay": "auto"},
        {"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9, "lr": 0.01},
        {"optimizer": torch.optim.NAdam},  # has float32 beside float64
        {"criterion": nn.HuberLoss, "criterion__delta": 0.5},
        {"criterion": nn.HuberLoss(reduction="none", delta=0.5)},
        {"strategy": sklpos.STRATEGIES["slack"](slack_lr=0.2)},
        {"module": Tied, "batch_size": 20},
        {"module": Tied(3, 2).double(), "batch_size": 20},
        {"callbacks": [Counter(), LRScheduler(policy="ExponentialLR", gamma=0.9)]},
        {"callbacks": [EarlyStopping(monitor="train_loss", load_best=True)]},
        {"random_state": np.random.RandomState(0)},
        {"lower_bound": [0.0, -np.inf]},
    ],
    ids=lambda params: next(iter(params)),
)
def test_other_parameters_go_on_too(small, data, params, load):
    model = small(**params).fit(data.X, data.Y, data.weight)
    loaded = load(model)
    assert_same_bits(loaded.predict(data.X_new), model.predict(data.X_new))
    assert_goes_on_alike(loaded, model, data)


def test_what_was_shared_is_shared_again(small, data):
    model = by_pickle(small(module=Tied).fit(data.X, data.Y))
    for module in (model.module_, model.net_.module_):
        assert module.first.weight is module.second.weight
        assert "gain" not in module.state_dict()
        assert module.sizes == {"in": [3], "out": (2,)}
    net = model.net_
    assert net.module is net.module_
    assert net.strategy is net.strategy_
    assert net.strategy_.state_ is net.constraint_


class Ring(Callback):
    """Contains itself."""

    def initialize(self):
        self.next_ = [self]
        return self


def test_what_contains_itself_does_so_again(small, data):
    model = by_pickle(small(callbacks=[Ring()]).fit(data.X, data.Y))
    ring = dict(model.callbacks_)["Ring"]
    assert ring.next_[0] is ring


def test_loading_makes_no_module_anew(small, data):
    model, made = small(module=Tied).fit(data.X, data.Y), Tied.made
    by_pickle(model)
    assert Tied.made == made


@pytest.mark.parametrize("load", LOADERS)
def test_callbacks_keep_their_state(small, data, load):
    model = small(callbacks=[Counter()], early_stopping=True).fit(data.X, data.y)
    loaded = load(model)
    before, after = (dict(each.net_.callbacks_) for each in (model, loaded))
    assert before.keys() == after.keys()
    assert_same_bits(after["Counter"].seen_, before["Counter"].seen_)
    for name in before:  # early stopping leaves the weights it remembers behind
        assert_same_bits(after[name].__getstate__(), before[name].__getstate__())


@pytest.mark.parametrize("load", LOADERS)
def test_an_estimator_that_is_not_fitted(small, load):
    model = small(module=Tied, alpha=2.0)
    loaded = load(model)
    assert loaded.get_params() == model.get_params()
    assert not loaded.__sklearn_is_fitted__()


def test_shallow_copies_do_not_share_weights(small, data):
    model = small().fit(data.X, data.y)
    twin = copy.copy(model)
    with torch.no_grad():
        twin.module_.head.bias.add_(1)
    assert not np.array_equal(twin.predict(data.X), model.predict(data.X))


def test_memory_maps_are_taken(small, data, tmp_path):
    model = small().fit(data.X, data.y)
    joblib.dump(model, tmp_path / "model")
    loaded = joblib.load(tmp_path / "model", mmap_mode="r").partial_fit(data.X, data.y)
    assert_same_training_state(loaded, model.partial_fit(data.X, data.y))


class Recorder(Callback):
    """Records what is no number."""

    def on_batch_end(self, net, **kwargs):
        net.history.record_batch("when", {1: (np.float32(2), None)})


def test_a_record_that_is_not_a_number(small, data):
    model = small(callbacks=[Recorder]).fit(data.X, data.y)
    assert_same_bits(list(by_pickle(model).history_), list(model.history_))


LOAD_ELSEWHERE = """
import pathlib, pickle, sys
import joblib, numpy as np
folder = pathlib.Path(sys.argv[1])
X, predicted = np.load(folder / "X.npy"), np.load(folder / "predicted.npy")
models = [
    pickle.loads((folder / "model.pkl").read_bytes()),
    joblib.load(folder / "model.joblib"),
]
if (folder / "model.skops").exists():
    import skops.io
    models.append(skops.io.load(folder / "model.skops", trusted=[sys.argv[2]]))
for model in models:
    assert np.array_equal(model.predict(X), predicted)
"""


def test_another_process_predicts_the_same(small, data, tmp_path):
    model = make_pipeline(StandardScaler(), small()).fit(data.X, data.Y)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    joblib.dump(model, tmp_path / "model.joblib")
    try:
        import skops.io

        skops.io.dump(model, tmp_path / "model.skops")
    except ImportError:
        pass
    np.save(tmp_path / "X.npy", data.X_new)
    np.save(tmp_path / "predicted.npy", model.predict(data.X_new))
    command = [sys.executable, "-W", "error", "-c", LOAD_ELSEWHERE, str(tmp_path)]
    subprocess.run([*command, REGRESSOR], check=True)


def test_what_stores_an_estimator_is_no_method_for_users():
    assert not [name for name in vars(PlainState) if not name.startswith("_")]


# -- versions ---------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.0.1", "99.0", None])
def test_another_version_is_said(small, data, version):
    model = small().fit(data.X, data.y)
    state = model.__getstate__()
    state.pop("sklpos_version")
    if version:
        state["sklpos_version"] = version
    loaded = object.__new__(type(model))
    said = f"stored by sklpos {version or 'of unknown version'} and is loaded by sklpos"
    with pytest.warns(InconsistentVersionWarning, match=said):
        loaded.__setstate__(state)
    assert_same_bits(loaded.predict(data.X), model.predict(data.X))


# -- files that cannot be trusted ---------------------------------------------------


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
        "sklpos.training.storage._find",
        "sklpos.training.storage.import_module",
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
    refuse(doctored, ValueError, "'_unpack' is not a kind of stored thing")


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


# -- weights alone ------------------------------------------------------------------


def test_weights_as_safetensors(small, data, tmp_path):
    pytest.importorskip("safetensors")
    model, other = small().fit(data.X, data.y), small(max_epochs=1)
    file = tmp_path / "weights.safetensors"
    model.net_.save_params(f_params=file, use_safetensors=True)
    other.fit(data.X, data.y).net_.load_params(f_params=file, use_safetensors=True)
    assert_same_bits(
        dict(other.net_.module_.state_dict()), dict(model.net_.module_.state_dict())
    )
