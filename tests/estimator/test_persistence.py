"""What is stored is plain: any loader brings it back, and a bad file does nothing."""

import copy
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from marks import mostly_slow
from properties import assert_same_bits, assert_same_training_state
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from stored import (
    REGRESSOR,
    Counter,
    Tied,
    by_joblib,
    by_pickle,
    by_skops,
)
from torch import nn

import sklpos
from sklpos.training.storage import PlainState

LOADERS = [by_pickle, by_joblib, by_skops]
UNLIKE = [by_pickle, by_skops]  # joblib pickles all but arrays


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


def test_a_program_may_replace_print(small, data, monkeypatch):
    """As Ray does in its workers: what is stored there is loaded elsewhere."""
    with monkeypatch.context() as patch:
        patch.setattr("builtins.print", lambda *values, **kwargs: None)
        model = small(verbose=1, early_stopping=True).fit(data.X, data.Y)
        stored = pickle.dumps(model)
    loaded = pickle.loads(stored)
    assert dict(loaded.net_.callbacks_)["early_stopping"].sink is print


@pytest.mark.parametrize("load", LOADERS)
def test_every_strategy_goes_on_as_if_it_had_stayed(
    small, data, mostly_slow_strategy, load
):
    model = small(strategy=mostly_slow_strategy, batch_size=16, module__dropout=0.2)
    model.fit(data.X, data.Y, data.weight)
    loaded = load(model)
    assert_same_bits(loaded.predict(data.X_new), model.predict(data.X_new))
    assert_same_bits(loaded.multipliers_, model.multipliers_)
    assert_same_bits(list(loaded.history_), list(model.history_))
    assert repr(loaded.repair_) == repr(model.repair_)
    assert repr(loaded.certificate_) == repr(model.certificate_)
    assert_goes_on_alike(loaded, model, data)


@pytest.mark.parametrize("load", mostly_slow(UNLIKE, by_pickle))
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
        {"upper_bound": [3.0, None]},
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
    assert net.constraint is net.constraint_
    assert net.strategy_.state_ is net.constraint_.state


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


@pytest.mark.slow
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


# Versions


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


# Weights alone


def test_weights_as_safetensors(small, data, tmp_path):
    pytest.importorskip("safetensors")
    model, other = small().fit(data.X, data.y), small(max_epochs=1)
    file = tmp_path / "weights.safetensors"
    model.net_.save_params(f_params=file, use_safetensors=True)
    other.fit(data.X, data.y).net_.load_params(f_params=file, use_safetensors=True)
    assert_same_bits(
        dict(other.net_.module_.state_dict()), dict(model.net_.module_.state_dict())
    )
