"""The members of a `Stack`: weighed against each other, and folded into one net."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, minimize
from torch import Tensor, nn

from sklpos.nets.copies import copy_module
from sklpos.nets.stack import Stack

# Errors that some kind makes count less beyond this many standard deviations of y.
_REACH = 3.0
# A gain of the loss at which the search for shares ends; they are rough with scipy's
# default of 1e-6.
_TOLERANCE = 1e-14


def convex_shares(
    predictions: Tensor,
    y: Tensor,
    weight: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    n_tied: int = 1,
) -> Tensor:
    """Shares of several predictions for which the loss of their mix is smallest.

    Rows that a prediction misses by more than 3 standard deviations count less.

    Parameters
    ----------
    predictions : torch.Tensor of shape (n_samples, n_kinds, n_outputs)
        float64.
    y : torch.Tensor of shape (n_samples, n_outputs)
    weight : torch.Tensor of shape (n_samples, 1)
        Positive.
    loss : callable
        Maps predictions and targets of shape (n_samples, n_outputs) to losses of the
        same shape, differentiably.
    n_tied : int, default=1
        Outputs in a group of consecutive ones that have the same shares.

    Returns
    -------
    torch.Tensor of shape (n_outputs, n_kinds)
        At least 0; the sum of each row is 1.

    Examples
    --------
    >>> y = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> loss = nn.MSELoss(reduction="none")
    >>> predictions = torch.stack([y, 2 - y], dim=1)
    >>> convex_shares(predictions, y, torch.ones_like(y), loss).round(decimals=6).abs()
    tensor([[1., 0.]], dtype=torch.float64)
    """
    pull = _pull(predictions, y, weight)
    shape = predictions.shape[2] // n_tied, predictions.shape[1]
    by_kind = predictions.transpose(0, 1).contiguous()

    def objective(flat: NDArray) -> tuple[float, NDArray]:
        shares = torch.as_tensor(flat).view(shape).requires_grad_()
        with torch.enable_grad():
            own = shares.repeat_interleave(n_tied, dim=0)
            mixed = (by_kind * own.T[:, None]).sum(0)
            total = (pull * loss(mixed, y)).sum()
        (slope,) = torch.autograd.grad(total, shares)
        return float(total.detach()), slope.ravel().numpy()

    equal = np.full(shape, 1 / shape[1])
    sums = np.kron(np.eye(shape[0]), np.ones(shape[1]))
    found = minimize(
        objective,
        equal.ravel(),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * equal.size,
        constraints=LinearConstraint(sums, 1.0, 1.0),
        options={"ftol": _TOLERANCE, "maxiter": 1000},
    )
    # The predictions of a fit that diverges may be too large to compare.
    shares = found.x.reshape(shape).clip(min=0)
    if not np.isfinite(shares).all():
        shares = equal
    shares = shares / shares.sum(1, keepdims=True)
    return torch.as_tensor(shares).repeat_interleave(n_tied, dim=0)


def _pull(predictions: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Weights of the rows in the choice of shares, with sum 1 per output."""
    weight = weight / weight.sum()
    spread = (weight * (y - (weight * y).sum(0)) ** 2).sum(0).sqrt()
    missed = (predictions - y[:, None]).abs().amax(1)
    # A constant has no deviation, and then nothing is far away.
    reach = torch.where(spread > 0, _REACH * spread, torch.inf)
    pull = weight * (reach / torch.maximum(missed, reach)).nan_to_num(1.0) ** 2
    return pull / pull.sum(0)


@torch.no_grad()
def plain_net(stack: Stack) -> nn.Sequential:
    """Fold the members and their shares into one net that computes their mix.

    Parameters
    ----------
    stack : Stack
        Not changed.

    Returns
    -------
    nn.Sequential
        Of ``nn.Linear``, ``nn.Hardtanh`` and ``nn.ReLU``; the last layer is ``head``.

    Examples
    --------
    >>> plain_net(Stack(1, 1, X=[[0.0], [1.0]], width=2, n_folds=1)).head
    Linear(in_features=6, out_features=1, bias=True)
    """
    # Sums of weights are folded in float64, which some accelerators do not have.
    exact = _in_float64(stack)
    net = nn.Sequential()
    for name, layer in feature_layers(exact).items():
        plain = isinstance(layer, nn.Module)
        net.add_module(name, copy_module(layer, {}) if plain else _linear(*layer))
    net.add_module("head", _linear(*_head(exact)))
    return net.to(stack.lowest)


