"""What the attributes of a stored net must be like."""

from __future__ import annotations

import copy
from typing import Any, Literal

from skorch.callbacks import Callback
from skorch.history import History
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from sklpos.nets.units import TargetScale
from sklpos.strategies.domain import DomainConstraint
from sklpos.strategies.term import StrategyConstraint
from sklpos.training.forms import check_kind
from sklpos.training.loaders import BatchLoader
from sklpos.training.names import is_known
from sklpos.training.schema import brief, check_history, check_value

#: Attributes of every net.
_ALWAYS = {
    "initialized_": bool,
    "alpha": float,
    "targets": TargetScale,
    "head": str | None,
    "seed": int,
    "stochastic": bool,
    "autocast": Literal["bfloat16"] | None,
    "cuda_graph": bool,
    "lr": float,
    "max_epochs": int,
    "batch_size": int,
    "device": str,
    "compile": bool,
    "verbose": int,
    "warm_start": bool,
    "callbacks": list,
    "prefixes_": list,
    "cuda_dependent_attributes_": list,
    "_modules": list,
    "_criteria": list,
    "_optimizers": list,
    "_params_to_validate": set,
}
#: Attributes of a net that is initialised.
_INITIALISED = {
    "module_": nn.Module,
    "criterion_": nn.Module,
    "constraint_": StrategyConstraint,
    "domain_constraint_": DomainConstraint | None,
    "constraint_best_": dict,
    "optimizer_": dict,
    "history_": History,
    "callbacks_": list,
}
#: Classes that are made, or whose code runs, when the net trains further.
_CLASSES = {
    "optimizer": (Optimizer,),
    "dataset": (Dataset,),
    "iterator_train": (DataLoader, BatchLoader),
    "iterator_valid": (DataLoader, BatchLoader),
}


def check_net(state: dict[str, Any]) -> None:
    """Check the attributes of a net before they are set.

    Parameters
    ----------
    state : dict
        Attributes of a `ConstrainedNet`, unpacked.

    Raises
    ------
    ValueError
    """
    _check_types(state, _ALWAYS)
    for name, kinds in _CLASSES.items():
        kind = state.get(name)
        # A function was trusted by whoever loads the file.
        if not callable(kind) or (
            isinstance(kind, type) and not issubclass(kind, kinds)
        ):
            raise ValueError(f"{name!r} is {brief(kind)}, not a class of that kind.")
    if not state["initialized_"]:
        return
    _check_types(state, _INITIALISED)
    for item in state["callbacks_"]:
        check_value("callbacks_", item, tuple[str, Callback])
        _check_callback(item[1])
    check_history(state["history_"])
    if [*state["_criteria"], *state["_optimizers"]] != ["criterion", "optimizer"]:
        raise ValueError("the net has one criterion and one optimizer.")
    for name in state["_modules"]:
        check_value(f"{name}_", state.get(f"{name}_"), nn.Module | None)
    # The loop takes a loss of each row and output.
    reduction = getattr(state["criterion_"], "reduction", "none")
    if reduction != "none":
        raise ValueError(f"'reduction' of the criterion is {brief(reduction)}.")


def _check_callback(callback: Callback) -> None:
    """Check the state of a callback that a file may have made by itself."""
    if not is_known(type(callback)):
        return
    fresh = copy.copy(callback).initialize()
    for name, value in vars(fresh).items():
        if name not in vars(callback):
            raise ValueError(f"{name!r} of {type(callback).__name__} is missing.")
        if isinstance(value, (float, list)):
            check_kind(vars(callback)[name], value, name)


def _check_types(state: dict[str, Any], types: dict[str, Any]) -> None:
    for name, hint in types.items():
        if name not in state:
            raise ValueError(f"{name!r} is missing.")
        check_value(name, state[name], hint)
