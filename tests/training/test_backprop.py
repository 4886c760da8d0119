"""Backpropagation and steps without bookkeeping: the same bits as torch's own."""

import copy

import pytest
import torch
from properties import assert_same_bits
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sklpos.nets.modules import MLP
from sklpos.training.backprop import Backprop
from sklpos.training.fast import step_optimizer

ACTIVATIONS = ("identity", "relu", "tanh", "sigmoid")


def mlp(activation="relu", **params):
    torch.manual_seed(0)
    return MLP(5, 2, hidden_layer_sizes=(7, 4), activation=activation, **params)


def gradients(module):
    return {name: weight.grad for name, weight in module.named_parameters()}


def by_autograd(module, X, gradient):
    module.zero_grad()
    output = module(X)
    output.backward(gradient)
    return output.detach(), gradients(module)


@pytest.mark.parametrize("n_samples", [1, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_passes_are_those_of_autograd(activation, bias, dtype, n_samples):
    module = mlp(activation, bias=bias).to(dtype)
    X, gradient = torch.randn(n_samples, 5, dtype=dtype), torch.randn(n_samples, 2)
    gradient = gradient.to(dtype)
    expected, expected_gradients = by_autograd(module, X, gradient)
    module.zero_grad()
    passes = Backprop.of(module)
    assert_same_bits(passes.forward(X), expected)
    passes.backward(gradient)
    assert_same_bits(gradients(module), expected_gradients)


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(5, 2),
        nn.Sequential(nn.Identity(), nn.Linear(5, 2), nn.Tanh()),
        nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(5, 3)), nn.Linear(3, 2)),
        nn.Sequential(nn.Linear(5, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)),
    ],
)
def test_rows_of_layers(module):
    X, gradient = torch.randn(4, 5), torch.randn(4, 2)
    _, expected = by_autograd(module, X.clone(), gradient)
    module.zero_grad()
    passes = Backprop.of(module)
    passes.forward(X.clone())
    passes.backward(gradient)
    assert_same_bits(gradients(module), expected)


def test_gradients_add_up_and_shared_layers_have_one():
    layer = nn.Linear(3, 3)
    module = nn.Sequential(layer, nn.Tanh(), layer)
    X, gradient = torch.randn(4, 3), torch.randn(4, 3)
    _, once = by_autograd(module, X, gradient)
    passes = Backprop.of(module)
    passes.forward(X)
    passes.backward(gradient)
    torch.testing.assert_close(layer.weight.grad, 2 * once["0.weight"])


def frozen(module):
    module.features[0].weight.requires_grad_(False)
    return module


def with_gradient_hook(module):
    module.head.weight.register_hook(lambda gradient: 2 * gradient)
    return module


def with_forward_hook(module):
    module.features[1].register_forward_hook(lambda *args: None)
    return module


def with_gradient_taken(module):
    module.head.bias.register_post_accumulate_grad_hook(lambda weight: None)
    return module


def parametrized(module):
    nn.utils.parametrizations.weight_norm(module.head)
    return module


class Doubled(MLP):
    def forward(self, X):
        return 2 * super().forward(X)


@pytest.mark.parametrize(
    "module",
    [
        mlp(dropout=0.5),
        mlp("elu"),
        Doubled(5, 2),
        frozen(mlp()),
        with_gradient_hook(mlp()),
        with_forward_hook(mlp()),
        with_gradient_taken(mlp()),
        parametrized(mlp()),
        nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
    ],
)
def test_what_is_not_plain_is_left_to_autograd(module):
    assert Backprop.of(module) is None


def test_autocast_is_left_to_autograd():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Backprop.of(mlp()) is None


OPTIMIZERS = [
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"weight_decay": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}),
    (torch.optim.Adam, {"maximize": True}),
    (torch.optim.Adam, {"amsgrad": True}),
    (torch.optim.Adam, {"fused": False}),
    (torch.optim.AdamW, {"weight_decay": 0.1}),
    (torch.optim.SGD, {"momentum": 0.9}),
]


def train(step, kind, params, schedule=False):
    module = mlp()
    params = {"fused": True, **params}
    groups = [{"params": module.features.parameters(), "lr": 0.1}]
    optimizer = kind([*groups, {"params": module.head.parameters()}], lr=0.01, **params)
    X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))

    def closure():
        module.zero_grad()
        module(X).square().sum().backward()

    halving = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5) if schedule else None
    for _ in range(4):
        step(optimizer, closure)
        if schedule:
            halving.step()
    return dict(module.state_dict()), optimizer.state_dict()


@pytest.mark.parametrize("schedule", [False, True])
@pytest.mark.parametrize(("kind", "params"), OPTIMIZERS)
def test_steps_are_those_of_the_optimizer(kind, params, schedule):
    theirs = train(lambda optimizer, loss: optimizer.step(loss), kind, params, schedule)
    ours = train(step_optimizer, kind, params, schedule)
    assert_same_bits(ours[0], theirs[0])
    assert str(ours[1]) == str(theirs[1])


def test_hooks_of_an_optimizer_are_called():
    module = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    calls = []
    optimizer.register_step_post_hook(lambda *args: calls.append("own"))
    everywhere = register_optimizer_step_pre_hook(lambda *args: calls.append("global"))
    for _ in range(2):
        step_optimizer(optimizer, lambda: module(torch.ones(1, 2)).sum().backward())
    everywhere.remove()
    assert calls == ["global", "own"] * 2


def test_weights_without_a_gradient_stay():
    """All of a group, or some; in the second step, when the optimizer has its state."""
    module = mlp()
    groups = [
        {"params": [*module.features.parameters(), module.head.bias]},
        {"params": [module.head.weight]},
    ]
    optimizer = torch.optim.Adam(groups, fused=True)
    step_optimizer(optimizer, lambda: module(torch.ones(1, 5)).sum().backward())
    before = copy.deepcopy(module)
    optimizer.zero_grad()
    step_optimizer(
        optimizer, lambda: module.features(torch.ones(1, 5)).sum().backward()
    )
    assert_same_bits(dict(module.head.state_dict()), dict(before.head.state_dict()))
    assert not torch.equal(module.features[0].weight, before.features[0].weight)


def test_groups_of_an_epoch_are_looked_up_once():
    """They give the same steps, also of a weight without a gradient."""

    def steps(known):
        torch.manual_seed(0)
        module = mlp()
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
        for part in (module, module, module.features, module):

            def closure(part=part):
                optimizer.zero_grad()
                part(torch.ones(1, 5)).square().sum().backward()

            step_optimizer(optimizer, closure, known)
        return module.state_dict(), optimizer.state_dict()["state"]

    known = []
    found, expected = steps(known), steps(None)
    assert known
    assert_same_bits(dict(found[0]), dict(expected[0]))
    assert_same_bits(found[1], expected[1])
