"""Random numbers without a trace: seeded inside, the global generators untouched."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import nn

from sklpos.nets.process import at_the_end

# A process has one global generator, so only one thread may borrow it at a time.
_LOCK = threading.RLock()
# The loans that are open, from the first on: all of them of the thread that has the
# lock.
_LOANS: list[_Loan] = []
# Seconds that a fork waits for the end of a loan, which is that of a training step.
_PATIENCE = 10.0


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


def order_of_rows(n_rows: int, seed: int | None, epoch: int) -> torch.Tensor:
    """Row numbers in the order of an epoch.

    Parameters
    ----------
    n_rows : int
    seed : int or None
        None leaves the rows as they are.
    epoch : int

    Returns
    -------
    torch.Tensor of int of shape (n_rows,)
    """
    # Half of what torch needs for an index, which it gets part by part.
    dtype = torch.int32 if n_rows < 2**31 else torch.int64
    if seed is None:
        return torch.arange(n_rows, dtype=dtype)
    generator = make_generator(seed, 0, epoch)
    return torch.randperm(n_rows, generator=generator, dtype=dtype)


@contextmanager
def borrowed_generator(seed: int, device="cpu") -> Iterator[None]:
    """Seed torch's global generators inside the context, restore them after it.

    At the latest, they are restored at the end of the public call, see
    `leaves_no_trace`.

    Parameters
    ----------
    seed : int
    device : str or torch.device, default="cpu"
        The CPU's generator is always borrowed; a CUDA device's in addition.
    """
    generators = [torch.default_generator]
    if torch.device(device).type == "cuda":
        index = torch.device(device).index
        # "cuda" alone is the device that `torch.cuda.set_device` chose.
        index = torch.cuda.current_device() if index is None else index
        generators.append(torch.cuda.default_generators[index])
    loan = _Loan(generators)
    try:
        loan.take()
        # Not ``torch.manual_seed``, which seeds the generators of all devices.
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        loan.give_back()


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


class _Loan:
    """Generators in the hands of a thread, with the states that they go back to."""

    def __init__(self, generators: list[torch.Generator]):
        self.generators = generators
        self.thread = threading.get_ident()

    def take(self) -> None:
        # If Ctrl-C strikes between these lines, the end of the call releases the lock.
        _LOCK.acquire()
        self.states = [generator.get_state() for generator in self.generators]
        _LOANS.append(self)

    def give_back(self) -> None:
        # One that Ctrl-C kept from closing in time was given back by then.
        if self in _LOANS:
            self.restore()
            # Of this thread, and opened within this loan.
            del _LOANS[_LOANS.index(self) :]
            _LOCK.release()

    def restore(self) -> None:
        for generator, state in zip(self.generators, self.states, strict=True):
            generator.set_state(state)


@at_the_end
def give_back_all() -> None:
    """Take back what Ctrl-C kept this thread from giving back."""
    for loan in _LOANS[:1]:
        if loan.thread == threading.get_ident():
            loan.restore()
            _LOANS.clear()
    # A thread that does not have the lock cannot release it.
    with suppress(RuntimeError):
        while True:
            _LOCK.release()


def _wait_for_loan() -> None:
    # A thread that draws holds a lock of torch as well, which no child could release.
    _LOCK.acquire(timeout=_PATIENCE)


def _go_on() -> None:
    # The wait may have been in vain.
    with suppress(RuntimeError):
        _LOCK.release()


def _start_anew() -> None:
    """In a forked child, take back what a thread borrowed that lives in the parent."""
    global _LOCK
    try:
        _LOCK.release()
    except RuntimeError:
        for loan in _LOANS[:1]:
            loan.restore()
        _LOANS.clear()
        _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_wait_for_loan, after_in_parent=_go_on, after_in_child=_start_anew
    )
