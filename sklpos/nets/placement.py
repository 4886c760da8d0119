"""Where and in which precision to compute."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sklpos.nets.arrays import UNREADABLE, check_range
from sklpos.nets.hints import shown

# Bytes that an accelerator has at least.
_USUAL_ROOM = 2**32
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
        device = next((name for name, ok in usable.items() if ok), "cpu")
    try:
        made = torch.device(device)
        # The name of a device that is missing is accepted; a tensor on it is not.
        torch.empty(1, device=made).cpu()
    except (*UNREADABLE, RuntimeError, AssertionError) as error:
        # Only the message of torch tells this from a missing device.
        if "forked subprocess" in str(error):
            raise ValueError(
                f"device={shown(device)} cannot be used in a process that was forked "
                "after CUDA had started; start processes by 'spawn', as joblib's loky "
                "does, or choose device='cpu'."
            ) from error
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


def sent(values: Tensor, device: str | torch.device) -> Tensor:
    """Move a tensor to a device, if possible without waiting for it.

    Parameters
    ----------
    values : torch.Tensor
    device : str or torch.device

    Returns
    -------
    torch.Tensor
    """
    if torch.device(device).type != "cuda" or not values.is_cpu:
        return values.to(device)
    # Only from pinned memory does a GPU copy while the program goes on.
    return values.pin_memory().to(device, non_blocking=True)


def has_room(device: str | torch.device, n_bytes: int) -> bool:
    """Whether data fit on a device beside what training needs.

    Parameters
    ----------
    device : str or torch.device
    n_bytes : int
        Size of the data.

    Returns
    -------
    bool
    """
    device = torch.device(device)
    # Others do not tell how much of their memory is free.
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _USUAL_ROOM
    return n_bytes <= free / 2


def has_float64(device: str | torch.device) -> bool:
    """Whether a device computes in float64.

    Parameters
    ----------
    device : str or torch.device

    Returns
    -------
    bool
    """
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def fetched(*tensors: Tensor) -> list[Tensor]:
    """Copy tensors to the CPU, all of them in one transfer.

    Each transfer waits until the device has computed everything it was asked for.

    Parameters
    ----------
    *tensors : torch.Tensor
        Those on an accelerator are all on the same one.

    Returns
    -------
    list of torch.Tensor
        Those that were on the CPU already are returned as they are, detached.

    Examples
    --------
    >>> fetched(torch.ones(2), torch.tensor(True))
    [tensor([1., 1.]), tensor(True)]
    """
    here = [values.detach() for values in tensors]
    away = [number for number, values in enumerate(here) if not values.is_cpu]
    if not away:
        return here
    # As bytes, so that numbers of any kind keep all of their digits.
    parts = [here[number].contiguous().view(-1).view(torch.uint8) for number in away]
    together = torch.cat(parts).cpu().split([len(part) for part in parts])
    for number, part in zip(away, together, strict=True):
        # A copy begins where its first number may begin.
        values = part.clone().view(here[number].dtype)
        here[number] = values.view(here[number].shape)
    return here
