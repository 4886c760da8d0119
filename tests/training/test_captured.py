"""Steps that were recorded once train as those that are made one by one."""

import copy

import numpy as np
import pytest
import torch
from problems import make_data
from recorded import recording
from skorch.callbacks import Callback
from torch import nn

from sklpos import MLP, PositiveOutputRegressor, Stack
from sklpos.strategies import STRATEGIES
from sklpos.training.callbacks import MultiplierAscent

X, y = make_data(40, np.eye(3, 2), noise=0.3)
WEIGHT = np.random.default_rng(0).uniform(0.5, 2.0, len(X))
# Two sizes of batches, 16 and 8, and enough epochs to record both of them.
PARAMS = {"max_epochs": 6, "batch_size": 16, "random_state": 0}


def estimator(**params):
    small = {"module": MLP, "module__hidden_layer_sizes": (8,), "lr": 0.02}
    small |= {"on_violated_y": "ignore", **PARAMS}
    if params.get("module", MLP) is not MLP:
        del small["module__hidden_layer_sizes"]
    return PositiveOutputRegressor(**{**small, **params})


def assert_recorded_steps_agree(**params):
    usual = estimator(**params).fit(X, y, sample_weight=WEIGHT)
    with recording() as recorder:
        model = estimator(cuda_graph=True, **copy.deepcopy(params))
        model.fit(X, y, sample_weight=WEIGHT)
    assert recorder.n_records >= 2
    for name, value in usual.net_.module_.state_dict().items():
        torch.testing.assert_close(model.net_.module_.state_dict()[name], value)
    np.testing.assert_allclose(model.multipliers_, usual.multipliers_, atol=1e-12)
    for row, own in zip(usual.history_, model.history_, strict=True):
        for name in row.keys() - {"dur", "batches"}:
            assert own[name] == pytest.approx(row[name], rel=1e-9, abs=1e-12), name
    return recorder


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy(strategy):
    recorder = assert_recorded_steps_agree(strategy=strategy)
    assert recorder.n_records == 2
    # Three batches per epoch; three steps of each size run as usual.
    assert recorder.n_replays == 3 * PARAMS["max_epochs"] - 2 * 3


@pytest.mark.parametrize(
    "params",
    [
        {"module": nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2))},
        {"module": nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))},
        {"upper_bound": 1.5},
        {"criterion": nn.HuberLoss},
        {"early_stopping": True},
        {"optimizer": torch.optim.Adam, "weight_decay": 0.01},
        {"weight_decay": 0.5, "lr_schedule": None},
        {"callbacks__multiplier_ascent__window": 1, "strategy": "slack"},
    ],
    ids=str,
)
def test_whatever_is_trained(params):
    assert_recorded_steps_agree(**params)


@pytest.mark.parametrize("bounds", [{}, {"upper_bound": 1.5}])
@pytest.mark.parametrize("strategy", ["auto", "augmented_lagrangian"])
def test_the_default_module(strategy, bounds):
    assert_recorded_steps_agree(module=Stack, strategy=strategy, **bounds)


class At(Callback):
    """Changes something after the fourth epoch, when both sizes are recorded."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 4:
            self.change(net)


class Freezes(At):
    def change(self, net):
        net.module_.head.bias.requires_grad_(False)


class Replaces(At):
    def change(self, net):
        net.strategy_.state_.multiplier = net.strategy_.state_.multiplier + 1.0


class Steers(At):
    def change(self, net):
        net.strategy_.dual_lr *= 3


class Hurries(At):
    def change(self, net):
        for group in net.optimizer_.param_groups:
            group["lr"] *= 3
            group["betas"] = (0.8, 0.9)


class Renews(At):
    def change(self, net):
        net.renew_optimizer(torch.optim.AdamW)


class Moves(At):
    def change(self, net):
        net.module_.head.weight.data = net.module_.head.weight.data.flip(1).clone()


@pytest.mark.parametrize("change", [Freezes, Replaces, Steers, Hurries, Renews, Moves])
def test_a_change_by_a_callback_is_noticed(change):
    params = {"callbacks": [change()], "max_epochs": 9}
    params["strategy"] = "augmented_lagrangian"
    recorder = assert_recorded_steps_agree(lr_schedule=None, **params)
    assert recorder.n_records == 4


def test_changed_rates_need_no_new_record():
    """Those of the schedule, and the decay that follows the noise of y."""
    recorder = assert_recorded_steps_agree(max_epochs=12, lr=0.05)
    assert recorder.n_records == 2


def test_a_copy_of_the_net_has_no_graph():
    class Copies(Callback):
        def on_epoch_end(self, net, **kwargs):
            self.graphs = copy.deepcopy(net).run_.graphs.graphs

    copies = Copies()
    with recording():
        net = estimator(cuda_graph=True, callbacks=[copies]).fit(X, y).net_
    assert dict(net.callbacks_)["Copies"].graphs == {}


class Onlooker(Callback):
    def on_batch_end(self, net, **kwargs):
        pass


class Paused(MultiplierAscent):
    def on_violation(self, net, violation, index):
        pass


DROPOUT = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2))
SAMPLER = torch.utils.data.RandomSampler(range(len(X)))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"callbacks": [Onlooker()]}, "the callback Onlooker, which sees each batch"),
        ({"callbacks__multiplier_ascent": Paused()}, "the callback Paused"),
        ({"optimizer": torch.optim.SGD}, "optimizer=SGD"),
        ({"optimizer": torch.optim.LBFGS}, "optimizer=LBFGS"),
        ({"module": DROPOUT}, "draws random numbers"),
        ({"dtype": "bfloat16-mixed"}, "autocast"),
        ({"iterator_train__sampler": SAMPLER}, "a sampler"),
        ({"compile": True, "compile__backend": "eager"}, "torch.compile"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_recorded_is_said(params, words):
    model = estimator(cuda_graph=True, **params)
    with recording(), pytest.raises(ValueError, match="cuda_graph=True") as found:
        model.fit(X, y)
    assert words in str(found.value)
    assert len(str(found.value)) <= 300
    assert not hasattr(model, "fitted_")


def test_a_device_without_graphs_is_refused():
    with pytest.raises(ValueError, match="needs a GPU of CUDA, but device='cpu'"):
        estimator(cuda_graph=True).fit(X, y)


def test_a_step_that_torch_refuses_to_record_is_said():
    def refuse(self, function):
        raise RuntimeError("operation not permitted when stream is capturing")

    model = estimator(cuda_graph=True, alpha=2.0)
    with recording() as recorder:
        recorder.record = refuse
        with pytest.raises(ValueError, match="cannot be recorded"):
            model.fit(X, y)
