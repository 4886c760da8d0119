"""Each callback of skorch works in the estimator, or one sentence says why not.

A callback that a new version of skorch adds is in neither table, and fails a test.
"""

import threading

import numpy as np
import pytest
import torch
from skorch import callbacks
from torch.optim.lr_scheduler import OneCycleLR
from watching import fitted, make_data, regressor


class Experiment:
    """A run of a logger, which lives in one process and cannot be copied."""

    def __init__(self, folder):
        self.dir = str(folder)
        self.lock = threading.Lock()
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.calls.append(name)

    def __setitem__(self, key, value):
        self.calls.append(key)

    def __getitem__(self, key):
        return self


class Scale(callbacks.Callback):
    """Records on the level of batches, too."""

    def on_batch_end(self, net, training=False, **kwargs):
        if training:
            net.history.record_batch("lr", lr_of(net))

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.norms_ = [float(p.grad.norm()) for _, p in named_parameters]


def lr_of(net):
    return net.optimizer_.param_groups[0]["lr"]


def of_epochs(name):
    return lambda model: len(model.history_[:, name]) == 4


def bias_of_one(parameter):
    torch.nn.init.ones_(parameter)


one_cycle = {"max_lr": 0.1, "total_steps": 40, "step_every": "batch"}

# A callback made in a folder, and what a fit of four epochs with it shows.
WORK = {
    "BatchScoring": (
        lambda folder: callbacks.BatchScoring("r2", on_train=True, name="batchwise"),
        of_epochs("batchwise"),
    ),
    "Callback": (
        lambda folder: Scale(),
        lambda model: max(fitted(model, "Scale").norms_) > 0,
    ),
    "Checkpoint": (
        lambda folder: callbacks.Checkpoint(monitor=None, dirname=folder),
        of_epochs("event_cp"),
    ),
    "EarlyStopping": (
        lambda folder: callbacks.EarlyStopping("train_loss", patience=9),
        lambda model: fitted(model, "EarlyStopping").misses_ < 9,
    ),
    "EpochScoring": (
        lambda folder: callbacks.EpochScoring("r2", on_train=True),
        of_epochs("r2"),
    ),
    "EpochTimer": (lambda folder: callbacks.EpochTimer(), of_epochs("dur")),
    "Freezer": (
        lambda folder: callbacks.Freezer("features.*"),
        lambda model: not model.net_.module_.features[0].weight.requires_grad,
    ),
    "GradientNormClipping": (
        lambda folder: callbacks.GradientNormClipping(1e-9),
        lambda model: model.history_[-1, "train_loss"] > 0,
    ),
    "Initializer": (
        lambda folder: callbacks.Initializer("features.*.bias", bias_of_one, at=4),
        lambda model: model.net_.module_.features[0].bias.mean() > 0.9,
    ),
    "LRScheduler": (
        lambda folder: callbacks.LRScheduler(OneCycleLR, **one_cycle),
        lambda model: lr_of(model.net_) != 0.01,
    ),
    "LoadInitState": (
        lambda folder: callbacks.LoadInitState(
            callbacks.Checkpoint(monitor=None, dirname=folder)
        ),
        lambda model: fitted(model, "LoadInitState").did_load_,
    ),
    "ParamMapper": (
        lambda folder: callbacks.ParamMapper("head.bias", bias_of_one),
        lambda model: abs(model.net_.module_.head.bias.item() - 1) < 0.5,
    ),
    "PassthroughScoring": (
        lambda folder: callbacks.PassthroughScoring("train_loss", on_train=True),
        of_epochs("train_loss_best"),
    ),
    "PrintLog": (
        lambda folder: callbacks.PrintLog(sink=lambda text: None),
        lambda model: model.callbacks_[-1][0] == "PrintLog",
    ),
    "ProgressBar": (
        lambda folder: callbacks.ProgressBar(detect_notebook=False),
        lambda model: True,
    ),
    "TrainEndCheckpoint": (
        lambda folder: callbacks.TrainEndCheckpoint(dirname=folder),
        lambda model: True,
    ),
    "Unfreezer": (
        lambda folder: callbacks.Unfreezer("features.*", at=2),
        lambda model: model.net_.module_.features[0].weight.requires_grad,
    ),
    "WarmRestartLR": (
        lambda folder: callbacks.LRScheduler(callbacks.WarmRestartLR, max_lr=0.05),
        of_epochs("event_lr"),
    ),
}
LOGGERS = {
    "MlflowLogger": {"run": 0, "client": 1},
    "NeptuneLogger": {"run": 0},
    "SacredLogger": {"experiment": 0},
    "TensorBoard": {"writer": 0},
    "WandbLogger": {"wandb_run": 0, "save_model": False},
}
REFUSED = {
    "InputShapeSetter": "is not needed: a module class or callable receives",
}


def test_every_callback_of_skorch_is_in_a_table():
    assert set(callbacks.__all__) == {*WORK, *LOGGERS, *REFUSED}


@pytest.mark.parametrize("name", WORK)
def test_callback_works(name, tmp_path, capfd):
    make, holds = WORK[name]
    X, y = make_data()
    model = regressor(make(tmp_path)).fit(X, y)
    assert holds(model)
    assert len(model.history_) == 4
    assert np.isfinite(model.predict(X)).all()
    if name.endswith("Checkpoint"):
        assert any(tmp_path.iterdir())


@pytest.mark.parametrize("name", LOGGERS)
def test_logger_works(name, tmp_path):
    needed = {"MlflowLogger": "mlflow", "NeptuneLogger": "neptune"}
    if name in needed:
        pytest.importorskip(needed[name])
    run = Experiment(tmp_path)
    given = {k: run if v is not False else v for k, v in LOGGERS[name].items()}
    X, y = make_data()
    model = regressor(getattr(callbacks, name)(**given)).fit(X, y)
    assert len(run.calls) >= 4
    assert len(model.history_) == 4


@pytest.mark.parametrize("name", REFUSED)
def test_callback_is_refused(name):
    X, y = make_data()
    with pytest.raises(ValueError, match=REFUSED[name]):
        regressor(getattr(callbacks, name)()).fit(X, y)
