"""Parameters of the parts of the net: names that their callables take, and values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from sklpos.estimator.names import without_prefix
from sklpos.estimator.values import optimizer_class
from sklpos.nets.hints import did_you_mean, keywords_of, shortened, shown
from sklpos.nets.placement import check_device
from sklpos.training.fast import is_fused, step_optimizer
from sklpos.training.randomness import borrowed_generator
from sklpos.training.rows import RowDataset

# skorch takes these out before it makes an optimizer.
_OF_SKORCH = {"optimizer": ("param_groups",), "criterion": ("reduction",)}
# What the net itself passes.
_PASSED = ("params", "dataset", "model", "X", "y", "weight", "factor")


def check_keywords(given: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse parameters that a part of the net does not take.

    Those of the module and of the loaders are checked when these are made, and those of
    the callbacks when the net knows them.

    Parameters
    ----------
    given : mapping of str to object
        Parameters of the net, with their prefixes.
    own : mapping of str to object
        Parameters of the estimator.

    Raises
    ------
    TypeError
        If a name is unknown; the message has the nearest one.
    ValueError
        If a value is refused by the optimizer, or given twice.
    """
    parts = {
        "optimizer": optimizer_class(own["optimizer"]),
        "criterion": own["criterion"],
        "dataset": RowDataset,
        "compile": torch.compile,
    }
    params = {prefix: without_prefix(given, prefix) for prefix in parts}
    for prefix, part in parts.items():
        # One that is an instance has its parameters already.
        if params[prefix] and not isinstance(part, nn.Module):
            _check_names(prefix, part, params[prefix])
    if "lr" in params["optimizer"] and own["lr"] != "auto":
        raise ValueError(
            f"lr={own['lr']} and optimizer__lr are the same thing; pass only one."
        )
    if params["criterion"] and isinstance(parts["criterion"], type):
        _rehearse("criterion", parts["criterion"], params["criterion"], _error_of_call)
    # A step takes longer than all other checks.
    if params["optimizer"] or parts["optimizer"] is not torch.optim.AdamW:
        steps = partial(_error_of_steps, device=_usable(own["device"]))
        _rehearse_optimizer(parts["optimizer"], params["optimizer"], steps)


def _check_names(prefix: str, part: Callable, params: Mapping[str, Any]) -> None:
    keywords = keywords_of(part)
    if keywords is None:
        return
    known = [name for name in keywords if name not in _PASSED]
    for name in params:
        if name not in known and name not in _OF_SKORCH.get(prefix, ()):
            listed = shortened(f"; it has {', '.join(known)}." if known else ".", 120)
            raise TypeError(
                f"{prefix}__{shortened(name)}: {shown(part)} has no parameter "
                f"{shown(name)}{did_you_mean(name, known) or listed}"
            )


def _rehearse_optimizer(
    optimizer: Callable, params: dict[str, Any], error_of: Callable
) -> None:
    groups = params.pop("param_groups", [])
    try:
        pairs = [(str(pattern), dict(group)) for pattern, group in groups]
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"optimizer__param_groups={shown(groups)} must be a list of pairs "
            "(pattern, parameters), such as [('*bias', {'weight_decay': 0.0})]."
        ) from None
    for group in ({}, *(group for _, group in pairs)):
        _rehearse("optimizer", optimizer, {**params, **group}, error_of)


def _rehearse(
    prefix: str, part: Callable, params: Mapping[str, Any], error_of: Callable
) -> None:
    """Refuse values that a part of the net does not take, and name the first one."""
    error = error_of(part, params)
    if error is None:
        return
    said = shortened(str(error).partition("\n")[0], 120)
    for name, value in params.items():
        if error_of(part, {name: value}) is not None:
            default = (keywords_of(part) or {}).get(name)
            # torch's own words begin so; others come from within a computation.
            if default is not None and not said.startswith("Invalid"):
                said = f"the default is {default.default!r}"
            raise ValueError(
                f"{prefix}__{name}={shown(value)} is not valid for {shown(part)}: "
                f"{said.rstrip('.')}."
            ) from error
    raise ValueError(
        f"{prefix}={shown(part)} cannot be used: {said.rstrip('.')}."
    ) from error


def _error_of_call(part: Callable, params: Mapping[str, Any]) -> Exception | None:
    try:
        with borrowed_generator(0):
            part(**params)
    # What torch raises depends on the parameter: names, ranges, types, unpacking.
    except Exception as error:
        return error
    return None


def _usable(device: Any) -> torch.device:
    """A device to try something on; a wrong one is for the net to refuse."""
    try:
        return check_device(device)
    except ValueError:
        # A stored model may go on where its device is missing.
        return torch.device("cpu")


def _error_of_steps(
    optimizer: Callable, params: Mapping[str, Any], device: torch.device
) -> Exception | None:
    """Make steps on two weights, as a bad value may show in a step only."""
    weights = [nn.Parameter(torch.zeros(n, device=device)) for n in ((1, 1), (1,))]
    params = {"lr": 1e-3, **params}
    if is_fused(optimizer, device, params):
        params["fused"] = True

    def closure():
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        return torch.zeros(())

    def steps(**params):
        made = optimizer(weights, **params)
        if not isinstance(made, torch.optim.Optimizer):
            raise TypeError(f"it returns {shown(made)}, not an Optimizer")
        # The second one calls the kernel itself.
        for _ in range(2):
            step_optimizer(made, closure)
        if not all(weight.isfinite().all() for weight in weights):
            raise ValueError("a step leads to weights that are not finite")

    return _error_of_call(steps, params)
