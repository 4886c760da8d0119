"""On a second device everything is where it belongs, and equal to the CPU."""

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from fake_device import AVAILABLE, DEVICE, DeviceTensor, runs_on_fake_device
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, EpochScoring
from skorch.exceptions import DeviceWarning
from torch import nn

from sklpos import PositiveOutputRegressor
from sklpos.nets.modules import MLP
from sklpos.strategies import STRATEGIES, StrategyState
from sklpos.training.step import DivergenceError

COLUMNS = (
    "train_loss",
    "objective",
    "constraint",
    "max_violation",
    "violation_rate",
    "max_multiplier",
    "mean_multiplier",
    "alpha",
)


def make_data(seed=0, n=40, n_outputs=2):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    y = np.maximum(X[:, :n_outputs] + 0.3 * rng.normal(size=(n, n_outputs)), 0)
    return X, y


def regressor(device, **params):
    defaults = {
        "module__hidden_layer_sizes": (8,),
        "max_epochs": 3,
        "batch_size": 16,
        "lr": 0.05,
        "dtype": "float64",
        "random_state": 0,
    }
    if "optimizer" not in params:  # the imitated device has no fused kernel
        defaults["optimizer__fused"] = False
    return PositiveOutputRegressor(device=device, **{**defaults, **params})


def assert_equal(device, there, here):
    """Bit for bit where the device is imitated; a GPU adds in another order."""
    tolerance = 0 if device == DEVICE else 1e-6
    np.testing.assert_allclose(there, here, rtol=tolerance, atol=tolerance)


def tensors_of(net):
    """Every tensor of a net, by a name that tells where it was found."""
    modules = {
        "module": net.module_,
        "constraint": net.constraint_,
        "strategy": net.strategy_.state_,
    }
    if hasattr(net, "product_"):
        modules["product"] = net.product_
    found = {
        f"{owner}.{name}": value
        for owner, module in modules.items()
        for name, value in module.state_dict().items()
    }
    for i, state in enumerate(net.optimizer_.state.values()):
        own = {
            k: v for k, v in state.items() if isinstance(v, torch.Tensor) and v.dim()
        }
        found |= {f"optimizer.{i}.{name}": value for name, value in own.items()}
    return found


def assert_on_device(device, model):
    places = {name: value.device.type for name, value in tensors_of(model.net_).items()}
    assert set(places.values()) == {torch.device(device).type}, places
    assert model.strategy_.state_ is model.net_.constraint_


def assert_same_model(device, there, here, X):
    assert_on_device(device, there)
    assert len(there.history_) == len(here.history_)
    for name in COLUMNS:
        assert_equal(device, there.history_[:, name], here.history_[:, name])
    assert isinstance(there.predict(X), np.ndarray)
    assert there.predict(X).dtype == here.predict(X).dtype
    assert_equal(device, there.predict(X), here.predict(X))
    assert_equal(device, there.multipliers_, here.multipliers_)
    if here.kkt_ is not None:
        assert_equal(
            device, list(vars(there.kkt_).values()), list(vars(here.kkt_).values())
        )


def pair(device, fit, **params):
    """The same fit on the device and on the CPU."""
    return [fit(regressor(where, **params)) for where in (device, "cpu")]


# -- checks that run on the imitated device and on a real one ----------------------


def check_strategy(device, name):
    X, y = make_data()
    weight = np.random.default_rng(1).uniform(0.5, 2, size=len(X))
    params = {"strategy": name, "lower_bound": [0.0, -np.inf]}
    there, here = pair(device, lambda m: m.fit(X, y, sample_weight=weight), **params)
    assert_same_model(device, there, here, X)
    assert there.predict(X)[:, 0].min() >= 0
    if here.repair_ is not None:
        assert_equal(device, there.repair_.multipliers_, here.repair_.multipliers_)

    elsewhere = 3 * make_data(seed=1)[0]
    for model in (there, here):
        model.enforce(elsewhere)
    assert there.predict(elsewhere)[:, 0].min() >= 0
    assert_same_model(device, there, here, elsewhere)


def check_single_precision(device):
    X, y = make_data()
    there, here = pair(device, lambda m: m.fit(X, y), dtype="float32")
    assert_on_device(device, there)
    assert there.predict(X).dtype == np.float32
    assert there.predict(X).min() >= 0
    if device == DEVICE:
        assert_same_model(device, there, here, X)


def check_default_dtype_is_single(device):
    X, y = make_data()
    there, here = pair(device, lambda m: m.fit(X, y), dtype="auto")
    assert there.predict(X).dtype == np.float32
    assert here.predict(X).dtype == np.float64


