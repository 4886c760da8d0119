"""Ways to use a model, on a device and on the CPU: the results are the same."""

import copy
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from device_checks import X, assert_on_device, assert_same_model
from sklearn.base import clone
from skorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from sklpos import MLP, PositiveOutputRegressor, TrainingCheckpoint
from sklpos.criteria import PinballLoss, PoissonDeviance
from sklpos.export import to_onnx

y = np.maximum(X[:, 0] + 0.3 * X[:, 1] * X[:, 2], 0)


def assert_near(there, here):
    """Some sums of the repair are taken on the device, in another order."""
    np.testing.assert_allclose(there, here, rtol=1e-6, atol=1e-6)


def stack(device, **params) -> PositiveOutputRegressor:
    """The default module."""
    defaults = {"dtype": "float64", "max_epochs": 3, "batch_size": 16}
    defaults |= {"random_state": 0, "optimizer__fused": True}
    return PositiveOutputRegressor(device=device, **{**defaults, **params})


def mlp(device, **params) -> PositiveOutputRegressor:
    own = {"module": MLP, "module__hidden_layer_sizes": (8,)}
    return stack(device, **{**own, **params})


def check_stack(device, name):
    """Every strategy on the default module, and enforcement."""
    there, here = (stack(where, strategy=name).fit(X, y) for where in (device, "cpu"))
    assert_same_model(device, there, here, X)
    for model in (there, here):
        model.enforce(2 * X)
    assert_same_model(device, there, here, 2 * X)


def proofs(make) -> list:
    model = make(strategy="nonnegative_weights").fit(X, y)
    found = [*model.output_bounds(X - 0.1, X + 0.1), model.certified_radius(X[:3])]
    box = model.certify("box", time_limit=5)
    hull = model.certify("hull", X=X, time_limit=5)
    ball = model.certify("ball", X=X[:3], radius=0.1, time_limit=5)
    assert box
    assert hull
    assert ball
    risk = model.certify_risk(X)
    return [*found, box.proved_min_, risk.violation_rate_]


def enforcement(make) -> list:
    model = make(strategy="penalty").fit(X, y)
    found = []
    for request in (
        {"X": 3 * X},
        {"X": 3 * X, "adjust": "bias"},
        {"X": 3 * X, "adjust": "bias", "risk_level": 0.5},
        {"domain": "hull", "X": X, "time_limit": 5},
    ):
        found.append(copy.deepcopy(model).enforce(**request).predict(3 * X))
    return found


def copies(make) -> list:
    model = make().fit(X, y)
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    return [*(twin.predict(X) for twin in twins), clone(model).fit(X, y).predict(X)]


def other_rows(make) -> list:
    device = make().device
    tensors = [torch.as_tensor(part, device=device) for part in (X, y)]
    sparse = sp.csr_array(np.maximum(X, 0))
    return [
        make().fit(*tensors).predict(tensors[0]),
        make().fit(sparse, y).predict(sparse),
    ]


class Measurements(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, number):
        return X[number], y[number]


def data_sets(make) -> list:
    """Read at once, and item by item."""
    found = [make().fit(Measurements()).predict(Measurements())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sklpos.estimator.first_pass.MOST_VALUES", 10)
        loader = DataLoader(Measurements(), batch_size=8, shuffle=True)
        found.append(make(module=MLP).fit(loader).predict(X))
    return found


def samplers(make) -> list:
    sampler = WeightedRandomSampler(np.ones(len(X)), len(X))
    model = make(iterator_train__sampler=sampler).fit(X, y)
    return [model.predict(X), model.multipliers_]


def validation(make) -> list:
    inside = make(early_stopping=True).fit(X, y)
    outside = make().fit(X, y, X_val=X[:9], y_val=y[:9])
    losses = [model.history_[:, "valid_loss"] for model in (inside, outside)]
    return [*losses, inside.predict(X), outside.predict(X)]


def criteria(make) -> list:
    return [
        make(criterion=nn.HuberLoss).fit(X, y).predict(X),
        make(criterion=PoissonDeviance).fit(X, y).predict(X),
        make(criterion=PinballLoss).fit(X, y).predict(X),
    ]


class Stops(Callback):
    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            raise ArithmeticError("stopped on purpose")


def resumed(make) -> list:
    """A fit that was cut, and goes on from its file, is the fit that was not."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fit.ckpt"
        keep = TrainingCheckpoint(file)
        with pytest.raises(ArithmeticError):
            make(callbacks=[keep, Stops()]).fit(X, y)
        again = make(callbacks=[TrainingCheckpoint(file)]).fit(X, y)
    return [again.predict(X), make().fit(X, y).predict(X)]


def onnx_file(make) -> list:
    pytest.importorskip("onnx")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        to_onnx(make(dtype="float32").fit(X.astype("f4"), y), file)
        return [len(file.read_bytes())]


USES = {
    "proofs": proofs,
    "enforcement": enforcement,
    "copies": copies,
    "other rows": other_rows,
    "data sets": data_sets,
    "samplers": samplers,
    "validation": validation,
    "criteria": criteria,
    "resumed": resumed,
    "onnx": onnx_file,
}
MAKERS = {"MLP": mlp, "Stack": stack}


def check_use(device, use, module):
    def made(where):
        return USES[use](lambda **params: MAKERS[module](where, **params))

    for there, here in zip(made(device), made("cpu"), strict=True):
        assert_near(there, here)


def check_default_device(device):
    """Tensors that the library makes go where they belong, whatever the default."""
    expected = mlp("cpu").fit(X, y)
    before = torch.get_default_device()
    # With its number, since torch would ask the device for it.
    torch.set_default_device(torch.empty(0, device=device).device)
    try:
        models = [
            make(where).fit(X, y) for make in (mlp, stack) for where in (device, "cpu")
        ]
        predictions = [model.predict(X) for model in models]
    finally:
        torch.set_default_device(before if before.type != "cpu" else None)
    for model, where in zip(models, (device, "cpu", device, "cpu"), strict=True):
        assert_on_device(where, model)
    assert_near(predictions[0], expected.predict(X))
    assert_near(predictions[1], expected.predict(X))
