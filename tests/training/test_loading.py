"""`load_params` takes all of a file that fits, or nothing of one that does not."""

import json
import pickle

import pytest
import torch
from properties import assert_same_bits
from skorch.callbacks import LoadInitState, TrainEndCheckpoint
from torch import nn

from sklpos.training.loading import MisfitError
from sklpos.training.state import training_state
from sklpos.training.trees import copied

MODULE = nn.Sequential(
    nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)
).double()
PARTS = ("f_params", "f_optimizer", "f_criterion", "f_constraint")


@pytest.fixture(scope="module")
def stored(small, data):
    return pickle.dumps(small(module=MODULE, batch_size=20).fit(data.X, data.Y).net_)


@pytest.fixture
def net(stored):
    return pickle.loads(stored)


@pytest.fixture
def refused(net):
    """Load from files that do not fit, and find the net as it was."""

    def load(match, **files):
        before, device = copied(training_state(net)), net.device
        with pytest.raises(MisfitError, match=match) as raised:
            net.load_params(**files)
        assert_same_bits(training_state(net), before)
        assert net.device == device
        assert len(str(raised.value)) <= 300
        assert "\n" not in str(raised.value)

    return load


def as_safetensors(state, path):
    pytest.importorskip("safetensors.torch").save_file(state, path)
    return {"f_params": path, "use_safetensors": True}


def as_torch(state, path):
    torch.save(state, path)
    return {"f_params": path}


def weights_of(net):
    """Those of the net, all of which would change."""
    return {
        name: value + 1 if value.is_floating_point() else value
        for name, value in net.module_.state_dict().items()
    }


NAN = float("nan")
EDITS = {
    "NaN": ("3.weight", lambda w: w * NAN, "'3.weight' holds NaN or infinity"),
    "infinity": ("3.bias", lambda w: w / 0, "'3.bias' holds NaN or infinity"),
    "integers": ("3.weight", lambda w: w.long(), "'3.weight' holds int64 numbers"),
    "flags": ("3.weight", lambda w: w > 0, "'3.weight' holds bool numbers"),
    "complex": ("0.bias", lambda w: w.to(torch.complex64), "'0.bias' holds complex64"),
    "shape": ("3.weight", lambda w: w.T.contiguous(), "size mismatch for 3.weight"),
    "dimension": ("0.bias", lambda w: w[None], "size mismatch for 0.bias"),
    "NaN in a buffer": (
        "1.running_var",
        lambda w: w * NAN,
        "'1.running_var' holds NaN",
    ),
    "fraction": ("1.num_batches_tracked", lambda w: w + 0.5, "is float32, not int64"),
    "missing": ("3.bias", None, "Missing key"),
    "unknown": ("4.bias", lambda w: torch.ones(1), "Unexpected key"),
}


@pytest.mark.parametrize("store", [as_safetensors, as_torch])
@pytest.mark.parametrize("edit", EDITS)
def test_weights_that_do_not_fit(net, refused, tmp_path, store, edit):
    name, change, match = EDITS[edit]
    weights = weights_of(net)
    old = weights.pop(name, None)
    if change is not None:
        weights[name] = change(old)
    refused(match, **store(weights, tmp_path / "weights"))


@pytest.mark.parametrize("store", [as_safetensors, as_torch])
def test_weights_that_fit(net, tmp_path, store):
    weights = weights_of(net)
    net.load_params(**store(weights, tmp_path / "weights"))
    assert_same_bits(dict(net.module_.state_dict()), weights)
    # Another precision is rounded, as torch does.
    single = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
    net.load_params(**store(single, tmp_path / "single"))
    assert net.module_[3].weight.dtype == torch.float64


def test_all_parts_that_were_saved_fit(net, tmp_path):
    files = {name: tmp_path / name for name in (*PARTS, "f_history")}
    net.save_params(**files)
    before = copied(training_state(net)["parts"])
    net.load_params(**files)
    assert_same_bits(training_state(net)["parts"], before)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("content", [5, None, [1], "x", {1: torch.ones(1)}, {"a": "b"}])
def test_files_of_something_else(refused, tmp_path, part, content):
    torch.save(content, tmp_path / "file")
    refused("the file does not fit the net", **{part: tmp_path / "file"})


def test_files_of_no_kind(refused, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"no such file" * 9)
    for part in (*PARTS, "f_history"):
        refused("the file does not fit the net", **{part: path})
    refused("the file does not fit the net", f_params=path, use_safetensors=True)
    # No code of a pickle runs.
    path.write_bytes(pickle.dumps(print, protocol=2))
    refused("Weights only load failed", f_params=path)


@pytest.mark.parametrize("content", [5, {"a": 1}, [1], [{"batches": 3}], "x"])
def test_histories_of_something_else(refused, tmp_path, content):
    (tmp_path / "history").write_text(json.dumps(content), encoding="utf-8")
    refused("the file does not fit the net", f_history=tmp_path / "history")


def test_one_bad_file_keeps_the_others_out(net, refused, tmp_path):
    state = net.optimizer_.state_dict()
    # A fused kernel would write behind its end.
    state["state"][0] = {**state["state"][0], "exp_avg": torch.ones(1).double()}
    torch.save(state, tmp_path / "optimizer")
    files = as_torch(weights_of(net), tmp_path / "weights")
    match = r"\['exp_avg'\] is float64 of shape \(1,\), not .* \(4, 3\)"
    refused(match, f_optimizer=tmp_path / "optimizer", **files)


def test_errors_that_are_not_about_the_file(net, tmp_path):
    with pytest.raises(FileNotFoundError):
        net.load_params(f_params=tmp_path / "missing")
    with pytest.raises(AttributeError, match="make sure that it exists"):
        net.load_params(f_parms="file")
    with pytest.raises(TypeError, match="unexpected argument 'parms'"):
        net.load_params(parms="file")


def test_a_callback_that_loads_such_weights_is_named(small, data, tmp_path):
    saved = TrainEndCheckpoint(dirname=tmp_path)
    first = small(callbacks=[saved]).fit(data.X, data.Y)
    weights = first.net_.module_.state_dict()
    weights["head.weight"] *= NAN
    torch.save(weights, tmp_path / "train_end_params.pt")
    other = small(callbacks=[LoadInitState(saved)])
    match = "LoadInitState, .* do not fit the module.*'head.weight' holds NaN"
    with pytest.raises(ValueError, match=match):
        other.fit(data.X, data.Y)


def test_the_model_that_predicts_stays(small, data, tmp_path):
    """A net is for training on: what it loads is in the model of the next call."""
    model = small().fit(data.X, data.Y)
    before = model.predict(data.X)
    files = as_torch(weights_of(model.net_), tmp_path / "weights")
    model.net_.load_params(**files)
    assert_same_bits(model.predict(data.X), before)