def check_partial_fit(device):
    X, y = make_data()

    def stream(model):
        for rows in (slice(None), slice(None), slice(5, 30)):
            model.partial_fit(X[rows], y[rows])
        return model

    there, here = pair(device, stream)
    assert_same_model(device, there, here, X)
    assert there.multipliers_.shape == (25, 2)


def check_warm_start_with_other_strategy(device):
    X, y = make_data()

    def twice(model):
        model.fit(X, y)
        return model.set_params(strategy="slack", lower_bound=0.1).fit(X[:-3], y[:-3])

    params = {"warm_start": True, "on_negative_y": "ignore"}
    there, here = pair(device, twice, **params)
    assert_same_model(device, there, here, X)


def check_search(device):
    X, y = make_data(n_outputs=1)
    grid = {"strategy": ["penalty", "augmented_lagrangian"], "alpha": [0.1, 1.0]}

    def search(model):
        return GridSearchCV(model, grid, cv=2, n_jobs=1).fit(X, y.ravel())

    there, here = pair(device, search)
    name = "mean_test_score"
    assert_equal(device, there.cv_results_[name], here.cv_results_[name])
    assert there.best_params_ == here.best_params_
    assert_same_model(device, there.best_estimator_, here.best_estimator_, X)


def check_lbfgs(device):
    X, y = make_data()
    there, here = pair(
        device,
        lambda m: m.fit(X, y),
        optimizer=torch.optim.LBFGS,
        optimizer__max_iter=4,
        batch_size=-1,
    )
    assert_same_model(device, there, here, X)


def check_early_stopping(device, monitor):
    X, y = make_data()
    stopper = EarlyStopping(monitor=monitor, load_best=True, patience=3)
    there, here = pair(
        device,
        lambda m: m.fit(X, y),
        callbacks=[stopper],
        early_stopping=monitor == "valid_loss",
        n_iter_no_change=50,
        max_epochs=60,
        lr=0.2,
    )
    best = [dict(m.callbacks_)["EarlyStopping"].best_epoch_ for m in (there, here)]
    assert best[0] == best[1] < len(there.history_) < 60
    assert_same_model(device, there, here, X)


def check_scoring(device):
    X, y = make_data()
    scores = [
        EpochScoring(
            "r2", name=f"{train}_{caching}", on_train=train, use_caching=caching
        )
        for train in (True, False)
        for caching in (True, False)
    ]
    there, here = pair(
        device, lambda m: m.fit(X, y), callbacks=scores, early_stopping=True
    )
    for score in scores:
        name = score.name
        assert_equal(device, there.history_[:, name], here.history_[:, name])


def check_checkpoint(device, tmp_path):
    X, y = make_data()
    last = Checkpoint(None, dirname=str(tmp_path), f_constraint="constraint.pt")
    model = regressor(device, callbacks=[last]).fit(X, y)
    parts = {"params": model.net_.module_, "constraint": model.net_.constraint_}
    for name, part in parts.items():
        stored, state = torch.load(tmp_path / f"{name}.pt"), part.state_dict()
        assert stored.keys() == state.keys()
        assert all(torch.equal(value, stored[key]) for key, value in state.items())


def check_loading_a_checkpoint(device, tmp_path):
    X, y = make_data()
    best = Checkpoint(
        "train_loss_best",
        dirname=str(tmp_path),
        f_constraint="constraint.pt",
        load_best=True,
    )
    there, here = pair(
        device, lambda m: m.fit(X, y), callbacks=[best], max_epochs=30, lr=0.2
    )
    assert len(here.history_) < 30
    assert_same_model(device, there, here, X)
    other = regressor(device, random_state=1).fit(X, y)
    other.net_.load_params(checkpoint=best)
    assert_on_device(device, other)


def check_infeasible(device, **params):
    def fit(model):
        with pytest.warns(ConvergenceWarning, match="no head without bias"):
            return model.fit([[1.0], [-1.0]], [2.0, 1.0])

    there, here = pair(
        device,
        fit,
        module__hidden_layer_sizes=(),
        module__bias=False,
        lower_bound=1.0,
        repair=None,
        max_epochs=20,
        callbacks__multiplier_ascent__window=5,
        **params,
    )
    ascents = [dict(m.callbacks_)["multiplier_ascent"] for m in (there, here)]
    assert ascents[0].infeasible_rows_ == ascents[1].infeasible_rows_ == [0, 1]
    assert_same_model(device, there, here, np.ones((1, 1)))


