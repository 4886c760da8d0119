"""The module that an estimator trains: made, inspected and initialised."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from sklpos.estimator.checks import TrainingData
from sklpos.estimator.parameters import net_params_for
from sklpos.nets.any_rows import plain_rows
from sklpos.nets.head import find_head
from sklpos.nets.hints import shown
from sklpos.nets.items import ItemRows
from sklpos.nets.making import check_instance, make_module
from sklpos.nets.shapes import with_matrix_outputs
from sklpos.nets.stack import Stack
from sklpos.nets.tracing import trace
from sklpos.nets.units import TargetScale
from sklpos.strategies.architecture import Architecture
from sklpos.training.randomness import borrowed_generator, derive_seed


def new_module(estimator, data: TrainingData, example: Tensor, seed: int) -> nn.Module:
    """Make or copy a module, with new weights drawn by the seed.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    data : TrainingData
    example : torch.Tensor of shape (1, n_features)
        Any row, in the dtype to compute in.
    seed : int

    Returns
    -------
    nn.Module

    Raises
    ------
    ValueError
        If it has no weights that can be trained, or outputs of another shape.
    """
    with borrowed_generator(derive_seed(seed, 2)):
        module = _made_module(estimator, data, example, seed).to(example.dtype)
        # Lazy layers draw their weights in this call, so it needs the seed, too.
        trace(module, example)
    # The outputs of a stack are those of its members.
    if not isinstance(module, Stack):
        module = with_matrix_outputs(module, example, data.y.shape[1])
    if not any(weight.requires_grad for weight in module.parameters()):
        raise ValueError(
            "module has no weights that can be trained; set requires_grad for some."
        )
    return module


def _made_module(
    estimator, data: TrainingData, example: Tensor, seed: int
) -> nn.Module:
    kwargs = net_params_for(estimator, "module")
    if isinstance(estimator.module, Stack):
        raise ValueError(
            "module must be the class Stack, not an instance, because it depends on "
            "the rows of fit; pass its parameters as module__width=64."
        )
    if isinstance(estimator.module, nn.Module):
        if kwargs:
            raise ValueError(
                f"module__{next(iter(kwargs))} needs module to be a class or callable, "
                "not an instance."
            )
        check_instance(estimator.module)
        # scikit-learn's contract: `fit` never changes a parameter.
        return copy.deepcopy(estimator.module)
    if not callable(estimator.module):
        raise ValueError(
            f"module={shown(estimator.module)} must be an nn.Module instance, or a "
            "class or callable that makes one."
        )
    X, weight = data.X, data.weight
    # A module is made from rows in memory, so it sees some of them.
    if isinstance(X, ItemRows):
        some = X.sample(derive_seed(seed, 7))
        X, weight = X[some], weight[some]
    known = {
        "n_features_in": data.X.shape[1],
        "n_outputs": data.y.shape[1],
        # What the net will see: rounding may make a constant of a feature.
        "X": plain_rows(X.astype(example.numpy().dtype, copy=False)),
        # Others than this package's may write to it.
        "sample_weight": weight if estimator.module is Stack else np.array(weight),
    }
    return make_module(estimator.module, known, kwargs)


def head_of(module, example: Tensor, n_outputs: int, strategy) -> str | None:
    """Find the head of a module; None if there is none and the strategy needs none.

    Parameters
    ----------
    module : nn.Module
    example : torch.Tensor of shape (1, n_features)
    n_outputs : int
    strategy : ConstraintStrategy

    Returns
    -------
    str or None
        Dotted name of the last ``nn.Linear``; None for a `Stack`, which has several.
    """
    if isinstance(module, Stack):
        return None
    if strategy.needs_head:
        return find_head(module, example, n_outputs)
    try:
        return find_head(module, example, n_outputs)
    except ValueError:
        return None


@torch.no_grad()
def start_module(
    estimator, module, head, targets: TargetScale, strategy, example: Tensor
) -> nn.Module:
    """Start at the scaled mean, or from a pretrained head in scaled units.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    module : nn.Module
        Changed in place.
    head : str or None
    targets : TargetScale
    strategy : ConstraintStrategy
    example : torch.Tensor of shape (1, n_features)

    Returns
    -------
    nn.Module
        Wrapped by a strategy that is part of it.
    """
    bounds = targets.scaled_bounds
    architecture = strategy if isinstance(strategy, Architecture) else None
    start = torch.as_tensor(targets.start).to(example.dtype)
    if architecture is not None:
        start.copy_(architecture.initial_bias(bounds, start))
    if isinstance(module, Stack):
        module.start(start, spread=float(targets.spread.max()))
    linear = None if head is None else module.get_submodule(head)
    pretrained = isinstance(estimator.module, nn.Module)
    if linear is not None and pretrained and strategy.needs_head:
        # A pretrained head predicts in the unit of y, but training is in scaled units.
        targets.unfold(linear)
    elif linear is not None and not pretrained and linear.bias is not None:
        linear.bias.copy_(start)
    if architecture is None:
        return module
    return architecture.wrap(module, head, X=example, bounds=bounds)
