"""The largest inputs: at that size no sum overflows, and far beyond it one does."""

import numpy as np
import pytest
import torch
from networks import ACTIVATIONS, random_network
from torch import nn

from sklpos.certificates import (
    All,
    Ball,
    Box,
    certify_module,
    register_relaxation,
    unregister_relaxation,
)
from sklpos.certificates import methods as proof_methods
from sklpos.certificates.bounds.network import read_network
from sklpos.certificates.bounds.overflow import largest_input, largest_input_of
from sklpos.nets.bounds import Bounds
from sklpos.nets.input_map import InputMap
from sklpos.nets.outputs import BoundedOutput

DTYPES = [torch.float32, torch.float64]


def linear(weight, bias=None, dtype=torch.float32) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, *np.shape(weight)[::-1], dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(np.array(weight)))
        layer.bias.copy_(torch.as_tensor(0.0 if bias is None else bias))
    return layer


def far_rows(size: float, n_features: int, dtype) -> torch.Tensor:
    """Corners of the cube of a size, and rows inside of all sizes."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 0.0, 1.0], size=(2000, n_features))
    share = 10 ** rng.uniform(-40, 0, size=signs.shape)
    share[:1000] = 1.0
    rows = torch.as_tensor(size * signs * share).to(dtype)
    # The conversion may have rounded up.
    return rows.clamp(-size * (1 - 1e-7), size * (1 - 1e-7))


@torch.no_grad()
def is_finite_throughout(module: nn.Sequential, rows: torch.Tensor) -> bool:
    for size in (1, 7, len(rows)):
        values = rows[:size]
        for layer in module:
            values = layer(values)
            if not values.isfinite().all():
                return False
    return True


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nothing_overflows_up_to_the_largest_input(activation, dtype):
    for seed, gain in enumerate((2.0, 1e3, 1e6)):
        widths = (3, 16, 16, 2)
        module = random_network(widths, activation, seed=seed, gain=gain, dtype=dtype)
        largest = largest_input(read_network(module))
        assert 0 < largest < torch.finfo(dtype).max
        assert is_finite_throughout(module, far_rows(largest, 3, dtype))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "absolute", "silu"])
def test_something_overflows_far_beyond(activation):
    dtype = torch.float32
    module = random_network((3, 16, 16, 2), activation, gain=1e3, dtype=dtype)
    largest = largest_input(read_network(module))
    assert not is_finite_throughout(module, far_rows(1e3 * largest, 3, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_of_absolute_terms_is_the_oracle(dtype):
    # (most - |b|) / sum(|w|), where the sum itself would cancel.
    most = min(torch.finfo(dtype).max / 2, 1e300)
    module = nn.Sequential(linear([[3.0, -3.0], [1.0, 0.0]], [0.0, 1.0], dtype))
    assert largest_input(read_network(module)) == pytest.approx(most / 6, rel=0.02)


def test_a_unit_that_is_clipped_does_not_grow():
    # relu(1 - relu(1 - u)) is at most 1, which the weight behind it multiplies.
    code = [linear([[-2.0]], [1.0]), nn.ReLU(), linear([[-1.0]], [1.0]), nn.ReLU()]
    hard = [linear([[2.0]]), nn.Hardtanh(0, 1)]
    most = torch.finfo(torch.float32).max / 2
    for layers in (code, hard):
        module = nn.Sequential(*layers, linear([[1e30]]))
        largest = largest_input(read_network(module))
        assert largest == pytest.approx(most / 2, rel=0.02)
        assert is_finite_throughout(module, far_rows(largest, 1, torch.float32))


def test_units_may_grow_on_one_side_alone():
    # -2 relu(x) is far below 0, and never above.
    one_sided = [linear([[1.0]]), nn.ReLU(), linear([[-2.0]]), nn.LeakyReLU(0.5)]
    module = nn.Sequential(*one_sided, linear([[1e30]]))
    largest = largest_input(read_network(module))
    most = torch.finfo(torch.float32).max / 2
    assert largest == pytest.approx(most / 1e30, rel=0.02)
    assert is_finite_throughout(module, far_rows(largest, 1, torch.float32))


def test_nothing_is_promised_where_small_inputs_overflow():
    module = nn.Sequential(linear([[3e38]], [3e38]))
    assert largest_input(read_network(module)) == 0


def test_weights_that_overflow_in_the_search_itself():
    layers = [linear([[1e200]], dtype=torch.float64) for _ in range(2)]
    module = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    largest = largest_input(read_network(module))
    assert 0 < largest < 1e-92
    assert is_finite_throughout(module, far_rows(largest, 1, torch.float64))


def test_an_activation_that_grows_faster_than_its_input():
    class Square(nn.Module):
        def forward(self, z):
            return z.square()

    register_relaxation(Square, torch.square, curvature=2.0, turning=0.0)
    try:
        module = nn.Sequential(linear([[1.0]]), Square(), linear([[1.0]]))
        largest = largest_input(read_network(module))
    finally:
        unregister_relaxation(Square)
    assert 1e17 < largest < 2e19
    assert is_finite_throughout(module, far_rows(largest, 1, torch.float32))


def test_batch_norm_counts():
    norm = nn.BatchNorm1d(2).eval()
    norm.running_var.copy_(torch.tensor([1e-8, 1.0]))
    norm.eps = 0.0
    module = nn.Sequential(linear(np.eye(2)), norm, linear([[1.0, 1.0]]))
    most = torch.finfo(torch.float32).max / 2
    largest = largest_input(read_network(module))
    assert largest == pytest.approx(most / 1e4, rel=0.02)


def test_scalers_change_the_unit():
    scale = InputMap.linear(np.diag([1e5, -2.0]), [0.0, 3e30], [3e30, 3e30])
    module = nn.Sequential(linear([[1.0, 1.0]]))
    largest = largest_input_of(module, scale)
    assert largest == pytest.approx(largest_input_of(module) / 1e5, rel=0.02)
    ends = largest * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])
    scaled = ends @ scale.gain.T + scale.offset
    assert np.abs(scaled).max() <= largest_input_of(module)
    far = InputMap.scaling([1e-300], [0.0])
    assert largest_input_of(nn.Sequential(linear([[1.0]])), far) == 1e300


# Certificates


def test_a_certificate_states_the_largest_input():
    module = nn.Sequential(linear([[5.0]]), nn.ReLU(), linear([[1.0]]))
    certificate = certify_module(module, All(1))
    assert certificate.status_ == "verified"
    assert certificate.largest_input_ == largest_input_of(module)
    words = f"{certificate.largest_input_:.3g}"
    assert f"All(1 features) up to a size of {words}" in repr(certificate)
    assert words in certificate.to_html()
    assert any(words in assumption for assumption in certificate.assumptions_)


def test_nothing_is_proved_beyond_it():
    module = nn.Sequential(linear([[5.0]]), nn.ReLU(), linear([[1.0]]))
    near, far = certify_module(module, Box([-1e37], [1e37])), Box([-1e38], [1e38])
    assert near.status_ == "verified"
    found = certify_module(module, far)
    assert found.status_ == "unknown"
    assert found.proved_min_[0] == -np.inf
    balls = certify_module(module, Ball([[0.0], [1e38], [1.0]], 0.5))
    assert balls.rows_.tolist() == ["verified", "unknown", "verified"]


def test_what_holds_everywhere_is_not_attacked(monkeypatch):
    module = nn.Sequential(linear([[5.0]]), nn.ReLU(), linear([[1.0]]))
    tried = []
    monkeypatch.setattr(
        proof_methods, "attack", lambda *args, **kwargs: tried.append(args)
    )
    certificate = certify_module(module, All(1))
    assert certificate
    assert certificate.attained_min_ == 0
    assert not tried


def test_an_output_activation_hands_on_the_limit_of_its_module():
    bounds = Bounds.read(0.0, None, n_outputs=1)
    inner = nn.Sequential(linear([[5.0]]))
    output = BoundedOutput(inner, "softplus", bounds)
    assert largest_input_of(output) == largest_input_of(inner)
    certificate = certify_module(output, All(1))
    assert certificate
    assert certificate.largest_input_ == largest_input_of(inner)

    class Unknown(nn.Sequential):
        pass

    unknown = BoundedOutput(Unknown(linear([[5.0]])), "softplus", bounds)
    certificate = certify_module(unknown, Box([-1.0], [1.0]))
    assert certificate
    assert certificate.largest_input_ == np.inf
    assert certificate.assumptions_ == ("no overflow",)
