"""The criterion, made from a class, an instance or a function."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from sklpos.nets.hints import shown
from sklpos.training.randomness import borrowed_generator

# What these take is not a prediction in the unit of y, so no bound applies to it.
_LINKS = {
    nn.BCEWithLogitsLoss: "the logit; pass criterion=torch.nn.BCELoss instead",
    nn.PoissonNLLLoss: (
        "the logarithm, by log_input=True; pass criterion__log_input=False, or "
        "criterion=sklpos.criteria.PoissonDeviance"
    ),
}


class FunctionLoss(nn.Module):
    """Criterion that calls a function of predictions and targets.

    Parameters
    ----------
    function : callable
        Maps predictions and targets of shape (n_samples, n_outputs) to losses of the
        same shape.
    **params : object
        Further arguments of the function.

    Examples
    --------
    >>> import torch
    >>> from torch.nn import functional
    >>> loss = FunctionLoss(functional.huber_loss, reduction="none", delta=0.5)
    >>> loss(torch.tensor([[2.0]]), torch.tensor([[0.0]]))
    tensor([[0.8750]])
    """

    def __init__(self, function: Callable[..., Tensor], **params: Any):
        super().__init__()
        self.function = function
        self.params = params

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:  # noqa: D102
        return self.function(y_pred, y_true, **self.params)


def make_criterion(
    criterion: Any, params: dict[str, Any], *, seed: int = 0
) -> nn.Module:
    """Make a criterion without a reduction; torch's global generator stays as it is.

    Parameters
    ----------
    criterion : type, callable or nn.Module
        A class or another callable that returns a criterion, a function of predictions
        and targets, or an instance, which is copied.
    params : dict
        Parameters of a class or function.
    seed : int, default=0
        Determines what a class draws, such as weights of its own.

    Returns
    -------
    nn.Module

    Raises
    ------
    TypeError, ValueError
        If it does not accept its parameters, or predicts something other than y.
    """
    reduction = params.get("reduction", "none")
    # An array would be compared number by number.
    if not isinstance(reduction, str) or reduction != "none":
        raise ValueError(
            f"criterion__reduction={shown(reduction)} must be 'none', because rows are "
            "weighted after the criterion; leave it out."
        )
    with borrowed_generator(seed):
        loss = _made(criterion, params)
    # Only where the class has no such parameter, or an instance averages.
    if getattr(loss, "reduction", "none") != "none":
        loss.reduction = "none"
    link = _LINKS.get(type(loss))
    if link is not None and getattr(loss, "log_input", True):
        raise ValueError(
            f"criterion={name_of(criterion)} makes the net predict not y, but {link}."
        )
    return loss


def _made(criterion: Any, params: dict[str, Any]) -> nn.Module:
    if isinstance(criterion, nn.Module):
        given = params.keys() - {"reduction"}
        if given:
            raise ValueError(
                f"criterion__{min(given)} needs criterion to be a class or function, "
                f"not the instance {criterion!r}."
            )
        return copy.deepcopy(criterion)
    signature = _signature(criterion)
    if "reduction" in signature.parameters:
        params = {"reduction": "none", **params}
    else:
        params = {k: v for k, v in params.items() if k != "reduction"}
    if not isinstance(criterion, type) and _takes_two(signature, params):
        return FunctionLoss(criterion, **params)
    try:
        made = criterion(**params)
    except TypeError as error:
        raise TypeError(
            f"criterion={name_of(criterion)} must accept its parameters: {error}"
        ) from error
    return made if isinstance(made, nn.Module) else FunctionLoss(made)


def _signature(criterion: Callable) -> inspect.Signature:
    try:
        return inspect.signature(criterion)
    except ValueError:
        # That of a function in C is not known, but the functions of torch are losses.
        return inspect.signature(lambda y_pred, y_true: None)


def _takes_two(signature: inspect.Signature, given: dict[str, Any]) -> bool:
    """Whether predictions and targets are missing, which makes a function a loss."""
    by_position = {
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    }
    required = [
        parameter
        for name, parameter in signature.parameters.items()
        if name not in given
        and parameter.kind in by_position
        and parameter.default is parameter.empty
    ]
    return len(required) >= 2


def name_of(criterion: Any) -> str:
    """Name of a criterion in messages.

    Parameters
    ----------
    criterion : type, callable or nn.Module

    Returns
    -------
    str
    """
    if isinstance(criterion, FunctionLoss):
        return name_of(criterion.function)
    if isinstance(criterion, nn.Module):
        return type(criterion).__name__
    return getattr(criterion, "__name__", repr(criterion))