def check_divergence(device):
    X, y = make_data()
    model = regressor(device, warm_start=True).fit(X, y)
    before = {name: value.tolist() for name, value in tensors_of(model.net_).items()}
    with pytest.raises(DivergenceError):
        model.set_params(lr=1e300).fit(X[:-3], y[:-3])
    after = {name: value.tolist() for name, value in tensors_of(model.net_).items()}
    assert after == before
    assert_on_device(device, model)


def check_module_instance(device):
    X, y = make_data()
    torch.manual_seed(0)
    module = MLP(3, 2, hidden_layer_sizes=(4,)).double()
    before = copy.deepcopy(module.state_dict())
    models = [
        PositiveOutputRegressor(module, device=where, max_epochs=3, dtype="float64")
        for where in (device, "cpu")
    ]
    same = {"random_state": 0, "lr": 0.01, "optimizer__fused": False}
    there, here = (model.set_params(**same).fit(X, y) for model in models)
    assert_same_model(device, there, here, X)
    for name, value in module.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, before[name])


def check_pickle(device):
    X, y = make_data()
    model = regressor(device, warm_start=True).fit(X, y)
    twin = pickle.loads(pickle.dumps(model))
    assert_on_device(device, twin)
    np.testing.assert_array_equal(twin.predict(X), model.predict(X))
    for each in (model, twin):
        each.fit(X, y)
    assert_same_model(device, twin, model, X)


class StaysOnTheCPU(StrategyState):
    def _apply(self, *args, **kwargs):
        return self


def check_multiplier_left_behind(device, name):
    X, y = make_data()
    with pytest.MonkeyPatch.context() as patch:
        for module in ("lagrangian", "slack"):
            patch.setattr(f"sklpos.strategies.{module}.StrategyState", StaysOnTheCPU)
        with pytest.raises(RuntimeError, match=r"same device|indices should be"):
            regressor(device, strategy=name).fit(X, y)
        regressor("cpu", strategy=name).fit(X, y)


CHECKS = {
    "single_precision": check_single_precision,
    "default_dtype": check_default_dtype_is_single,
    "partial_fit": check_partial_fit,
    "warm_start": check_warm_start_with_other_strategy,
    "search": check_search,
    "lbfgs": check_lbfgs,
    "scoring": check_scoring,
    "infeasible": check_infeasible,
    "divergence": check_divergence,
    "module_instance": check_module_instance,
}
WITH_MULTIPLIERS = ["augmented_lagrangian", "lagrangian", "slack"]
MONITORS = ["train_loss", "valid_loss"]


# -- the imitated device -----------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
@runs_on_fake_device
def test_strategy(device, name):
    check_strategy(device, name)


@pytest.mark.parametrize("name", CHECKS)
@runs_on_fake_device
def test_equals_the_cpu(device, name):
    CHECKS[name](device)


@pytest.mark.parametrize("monitor", MONITORS)
@runs_on_fake_device
def test_early_stopping(device, monitor):
    check_early_stopping(device, monitor)


@runs_on_fake_device
def test_checkpoint(device, tmp_path):
    check_checkpoint(device, tmp_path)


@pytest.mark.parametrize("name", WITH_MULTIPLIERS)
@runs_on_fake_device
def test_multiplier_left_behind_raises(device, name):
    check_multiplier_left_behind(device, name)


@runs_on_fake_device
def test_accelerator_without_double_precision(device):
    """Some have none: what needs it is moved to the CPU first."""
    new = DeviceTensor.__new__

    def refuse(cls, hidden):
        if hidden.dtype == torch.float64:
            raise TypeError("this device has no float64")
        return new(cls, hidden)

    X, y = make_data()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeviceTensor, "__new__", staticmethod(refuse))
        with pytest.raises(TypeError, match="no float64"):
            torch.zeros(1, dtype=torch.float64).to(device)
        for name in STRATEGIES:
            model = regressor(device, strategy=name, dtype="auto").fit(X, y)
            assert model.certify("box", time_limit=1).lower_bound_.shape == (2,)
            assert model.enforce(3 * X).predict(3 * X).min() >= 0
            assert model.enforce(domain="box", time_limit=0.1).certificate_
        check_infeasible(device, dtype="float32")


@runs_on_fake_device
def test_dropout(device):
    X, y = make_data()
    there, here = pair(device, lambda m: m.fit(X, y), module__dropout=0.3)
    assert_same_model(device, there, here, X)


