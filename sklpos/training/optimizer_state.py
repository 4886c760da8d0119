"""State of an optimizer, checked before it is loaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from sklpos.training.forms import check_form, check_kind, check_names

# Which kernel computes a step.
_KERNELS = ("foreach", "fused")
# An example on the CPU does without them.
_ON_DEVICES = {"capturable", "differentiable", "foreach"}


def check_optimizer_state(optimizer: Optimizer, state: Any) -> None:
    """Check that a ``state_dict`` belongs to an optimizer.

    torch compares the number of weights only, and its fused kernels read and write
    behind the end of tensors that are too short.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Not changed. Of a class outside of torch, only the settings and the containers
        are compared.
    state : object
        What is to be loaded into it.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> weight = torch.ones(2, requires_grad=True)
    >>> optimizer = torch.optim.SGD([weight], momentum=0.9)
    >>> state = optimizer.state_dict()
    >>> state["state"][0] = {"buffer": torch.ones(3)}
    >>> check_optimizer_state(optimizer, state)
    Traceback (most recent call last):
    ...
    ValueError: optimizer[0] has an unknown 'buffer'
    """
    own = optimizer.state_dict()
    check_names(state, own, "optimizer")
    check_kind(state["param_groups"], [], "optimizer")
    if len(state["param_groups"]) != len(own["param_groups"]):
        raise ValueError("optimizer has another number of parameter groups")
    for live, loaded in zip(own["param_groups"], state["param_groups"], strict=True):
        _check_settings(loaded, live)
    _check_values(optimizer, state["state"])


def _check_values(optimizer: Optimizer, state: Any) -> None:
    groups = enumerate(optimizer.param_groups)
    pairs = [(weight, number) for number, group in groups for weight in group["params"]]
    check_kind(state, {}, "optimizer")
    check_names(state, state.keys() & range(len(pairs)), "optimizer")
    # LBFGS keeps lists, and all of them for the first weight.
    usual = type(optimizer).__module__.startswith("torch.optim.")
    usual = usual and not isinstance(optimizer, LBFGS)
    examples = _example_states(optimizer) if usual and state else {}
    for number, values in state.items():
        check_kind(values, {}, f"optimizer[{number}]")
        if values and usual:
            weight, group = pairs[number]
            example = examples[group, weight.ndim, weight.dtype]
            check_names(values, example, f"optimizer[{number}]")
            for name, value in values.items():
                where = f"optimizer[{number}][{name!r}]"
                _check_value(where, value, example[name], weight)


def _check_settings(loaded: Any, live: dict[str, Any]) -> None:
    check_kind(loaded, {}, "optimizer")
    # What is off may be missing: other versions of torch have other settings.
    off = {name for name, own in live.items() if own is None or own is False}
    check_names(loaded, (live.keys() - off) | loaded.keys(), "optimizer")
    for name, value in loaded.items():
        if name in _KERNELS and isinstance(value, bool | None):
            continue
        # Schedules add numbers of their own, such as ``initial_lr``.
        check_form(value, live.get(name, 0.0), f"optimizer[{name!r}]", settings=True)
        # It alone differs from itself.
        if isinstance(value, float) and value != value:
            raise ValueError(f"optimizer[{name!r}] is NaN")
    if loaded["params"] != live["params"]:
        raise ValueError("optimizer lists other weights")


def _check_value(where: str, value: Any, example: Any, weight: Tensor) -> None:
    if not (isinstance(value, Tensor) and isinstance(example, Tensor)):
        # A count is a tensor in some versions of torch, and a number in others.
        check_kind(*map(_as_number, (value, example)), where)
        return
    # Of a factored average, the entries along each side.
    each = example.ndim > 0 and example.numel() == 2**weight.ndim
    if each:
        check_kind(value, weight, where)
    elif example.ndim == 0 and value.numel() != 1:
        raise ValueError(f"{where} is of shape {tuple(value.shape)}, not ()")
    if not value.is_floating_point() or torch.isnan(value).any():
        raise ValueError(f"{where} holds NaN, or is not floating-point")


def _as_number(value: Any) -> Any:
    single = isinstance(value, Tensor) and value.numel() == 1
    return 0.0 if single else value


def _example_states(optimizer: Optimizer) -> dict[tuple, dict[str, Any]]:
    """States after a step, by the group, the dimensions and the dtype of a weight.

    The weights have two entries along each of their dimensions.
    """
    groups = enumerate(optimizer.param_groups)
    kinds = {(n, w.ndim, w.dtype) for n, group in groups for w in group["params"]}
    weights = {kind: _example_weight(*kind[1:]) for kind in kinds}
    twin = type(optimizer)([{"params": [weight]} for weight in weights.values()])
    for example, (number, *_) in zip(twin.param_groups, weights, strict=True):
        own = optimizer.param_groups[number]
        example.update({k: v for k, v in own.items() if k not in ("params", "fused")})
        example.update(dict.fromkeys(own.keys() & _ON_DEVICES, False))
    # All at once, as a step costs much more than a weight.
    twin.step()
    return {kind: twin.state[weight] for kind, weight in weights.items()}


def _example_weight(ndim: int, dtype: torch.dtype) -> Tensor:
    weight = torch.zeros((2,) * ndim, dtype=dtype, requires_grad=True)
    weight.grad = torch.zeros_like(weight)
    return weight
