"""Checks of a device against the CPU, for an imitated one and for a real one."""

import copy
import pickle

import numpy as np
import pytest
import torch
from fake_device import DEVICE
from problems import make_data
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, EpochScoring

from sklpos import PositiveOutputRegressor
from sklpos.nets.modules import MLP
from sklpos.strategies import StrategyState
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


X, y = make_data(40, np.eye(3, 2), noise=0.3)


def regressor(device, **params):
    defaults = {
        "module": MLP,
        "module__hidden_layer_sizes": (8,),
        "max_epochs": 3,
        "batch_size": 16,
        "lr": 0.05,
        "dtype": "float64",
        "random_state": 0,
    }
    if "optimizer" not in params:  # chosen by itself on the CPU and on CUDA only
        defaults["optimizer__fused"] = True
    return PositiveOutputRegressor(device=device, **{**defaults, **params})


def assert_equal(device, there, here, *, repaired=False):
    """Bit for bit where the device is imitated; a GPU adds in another order.

    Sums over rows for a repair are torch's there, and numpy's on the CPU.
    """
    imitated = 1e-9 if repaired else 0
    tolerance = imitated if device == DEVICE else 1e-6
    np.testing.assert_allclose(there, here, rtol=tolerance, atol=tolerance)


def tensors_of(model):
    """Every tensor of a model, by a name that tells where it was found."""
    net = model.net_
    modules = {
        "module": net.module_,
        "constraint": net.constraint_,
        "strategy": net.strategy_.state_,
        "domain": net.domain_constraint_ or torch.nn.Module(),
        "product": model.module_,
    }
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
    places = {name: value.device.type for name, value in tensors_of(model).items()}
    assert set(places.values()) == {torch.device(device).type}, places
    assert model.strategy_.state_ is model.net_.constraint_.state


def assert_same_model(device, there, here, X):
    assert_on_device(device, there)
    assert len(there.history_) == len(here.history_)
    for name in COLUMNS:
        assert_equal(device, there.history_[:, name], here.history_[:, name])
    assert isinstance(there.predict(X), np.ndarray)
    assert there.predict(X).dtype == here.predict(X).dtype
    assert_equal(device, there.predict(X), here.predict(X), repaired=True)
    assert_equal(device, there.multipliers_, here.multipliers_)
    if here.kkt_ is not None:
        assert_equal(
            device, list(vars(there.kkt_).values()), list(vars(here.kkt_).values())
        )


def pair(device, fit, **params):
    """The same fit on the device and on the CPU."""
    return [fit(regressor(where, **params)) for where in (device, "cpu")]


def check_strategy(device, name):
    weight = np.random.default_rng(1).uniform(0.5, 2, size=len(X))
    params = {"strategy": name, "lower_bound": [0.0, -np.inf]}
    there, here = pair(device, lambda m: m.fit(X, y, sample_weight=weight), **params)
    assert_same_model(device, there, here, X)
    assert there.predict(X)[:, 0].min() >= 0
    if here.repair_ is not None:
        both = there.repair_.multipliers_, here.repair_.multipliers_
        assert_equal(device, *both, repaired=True)

    elsewhere = 3 * make_data(40, np.eye(3), seed=1)[0]
    for model in (there, here):
        model.enforce(elsewhere)
    assert there.predict(elsewhere)[:, 0].min() >= 0
    assert_same_model(device, there, here, elsewhere)


BOTH_BOUNDS = {
    "lower_bound": [0.0, -np.inf],
    "upper_bound": [1.0, 0.5],
    "on_violated_y": "ignore",
    "module__activation": "sigmoid",
}


def check_both_bounds(device):
    for name in ("activation", "nonnegative_weights"):
        params = {"strategy": name} | BOTH_BOUNDS
        there, here = pair(device, lambda m: m.fit(X, np.minimum(y, 0.5)), **params)
        assert_same_model(device, there, here, X)
        assert there.predict(X)[:, 0].min() >= 0
        assert (there.predict(X).max(axis=0) <= [1, 0.5]).all()


