"""Small modules, rows for them, and what a repair must fulfil."""

import copy

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

BATCHES = (1, 2, 7, 64, 1000, 5000)


def make_module(n_outputs=1, dtype=torch.float32, seed=0, bias=True) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, n_outputs, bias=bias)
        ).to(dtype)


def make_rows(n=500, dtype=torch.float32, seed=0) -> torch.Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)).to(dtype)


def make_targets(X: torch.Tensor, n_outputs=1) -> torch.Tensor:
    slope = torch.linspace(-1, 1, 4 * n_outputs).reshape(4, n_outputs).to(X)
    return (X @ slope).relu() + 0.1


def loader_of(*tensors, batch_size=37, **how) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(*tensors), batch_size, generator=generator, **how)


@torch.no_grad()
def predictions(module, X, batch):
    return torch.cat([module(part) for part in X.split(batch)]).double().numpy()


def assert_holds(module, X, bound=0.0, upper=np.inf):
    """Hold in batches of any size, and in any order."""
    module = copy.deepcopy(module).eval()
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(1))
    for batch in BATCHES:
        if batch > 1 or len(X) <= 1000:
            for rows in (X, X[order]):
                values = predictions(module, rows, batch)
                assert (values >= bound).all()
                assert (values <= upper).all()
