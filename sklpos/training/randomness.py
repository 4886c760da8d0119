"""Random numbers without a trace: seeded inside, the global generators untouched."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

# A process has one global generator, so only one thread may borrow it at a time.
_LOCK = threading.RLock()


def draw_seed(random_state) -> int:
    """Draw a seed; None takes fresh entropy and leaves numpy's global state alone.

    Parameters
    ----------
    random_state : None, int or numpy.random.RandomState

    Returns
    -------
    int
        Below 2**31.
    """
    if random_state is None:
        return derive_seed(np.random.SeedSequence().entropy) % 2**31
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    return int(random_state)


def derive_seed(seed: int, *key: int) -> int:
    """Derive an independent 63-bit seed for a purpose, such as (epoch, batch).

    Parameters
    ----------
    seed : int
        Non-negative.
    *key : int
        Non-negative numbers that name the purpose.

    Returns
    -------
    int
    """
    sequence = np.random.SeedSequence(seed, spawn_key=key)
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def make_generator(seed: int, *key: int) -> torch.Generator:
    """Make a new generator on the CPU, seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *key))


@contextmanager
def borrowed_generator(seed: int, device="cpu") -> Iterator[None]:
    """Seed torch's global generators inside the context, restore them after it.

    Parameters
    ----------
    seed : int
    device : str or torch.device, default="cpu"
        The CPU's generator is always borrowed; a CUDA device's in addition.
    """
    with _LOCK:
        generators = [torch.default_generator]
        if torch.device(device).type == "cuda":
            index = torch.device(device).index or 0
            generators.append(torch.cuda.default_generators[index])
        states = [generator.get_state() for generator in generators]
        try:
            # Not ``torch.manual_seed``, which seeds the generators of all devices.
            for generator in generators:
                generator.manual_seed(seed)
            yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def draws_random_numbers(module: nn.Module, X: torch.Tensor) -> bool:
    """Whether a forward pass in train mode consumes the global generator (dropout).

    Parameters
    ----------
    module : nn.Module
        On the CPU; a copy of it is run.
    X : torch.Tensor of shape (n_samples, n_features)
        One row or more; they are repeated, because batch norm needs two.

    Returns
    -------
    bool
    """
    # A test run sees random numbers in any kind of layer; a list of layers would not.
    with borrowed_generator(0), torch.no_grad():
        before = torch.get_rng_state()
        copy.deepcopy(module).train()(torch.cat([X, X]))
        return not torch.equal(before, torch.get_rng_state())
