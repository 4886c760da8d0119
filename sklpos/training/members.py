"""The rows of a `Stack`: each member sees those of the other folds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklpos.nets.any_rows import Rows, row_ranks, rows_per_pass, slices_of
from sklpos.nets.mixing import convex_shares
from sklpos.nets.precision import full_precision
from sklpos.nets.stack import Stack
from sklpos.training.loaders import BatchLoader
from sklpos.training.randomness import derive_seed
from sklpos.training.rows import RowDataset, TrainingRows


def rows_for_members(rows: TrainingRows, module: nn.Module, seed: int) -> TrainingRows:
    """Repeat the targets for each member of a `Stack`, and hide its fold from it.

    Parameters
    ----------
    rows : TrainingRows
    module : nn.Module
        Any other than a `Stack` keeps its rows.
    seed : int
        Decides which rows are in a fold.

    Returns
    -------
    TrainingRows
    """
    if not isinstance(module, Stack):
        return rows
    return replace(
        rows,
        train=_repeated(rows.train, module, *_hidden_folds(rows.train, module, seed)),
        # No member has seen the rows that are held out from all of them.
        valid=rows.valid and _repeated(rows.valid, module),
    )


def _repeated(rows: RowDataset, stack: Stack, *hidden: Tensor) -> RowDataset:
    y = rows.y if stack.n_members == 1 else rows.y.repeat(1, stack.n_members)
    return RowDataset(rows.X, y, rows.weight.ravel(), *hidden)


def _hidden_folds(rows: RowDataset, stack: Stack, seed: int) -> tuple[Tensor, ...]:
    """Factor of each loss in each fold, and the fold of each row; nothing without."""
    fold = deal(rows.X.numpy(), stack.n_folds, seed)
    if fold is None:
        return ()
    seen = ~torch.eye(stack.n_folds, dtype=torch.bool)
    # The members of a fold that is left out count as much as without folds.
    share = seen.to(rows.y) / seen.double().mean(dim=1, keepdim=True)
    factor = share.to(rows.y).repeat_interleave(stack.n_outputs, dim=1)
    return factor.repeat(1, len(stack.kinds)), torch.as_tensor(fold)


def deal(X: Rows, n_folds: int, seed: int) -> NDArray | None:
    """Deal rows into folds of about the same number of distinct rows.

    The targets play no part, and a row that occurs twice is in one fold.

    Parameters
    ----------
    X : ndarray or SparseRows of shape (n_samples, n_features)
    n_folds : int
    seed : int

    Returns
    -------
    ndarray of int of shape (n_samples,) or None
        Number of the fold, in as few bytes as it takes. None if there are fewer
        distinct rows than folds, or one fold.

    Examples
    --------
    >>> fold = deal(np.array([[0.0], [1.0], [0.0], [2.0]]), 3, seed=0)
    >>> bool(fold[0] == fold[2])
    True
    """
    if n_folds == 1:
        return None
    # They are sorted, so the order of the rows does not matter.
    which = row_ranks(X)
    n_distinct = which.max() + 1
    if n_distinct < n_folds:
        return None
    generator = np.random.default_rng(derive_seed(seed, 4))
    dealt = generator.permutation(n_distinct) % n_folds
    return dealt.astype(np.int16 if n_folds < 2**15 else np.int64)[which]


@torch.no_grad()
@full_precision()
def weigh_members(net, rows: RowDataset) -> None:
    """Weigh the kinds of a `Stack` by their losses on unseen rows, in place.

    Parameters
    ----------
    net : ConstrainedNet
        Trained; nothing happens to another module than a `Stack`.
    rows : RowDataset
        The rows that it was trained on.
    """
    stack = net.plain_module_
    # Without folds there is no row that some member has not seen.
    if not isinstance(stack, Stack) or rows.fold is None:
        return
    unseen, shape = [], (len(stack.kinds), stack.n_folds, stack.n_outputs)
    for batch in BatchLoader(rows, rows_per_pass(rows.X)):
        hidden = (batch.factor == 0).cpu().double()
        columns = stack.heads(batch.X.to(net.device)).cpu().double()
        # One member of each kind, so the sum over the folds is its prediction.
        unseen.append((hidden * columns).unflatten(1, shape).sum(dim=2))
    y = rows.y[:, : stack.n_outputs].cpu().double()
    weight = rows.weight.cpu().double()
    loss = _exact_loss(net, stack)
    # Mixes of outputs in an order stay in it if their shares are the same.
    n_tied = net.targets.bounds.n_ordered
    found = convex_shares(torch.cat(unseen), y, weight, loss, n_tied)
    # Those of a chunk of a stream count as much as its rows do.
    seen = net.targets.seen
    part = 1.0 if seen is None else min(1.0, len(rows) / seen.moments.number)
    stack.shares.copy_(torch.lerp(stack.shares, found.to(stack.shares), part))


def _exact_loss(net, stack: Stack) -> Callable[[Tensor, Tensor], Tensor]:
    """Losses of what the heads compute, on the CPU in float64."""
    output, criterion = copy.deepcopy((stack.output, net.criterion_))
    for part in (output, criterion):
        if isinstance(part, nn.Module):
            part.cpu().double()
    return lambda heads, y: criterion(output(heads), y)


def mixed_by_members(net, columns: NDArray) -> NDArray:
    """Values per output, from values of the members of a `Stack`.

    Parameters
    ----------
    net : ConstrainedNet
    columns : ndarray of shape (n_samples, n_columns)
        One column per output of the module.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)
        Unchanged for another module than a `Stack`.
    """
    stack = net.plain_module_
    if not isinstance(stack, Stack):
        return columns
    mixed = np.empty((len(columns), stack.n_outputs))
    for rows in slices_of(columns):
        mixed[rows] = stack.mix(torch.as_tensor(columns[rows])).numpy()
    return mixed
