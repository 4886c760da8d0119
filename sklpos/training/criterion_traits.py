"""What a criterion asks for: of the targets, and of the mean.

A criterion may declare two things, as those of `sklpos.criteria` do: ``elicits``, what
its minimiser is of the targets (``"mean"``, ``"median"``, ``"quantile"``), and
``targets = "raw"`` if it needs targets in their own unit, at least 0.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sklpos.nets.modules import uncompiled
from sklpos.training.criterion import FunctionLoss, name_of

_AIM_AT_MEAN = {
    nn.MSELoss,
    nn.BCELoss,
    nn.PoissonNLLLoss,
    functional.mse_loss,
    functional.binary_cross_entropy,
    functional.poisson_nll_loss,
}
_SQUARED_ERRORS = {nn.MSELoss, functional.mse_loss}
# Standardised targets and predictions are of such a size.
_TYPICAL = torch.linspace(-4, 4, 9, dtype=torch.float64)


def aims_at_mean(criterion: nn.Module) -> bool:
    """Whether the mean target is the best constant prediction.

    Parameters
    ----------
    criterion : nn.Module
        Made by `make_criterion`.

    Returns
    -------
    bool
    """
    aim = _declared(criterion, "elicits")
    return _kind(criterion) in _AIM_AT_MEAN if aim is None else aim == "mean"


def is_squared_error(criterion: nn.Module) -> bool:
    """Whether the loss is the squared difference.

    Parameters
    ----------
    criterion : nn.Module
        Made by `make_criterion`.

    Returns
    -------
    bool
    """
    return _kind(criterion) in _SQUARED_ERRORS


def declares_raw_targets(criterion: nn.Module) -> bool:
    """Whether the criterion says that it needs targets in their own unit.

    Parameters
    ----------
    criterion : nn.Module
        Made by `make_criterion`.

    Returns
    -------
    bool
    """
    return _declared(criterion, "targets") == "raw"


@torch.no_grad()
def takes_standardised(criterion: nn.Module, n_outputs: int) -> bool:
    """Whether losses are finite for numbers of both signs.

    Parameters
    ----------
    criterion : nn.Module
        Made by `make_criterion`.
    n_outputs : int

    Returns
    -------
    bool
    """
    pairs = torch.cartesian_prod(_TYPICAL, _TYPICAL)
    y_pred, y_true = (column[:, None].repeat(1, n_outputs) for column in pairs.T)
    return all_finite(criterion, y_pred, y_true)


def check_call(criterion: nn.Module, n_outputs: int) -> None:
    """Raise ValueError unless there is one loss per row and output, with a gradient.

    Parameters
    ----------
    criterion : nn.Module
        Made by `make_criterion`.
    n_outputs : int

    Raises
    ------
    ValueError
    """
    # 0.5 is in the range of every loss; two rows differ in shape from one output.
    y = torch.full((2, n_outputs), 0.5, dtype=torch.float64)
    try:
        losses = copy.deepcopy(criterion).double()(y.clone().requires_grad_(), y)
    except Exception as error:
        raise ValueError(
            f"criterion={name_of(criterion)} must map predictions and targets of shape "
            f"(n_samples, {n_outputs}) to losses; it failed: {error}"
        ) from error
    shape = tuple(getattr(losses, "shape", ()))
    if shape != y.shape:
        raise ValueError(
            f"criterion={name_of(criterion)} must return one loss per row and output, "
            f"of shape (n_samples, {n_outputs}), without a mean over them; for 2 rows "
            f"it returned one of shape {shape}."
        )
    if not getattr(losses, "requires_grad", False):
        raise ValueError(
            f"criterion={name_of(criterion)} must have a gradient in the predictions; "
            "compute it by functions of torch, without detach() and numpy."
        )


@torch.no_grad()
def all_finite(criterion: nn.Module, y_pred: Tensor, y_true: Tensor) -> bool:
    """Whether all losses are finite numbers.

    Parameters
    ----------
    criterion : nn.Module
    y_pred, y_true : torch.Tensor of shape (n_samples, n_outputs)
        float64.

    Returns
    -------
    bool
        False if the criterion refuses the numbers.
    """
    try:
        losses = copy.deepcopy(criterion).cpu().double()(y_pred, y_true)
    except (RuntimeError, ValueError):
        # Some of torch's refuse numbers out of range, such as BCELoss.
        return False
    return bool(torch.as_tensor(losses).isfinite().all())


def _kind(criterion: nn.Module) -> Any:
    owner = _owner(criterion)
    # An exact type, as a subclass may compute something else.
    return type(owner) if isinstance(owner, nn.Module) else owner


def _declared(criterion: nn.Module, name: str) -> str | None:
    return getattr(_owner(criterion), name, None)


def _owner(criterion: nn.Module) -> Any:
    """What may declare something: a criterion, or the function that it calls."""
    owner = uncompiled(criterion)
    if isinstance(owner, FunctionLoss):
        owner = owner.function
    while isinstance(owner, partial):
        owner = owner.func
    return owner