def check_single_precision(device):
    there, here = pair(device, lambda m: m.fit(X, y), dtype="float32")
    assert_on_device(device, there)
    assert there.predict(X).dtype == np.float32
    assert there.predict(X).min() >= 0
    if device == DEVICE:
        assert_same_model(device, there, here, X)


def check_default_dtype_is_single(device):
    there, here = pair(device, lambda m: m.fit(X, y), dtype="auto")
    assert there.predict(X).dtype == np.float32
    assert here.predict(X).dtype == np.float64


def check_partial_fit(device):

    def stream(model):
        for rows in (slice(None), slice(None), slice(5, 30)):
            model.partial_fit(X[rows], y[rows])
        return model

    there, here = pair(device, stream)
    assert_same_model(device, there, here, X)
    assert there.multipliers_.shape == (25, 2)


def check_warm_start_with_other_strategy(device):

    def twice(model):
        model.fit(X, y)
        return model.set_params(strategy="slack", lower_bound=0.1).fit(X[:-3], y[:-3])

    params = {"warm_start": True, "on_violated_y": "ignore"}
    there, here = pair(device, twice, **params)
    assert_same_model(device, there, here, X)


def check_search(device):
    grid = {"strategy": ["penalty", "augmented_lagrangian"], "alpha": [0.1, 1.0]}

    def search(model):
        return GridSearchCV(model, grid, cv=2, n_jobs=1).fit(X, y[:, 0])

    there, here = pair(device, search)
    name = "mean_test_score"
    both = there.cv_results_[name], here.cv_results_[name]
    assert_equal(device, *both, repaired=True)
    assert there.best_params_ == here.best_params_
    assert_same_model(device, there.best_estimator_, here.best_estimator_, X)


def check_lbfgs(device):
    there, here = pair(
        device,
        lambda m: m.fit(X, y),
        optimizer=torch.optim.LBFGS,
        optimizer__max_iter=4,
        batch_size=-1,
    )
    assert_same_model(device, there, here, X)


def check_early_stopping(device, monitor):
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
    last = Checkpoint(None, dirname=str(tmp_path), f_constraint="constraint.pt")
    model = regressor(device, callbacks=[last]).fit(X, y)
    parts = {"params": model.net_.module_, "constraint": model.net_.constraint_}
    for name, part in parts.items():
        stored, state = torch.load(tmp_path / f"{name}.pt"), part.state_dict()
        assert stored.keys() == state.keys()
        assert all(torch.equal(value, stored[key]) for key, value in state.items())


def check_loading_a_checkpoint(device, tmp_path):
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
    model = regressor(device, warm_start=True).fit(X, y)
    before = {name: value.tolist() for name, value in tensors_of(model).items()}
    with pytest.raises(DivergenceError):
        model.set_params(lr=1e300).fit(X[:-3], y[:-3])
    after = {name: value.tolist() for name, value in tensors_of(model).items()}
    assert after == before
    assert_on_device(device, model)


def check_module_instance(device):
    torch.manual_seed(0)
    module = MLP(3, 2, hidden_layer_sizes=(4,)).double()
    before = copy.deepcopy(module.state_dict())
    models = [
        PositiveOutputRegressor(module, device=where, max_epochs=3, dtype="float64")
        for where in (device, "cpu")
    ]
    same = {"random_state": 0, "lr": 0.01, "optimizer__fused": True}
    there, here = (model.set_params(**same).fit(X, y) for model in models)
    assert_same_model(device, there, here, X)
    for name, value in module.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, before[name])


def check_pickle(device):
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
    with pytest.MonkeyPatch.context() as patch:
        for module in ("lagrangian", "slack"):
            patch.setattr(f"sklpos.strategies.{module}.StrategyState", StaysOnTheCPU)
        with pytest.raises(RuntimeError, match=r"same device|indices should be"):
            regressor(device, strategy=name).fit(X, y)
        regressor("cpu", strategy=name).fit(X, y)


class CtrlC(Callback):
    def on_batch_end(self, net, training, **kwargs):
        if len(net.history) == 3 and len(net.history[-1, "batches"]) == 2:
            raise KeyboardInterrupt


CHECKS = {
    "both_bounds": check_both_bounds,
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