class CtrlC(Callback):
    def on_batch_end(self, net, training, **kwargs):
        if len(net.history) == 3 and len(net.history[-1, "batches"]) == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"early_stopping": True, "max_epochs": 20},
        {"callbacks": [CtrlC]},
        {"callbacks": [EarlyStopping(monitor="train_loss", load_best=True), CtrlC]},
        {"strategy": "slack", "callbacks__multiplier_ascent__window": 1},
        {"criterion": nn.HuberLoss, "strategy": "nonnegative_weights"},
    ],
)
@runs_on_fake_device
def test_a_pickle_holds_no_tensor_of_the_device(device, params):
    X, y = make_data()
    stored = pickle.dumps(regressor(device, **params).fit(X, y))
    assert b"_rebuild_device_tensor" not in stored
    assert b"torch._utils" not in stored
    assert_on_device(device, pickle.loads(stored))


@runs_on_fake_device
def store(device, file):
    X, y = make_data()
    model = regressor(device, warm_start=True).fit(X, y)
    file.write_bytes(pickle.dumps((model, X, y, model.predict(X))))


@pytest.mark.skipif(not AVAILABLE, reason="this torch has no such devices")
@pytest.mark.filterwarnings("ignore:the model was stored on device='fakegpu'")
def test_a_pickle_of_a_missing_device_loads_on_the_cpu(tmp_path):
    file = tmp_path / "model.pkl"
    store(file)
    model, X, y, predicted = pickle.loads(file.read_bytes())
    assert_on_device("cpu", model)
    np.testing.assert_array_equal(model.predict(X), predicted)
    here = regressor("cpu", warm_start=True).fit(X, y).fit(X, y)
    assert_same_model("cpu", model.fit(X, y), here, X)


@pytest.mark.skipif(not AVAILABLE, reason="this torch has no such devices")
def test_a_missing_device_is_said(tmp_path):
    file = tmp_path / "model.pkl"
    store(file)
    with pytest.warns(DeviceWarning, match="'fakegpu', which cannot be used on this m"):
        pickle.loads(file.read_bytes())


# -- a real device -----------------------------------------------------------------

on_cuda = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def needs_cuda(test):
    for mark in on_cuda:
        test = mark(test)
    return test


@needs_cuda
@pytest.mark.parametrize("name", STRATEGIES)
def test_strategy_on_cuda(name):
    check_strategy("cuda", name)


@needs_cuda
@pytest.mark.parametrize("name", CHECKS)
def test_equals_the_cpu_on_cuda(name):
    CHECKS[name]("cuda")


@needs_cuda
@pytest.mark.parametrize("monitor", MONITORS)
def test_early_stopping_on_cuda(monitor):
    check_early_stopping("cuda", monitor)


@needs_cuda
def test_checkpoint_on_cuda(tmp_path):
    check_checkpoint("cuda", tmp_path)
    check_loading_a_checkpoint("cuda", tmp_path)


@needs_cuda
def test_pickle_on_cuda():
    check_pickle("cuda")


@needs_cuda
@pytest.mark.parametrize("name", WITH_MULTIPLIERS)
def test_multiplier_left_behind_raises_on_cuda(name):
    check_multiplier_left_behind("cuda", name)


@needs_cuda
def test_auto_takes_the_gpu():
    X, y = make_data()
    assert_on_device("cuda", regressor("auto").fit(X, y))


@needs_cuda
def test_dropout_is_reproducible_on_cuda():
    X, y = make_data()
    before = torch.cuda.get_rng_state()
    fits = [regressor("cuda:0", module__dropout=0.3).fit(X, y) for _ in range(2)]
    np.testing.assert_array_equal(fits[0].predict(X), fits[1].predict(X))
    assert torch.equal(torch.cuda.get_rng_state(), before)


LOAD_ON_CPU = """
import pickle, sys, warnings
import numpy as np, torch
assert not torch.cuda.is_available()
warnings.simplefilter("ignore")  # it says that it is loaded on the CPU
with open(sys.argv[1], "rb") as file:
    model, X, y, expected = pickle.load(file)
assert {p.device.type for p in model.module_.parameters()} == {"cpu"}
np.testing.assert_allclose(model.predict(X), expected, rtol=1e-6, atol=1e-6)
assert model.strategy_.state_ is model.net_.constraint_
before = len(model.history_)
model.partial_fit(X, y)
assert len(model.history_) == before + 1
assert model.enforce(X).predict(X).min() >= 0
"""


@needs_cuda
@pytest.mark.parametrize(
    "params", [{}, {"early_stopping": True, "max_epochs": 20}, {"callbacks": [CtrlC]}]
)
def test_pickle_of_a_cuda_model_loads_on_the_cpu(params, tmp_path):
    X, y = make_data()
    model = regressor("cuda", **params).fit(X, y)
    model.set_params(early_stopping=False)
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps((model, X, y, model.predict(X))))
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    subprocess.run(
        [sys.executable, "-c", LOAD_ON_CPU, str(file)], env=environment, check=True
    )
