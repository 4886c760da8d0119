"""Where and in which precision to compute."""

from __future__ import annotations

import numpy as np
import torch

from sklpos.nets.arrays import UNREADABLE, check_range
from sklpos.nets.hints import shown

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16-mixed": torch.float32,
}


def check_device(device) -> torch.device:
    """Validate a device; ``"auto"`` is an accelerator if there is one, else the CPU.

    Parameters
    ----------
    device : str or torch.device

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If the device cannot be used on this machine.
    """
    if isinstance(device, str) and device == "auto":
        usable = {
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
        }
        return torch.device(next((name for name, ok in usable.items() if ok), "cpu"))
    try:
        made = torch.device(device)
        # The name of a device that is missing is accepted; a tensor on it is not.
        torch.empty(1, device=made).cpu()
    except (*UNREADABLE, RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={shown(device)} cannot be used on this machine; choose 'cpu', "
            "'auto' or an accelerator that torch finds."
        ) from error
    return made


def check_dtype(dtype, X: np.ndarray, device: torch.device) -> torch.dtype:
    """Choose the dtype to compute in, and check that it can hold X.

    Parameters
    ----------
    dtype : {"auto", "float32", "float64", "bfloat16-mixed"}
        ``"auto"`` is the dtype of X on the CPU, and float32 on an accelerator; the
        weights of mixed precision are in float32.
    X : ndarray
    device : torch.device

    Returns
    -------
    torch.dtype
        That of the weights.
    """
    if dtype == "auto":
        # Accelerators are slow in float64, and MPS does not have it.
        on_cpu = device.type == "cpu"
        dtype = "float64" if on_cpu and X.dtype == np.float64 else "float32"
    check_range(X, _DTYPES[dtype])
    return _DTYPES[dtype]
