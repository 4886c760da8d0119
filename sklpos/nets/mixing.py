"""The members of a `Stack`: weighed against each other, and folded into one net."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor, nn

from sklpos.nets.stack import Stack

# Errors that all kinds make count less beyond this many standard deviations of y.
_REACH = 3.0
# Weight of the condition that shares sum up to 1, in rows of that size.
_STIFFNESS = 10.0


def convex_shares(predictions: NDArray, y: NDArray, weight: NDArray) -> NDArray:
    """Shares of several predictions in their mix, by non-negative least squares.

    Rows that all predictions miss by more than 3 standard deviations count less.

    Parameters
    ----------
    predictions : ndarray of shape (n_samples, n_kinds)
    y : ndarray of shape (n_samples,)
    weight : ndarray of shape (n_samples,)
        Positive.

    Returns
    -------
    ndarray of shape (n_kinds,)
        At least 0, with sum 1.

    Examples
    --------
    >>> y = np.array([0.0, 1.0, 2.0])
    >>> shares = convex_shares(np.column_stack([y, 2 - y]), y, np.ones(3))
    >>> shares.round(6).tolist()
    [1.0, 0.0]
    """
    weight = weight / weight.sum()
    centre = weight @ y
    # A constant has no deviation, and then nothing is far away.
    unit = np.sqrt(weight @ (y - centre) ** 2) or 1.0
    predictions, y = (predictions - centre) / unit, (y - centre) / unit
    missed = np.abs(predictions - y[:, None]).max(axis=1)
    pull = weight * np.minimum(1, _REACH / np.maximum(missed, _REACH)) ** 2
    rows = np.sqrt(pull / pull.sum())[:, None]
    total = np.full((1, predictions.shape[1]), _STIFFNESS)
    system = np.vstack([rows * predictions, total])
    shares, _ = nnls(system, np.append(rows[:, 0] * y, _STIFFNESS))
    return shares / shares.sum()


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
        ``nn.Linear`` and ``nn.ReLU`` in turns; the last layer is ``head``.

    Examples
    --------
    >>> plain_net(Stack(1, 1, X=[[0.0], [1.0]], width=2, n_folds=1)).head
    Linear(in_features=6, out_features=1, bias=True)
    """
    # Sums of weights are folded in float64, which some accelerators do not have.
    exact = copy.deepcopy(stack).cpu().double()
    net = nn.Sequential()
    net.add_module("inner", _linear(*_inner_layer(exact)))
    net.add_module("inner_relu", nn.ReLU())
    # Distances from the ends of a feature are ready after the first layer.
    if any((encoding.sign < 0).any() for encoding in exact.encodings):
        net.add_module("code", _linear(*_code_layer(exact)))
        net.add_module("code_relu", nn.ReLU())
    net.add_module("hidden", _linear(*_hidden_layer(exact)))
    net.add_module("hidden_relu", nn.ReLU())
    net.add_module("head", _linear(*_head(exact)))
    return net.to(stack.lowest)


# The first units of the net are the distances of each feature above and below its
# lowest value. One of the two is 0, so their difference passes the feature on exactly.
# The units of the encodings follow.


def _units(stack: Stack, name: str, above: Tensor, below: Tensor) -> Tensor:
    encodings = [getattr(encoding, name) for encoding in stack.encodings]
    return torch.cat([above, below, *encodings])


def _inner_layer(stack: Stack) -> tuple[Tensor, Tensor]:
    one, features = torch.ones_like(stack.lowest), torch.arange(len(stack.lowest))
    column = _units(stack, "column", features, features)
    weight = one.new_zeros(len(column), len(one))
    weight[torch.arange(len(column)), column] = _units(stack, "slope", one, -one)
    return weight, _units(stack, "offset", -stack.lowest, stack.lowest)


def _code_layer(stack: Stack) -> tuple[Tensor, Tensor]:
    one = torch.ones_like(stack.lowest)
    shift = _units(stack, "shift", 0 * one, 0 * one)
    return torch.diag(_units(stack, "sign", one, one)), shift


def _hidden_layer(stack: Stack) -> tuple[Tensor, Tensor]:
    n_features = len(stack.lowest)
    sizes = [len(encoding) for encoding in stack.encodings]
    weights, biases = [], []
    for kind, source in zip(stack.kinds, stack.sources, strict=True):
        on_x, on_code = kind.hidden.weight.split([n_features, sizes[source]], dim=1)
        parts = [on_code.new_zeros(len(on_code), size) for size in sizes]
        parts[source] = on_code
        weights.append(torch.cat([on_x, -on_x, *parts], dim=1))
        centre = on_code @ stack.encodings[source].centre
        biases.append(kind.hidden.bias + on_x @ stack.lowest - centre)
    return torch.cat(weights), torch.cat(biases)


def _head(stack: Stack) -> tuple[Tensor, Tensor]:
    folds = (stack.n_folds, stack.n_outputs)
    weights, biases = [], []
    for kind, share in zip(stack.kinds, stack.shares.T, strict=True):
        weight, bias = kind.head.effective()
        own = share / stack.n_folds
        # The hidden units of all folds, side by side, for each output.
        weight = weight.unflatten(0, folds).transpose(0, 1).flatten(1)
        weights.append(own[:, None] * weight)
        biases.append(own * bias.unflatten(0, folds).sum(0))
    return torch.cat(weights, dim=1), torch.stack(biases).sum(0)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    # The usual constructor would draw from torch's global generator.
    shape = weight.shape[::-1]
    linear = nn.utils.skip_init(nn.Linear, *shape, dtype=weight.dtype)
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
    return linear
