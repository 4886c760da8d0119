"""Random networks, and points to attack what is proved of them."""

import itertools

import numpy as np
import torch
from torch import nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "steep_leaky_relu": lambda: nn.LeakyReLU(1.7),
    "absolute": lambda: nn.LeakyReLU(-1.0),
    "hardtanh": lambda: nn.Hardtanh(0.0, 1.0),
    "hardtanh_wide": lambda: nn.Hardtanh(-2.0, 0.5),
    "relu6": nn.ReLU6,
    "hardsigmoid": nn.Hardsigmoid,
    "elu": nn.ELU,
    "elu_2": lambda: nn.ELU(2.0),
    "elu_negative": lambda: nn.ELU(-0.5),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "softplus_3": lambda: nn.Softplus(beta=3.0),
    "softplus_negative": lambda: nn.Softplus(beta=-1.5),
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
}


def random_network(
    widths, activation="relu", *, seed=0, gain=2.0, dtype=torch.float64
) -> nn.Sequential:
    """A network with weights of the size of trained ones, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=dtype)
        with torch.no_grad():
            linear.weight.normal_(0, gain / fan_in**0.5, generator=generator)
            linear.bias.normal_(0, 1, generator=generator)
        layers += [linear, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1]).eval()


@torch.no_grad()
def outputs(module, X) -> np.ndarray:
    """Predictions in the module's own dtype."""
    weight = next(module.parameters())
    return module(torch.as_tensor(X).to(weight.dtype)).double().numpy()


def grid(low, high, count):
    """All points of a regular grid over a box."""
    axes = [np.linspace(a, b, count) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, len(low))


def descend(module, X, low, high, steps=50):
    """Points reached from X by signed gradients, projected on the box."""
    weight = next(module.parameters())
    low, high = (torch.tensor(end, dtype=weight.dtype) for end in (low, high))
    x = torch.as_tensor(X).to(weight.dtype)
    for step in np.geomspace(0.5, 1e-3, steps):
        x = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(module(x)[:, 0].sum(), x)
        x = (x - step * (high - low) * gradient.sign()).clamp(low, high)
    return x.detach().double().numpy()
