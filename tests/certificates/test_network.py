"""Networks as certificates read them: the same function, or a refusal by name."""

import numpy as np
import pytest
import torch
from networks import ACTIVATIONS, random_network
from torch import nn

from sklpos.certificates import Box, certify_module
from sklpos.certificates.bounds.network import fold_inputs, read_network
from sklpos.certificates.bounds.rounding import numerical_slack, rounding_error
from sklpos.nets.input_map import InputMap
from sklpos.nets.modules import MLP


def batch_norm_network():
    module = nn.Sequential(
        nn.Flatten(),
        nn.BatchNorm1d(3),
        nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Tanh()),
        nn.Identity(),
        nn.Linear(8, 8, bias=False),
        nn.BatchNorm1d(8, affine=False),
        nn.Softplus(),
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        module(2 + torch.randn(50, 3, generator=generator))
    return module.eval()


def small_mlp():
    return MLP(3, 2, hidden_layer_sizes=(5, 4), activation="gelu", dropout=0.1).eval()


def shared_activation():
    act = nn.ReLU()
    return nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 1))


@pytest.mark.parametrize("make", [batch_norm_network, small_mlp, shared_activation])
def test_read_networks_compute_the_same(make):
    module = make().eval()
    X = torch.randn(100, 3, generator=torch.Generator().manual_seed(1))
    exact = module.double()(X.double()).detach()
    np.testing.assert_allclose(read_network(module)(X.double()), exact, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_margin_covers_float32_rounding(activation):
    for seed in range(3):
        module = random_network(
            (3, 32, 32, 2), activation, seed=seed, dtype=torch.float32
        )
        network = read_network(module)
        low, high = -3 * torch.ones(1, 3).double(), 3 * torch.ones(1, 3).double()
        points = 6 * torch.rand(2000, 3, dtype=torch.float64) - 3
        error = (network(points) - module(points.float()).double()).abs().amax(0)
        slack = numerical_slack(network, low, high)[0]
        assert (error <= slack).all()
        assert (slack < 1.0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_that_are_too_long_for_half_precision_have_no_margin(dtype):
    for n in (3, 300, 3000):
        module = random_network((n, 4, 1), dtype=dtype, gain=n**-0.5)
        box = Box(np.zeros(n), np.full(n, 1e-3))
        found = certify_module(module, box, lower_bound=-1.0)
        assert (found.numerical_slack_ > 0).all()
        points = np.random.default_rng(0).uniform(0, 1e-3, size=(20, n))
        values = module(torch.as_tensor(points, dtype=dtype)).double()
        assert (values >= found.proved_min_[0]).all()
        # Unit roundoffs of 2**-11 and 2**-8.
        short = n < (2000 if dtype == torch.float16 else 250)
        assert np.isfinite(found.proved_min_).all() == short


def test_a_constant_that_comes_from_a_step_is_rounded():
    network = read_network(nn.Linear(2, 3))
    box = torch.zeros(1, 2, dtype=torch.float64)
    scale = InputMap.scaling([0.0, 0.0], [1.0, 3.0])
    folded = fold_inputs(network, scale)
    # Three numbers are added up, of which one is stored.
    assert (rounding_error(folded, box, box) > 0).all()
    assert (rounding_error(network, box, box) > 0).all()
    constant = nn.Linear(2, 3)
    nn.init.zeros_(constant.weight)
    folded = fold_inputs(read_network(constant), scale)
    assert (rounding_error(folded, box, box) == 0).all()


class Unknown(nn.Module):
    def forward(self, X):
        return X.sum(1, keepdim=True)


class OwnSequential(nn.Sequential):
    def forward(self, X):
        return -super().forward(X)


class OwnLinear(nn.Linear):
    def forward(self, X):
        return -super().forward(X)


def hooked():
    module = nn.Sequential(nn.Linear(2, 1))
    module[0].register_forward_hook(lambda *_: torch.zeros(1))
    return module


def patched():
    module = nn.Sequential(nn.Linear(2, 1))
    module[0].forward = lambda X: -X
    return module


def parametrized():
    return nn.utils.parametrizations.weight_norm(nn.Linear(2, 1))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Unknown(), "Unknown is not understood"),
        (OwnSequential(nn.Linear(2, 1)), "OwnSequential is not understood"),
        (nn.Sequential(OwnLinear(2, 1)), "OwnLinear \\('0'\\) is not understood"),
        (nn.Sequential(nn.Linear(2, 1), nn.Mish()), "Mish \\('1'\\)"),
        (nn.Sequential(nn.Linear(2, 2), nn.Softmax(1)), "Softmax"),
        (hooked(), "Linear \\('0'\\) has a hook"),
        (patched(), "has a hook or a forward of its own"),
        (parametrized(), "ParametrizedLinear"),
        (nn.Sequential(nn.Linear(2, 1), nn.Dropout()).train(), "training mode"),
        (nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)).train(), "training mode"),
        (
            nn.Sequential(
                nn.BatchNorm1d(2, track_running_stats=False), nn.Linear(2, 1)
            ).eval(),
            "no running statistics",
        ),
        (nn.Sequential(nn.Flatten(0), nn.Linear(2, 1)), "more than flatten rows"),
        (nn.ReLU(), "begin with nn.Linear"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(module, message):
    with pytest.raises(ValueError, match=message):
        read_network(module)


def test_nan_parameters_are_refused():
    module = nn.Linear(2, 1)
    nn.init.constant_(module.weight, torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        read_network(module)