def _in_float64(module: nn.Module) -> nn.Module:
    """View of a module with its numbers in float64 on the CPU, to be read only."""
    # A deep copy takes as long as an epoch, most of it for the dicts of its hooks.
    twin = object.__new__(type(module))
    vars(twin).update(vars(module))
    for kind in ("_parameters", "_buffers"):
        numbers = vars(module)[kind].items()
        vars(twin)[kind] = {name: _exact(values) for name, values in numbers}
    parts = module.named_children()
    vars(twin)["_modules"] = {name: _in_float64(part) for name, part in parts}
    return twin


def _exact(values: Tensor | None) -> Tensor | None:
    if values is None:
        return None
    return values.cpu().double() if values.is_floating_point() else values.cpu()


def feature_layers(stack: Stack) -> dict[str, nn.Module | tuple[Tensor, Tensor]]:
    """Layers from the inputs to the hidden units of all members.

    Parameters
    ----------
    stack : Stack

    Returns
    -------
    dict
        Name -> activation, or weight and bias of a linear layer, differentiable in the
        weights of the members.
    """
    layers = {"hidden": _hidden_layer(stack), "activation": stack.activation}
    if not any(len(encoding) for encoding in stack.encodings):
        return layers
    return {"code": _code_layer(stack), "clip": nn.Hardtanh(0, 1), **layers}


def member_heads(stack: Stack) -> tuple[Tensor, Tensor]:
    """Heads of all members as one linear layer over all hidden units.

    Parameters
    ----------
    stack : Stack

    Returns
    -------
    weight : torch.Tensor of shape (n_members * n_outputs, n_members * width)
    bias : torch.Tensor of shape (n_members * n_outputs,)
    """
    heads = [kind.head.effective() for kind in stack.kinds]
    blocks = [
        block
        for weight, _ in heads
        for block in weight.unflatten(0, (stack.n_folds, stack.n_outputs))
    ]
    return torch.block_diag(*blocks), torch.cat([bias for _, bias in heads])


# With intervals, the first units of the net are the distances of each standardised
# feature above and below its lowest value. One of the two is 0, so their difference
# passes the feature on exactly; that they are clipped is felt only farther out than
# 1e12 deviations. A power of two, which rounds nothing.
_FAR = 2.0**40


def _code_layer(stack: Stack) -> tuple[Tensor, Tensor]:
    gain = stack.gain / _FAR
    features = torch.arange(len(gain), device=gain.device)
    codes = stack.encodings
    column = torch.cat([features, features, *(code.column for code in codes)])
    slope = torch.cat([gain, -gain, *(code.slope for code in codes)])
    weight = gain.new_zeros(len(column), len(gain))
    weight.scatter_(1, column[:, None], slope[:, None])
    offset = -gain * stack.lowest
    return weight, torch.cat([offset, -offset, *(code.offset for code in codes)])


def _hidden_layer(stack: Stack) -> tuple[Tensor, Tensor]:
    sizes = [len(encoding) for encoding in stack.encodings]
    weights, biases = [], []
    for kind, source in zip(stack.kinds, stack.sources, strict=True):
        code, weight = stack.encodings[source], kind.hidden.weight
        seen, on_code = weight.split([len(code.passed), len(code)], dim=1)
        on_x = seen.new_zeros(len(seen), len(stack.gain))
        on_x = on_x.index_copy(1, code.passed, seen)
        bias = kind.hidden.bias - on_code @ code.centre
        if any(sizes):
            biases.append(bias + on_x @ stack.standardised(stack.lowest))
            parts = [on_code.new_zeros(len(on_code), size) for size in sizes]
            parts[source] = on_code * code.height
            weights.append(torch.cat([_FAR * on_x, -_FAR * on_x, *parts], dim=1))
        else:
            biases.append(bias - on_x @ (stack.gain * stack.centre))
            weights.append(on_x * stack.gain)
    return torch.cat(weights), torch.cat(biases)


def _head(stack: Stack) -> tuple[Tensor, Tensor]:
    """The mix of all heads."""
    weight, bias = member_heads(stack)
    # Mixed like outputs: a row per hidden unit.
    return stack.mix(weight.T).T, stack.mix(bias[None])[0]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    # Elsewhere, the constructor would draw from torch's global generator. This is also
    # more than twice as fast as `skip_init`, which reads the signature.
    linear = nn.Linear(*weight.shape[::-1], device="meta")
    linear.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format))
    linear.bias = nn.Parameter(bias.clone())
    return linear
