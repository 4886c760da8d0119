"""The device of new tensors, which a caller may have chosen for the whole thread."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def tensors_on_cpu() -> AbstractContextManager:
    """Make new tensors on the CPU, unless a call names a device.

    A caller may have chosen another one by ``torch.set_default_device``. Rows and row
    numbers come from numpy, and random numbers from generators of the CPU.

    Returns
    -------
    context manager

    Examples
    --------
    >>> with torch.device("meta"), tensors_on_cpu():
    ...     torch.zeros(1).device
    device(type='cpu')
    """
    # Almost always it is the CPU, and the context slows down each function of torch.
    on_cpu = torch.get_default_device().type == "cpu"
    return nullcontext() if on_cpu else torch.device("cpu")
