"""Folds of a stack: which member sees the target of which row."""

import numpy as np
import pytest
import torch

from sklpos import MLP, Stack
from sklpos.training.members import deal, rows_for_members
from sklpos.training.rows import RowDataset, TrainingRows

X = np.random.default_rng(0).normal(size=(41, 2))


def training_rows(X, n_outputs=2):
    y = torch.arange(len(X) * n_outputs).double().reshape(len(X), n_outputs)
    train = RowDataset(torch.as_tensor(X), y, torch.ones(len(X)))
    return TrainingRows(train, None, np.arange(len(X)))


def make_stack(X, **params):
    with torch.random.fork_rng():
        return Stack(X.shape[1], 2, X, width=2, **params)


def test_folds_are_about_equal():
    sizes = np.bincount(deal(X, 4, seed=0))
    assert sorted(sizes) == [10, 10, 10, 11]


def test_the_order_of_the_rows_does_not_matter():
    order = np.random.default_rng(1).permutation(41)
    assert np.array_equal(deal(X[order], 4, seed=3), deal(X, 4, seed=3)[order])


def test_equal_rows_are_in_one_fold():
    fold = deal(np.vstack([X, X, X]), 4, seed=0)
    assert np.array_equal(fold, np.tile(deal(X, 4, seed=0), 3))


def test_the_seed_decides():
    assert not np.array_equal(deal(X, 4, seed=0), deal(X, 4, seed=1))


@pytest.mark.parametrize("n_folds", [1, 3])
def test_too_few_rows_have_no_folds(n_folds):
    repeated = np.repeat(X[:2], 5, axis=0)
    assert deal(repeated, n_folds, seed=0) is None


def test_each_member_sees_all_but_its_fold():
    rows = training_rows(X)
    made = rows_for_members(rows, make_stack(X), seed=0)
    batch = made.train[np.arange(41)]
    factor = batch.factor.reshape(41, 3, 4, 2)
    fold = deal(X, 4, seed=0)
    for row, own in enumerate(fold):
        hidden = (factor[row] == 0).numpy()
        assert hidden[:, own].all()
        assert hidden.sum() == 3 * 2
    # together, the members see each row as often as without folds
    assert batch.factor.mean(dim=1).numpy() == pytest.approx(1)


def test_a_fold_takes_few_bytes():
    made = rows_for_members(training_rows(X), make_stack(X), seed=0)
    assert made.train.fold.dtype == torch.int16
    assert len(made.train.factor) == 4


def test_targets_are_repeated_for_each_member():
    rows = training_rows(X)
    made = rows_for_members(rows, make_stack(X, n_folds=1), seed=0)
    assert torch.equal(made.train.y.reshape(41, 3, 2)[:, 2], rows.train.y)
    assert made.train[[0]].factor is None


def test_other_modules_keep_their_rows():
    rows = training_rows(X)
    with torch.random.fork_rng():
        assert rows_for_members(rows, MLP(2, 2), seed=0) is rows


def test_a_batch_carries_its_factors():
    X_, y, weight = torch.zeros(4, 1), torch.zeros(4, 2), torch.tensor([1.0, 1, 1, 5])
    factor, fold = torch.tensor([[2.0, 3], [6, 7]]), torch.tensor([0, 0, 0, 1])
    batch = RowDataset(X_, y, weight, factor, fold)[torch.tensor([3, 1])]
    assert batch.loss_weight.tolist() == [[15.0, 17.5], [1.0, 1.5]]
    first, second = batch.split(1)
    assert first.factor.tolist() == [[6.0, 7.0]]
    assert second.to("cpu").factor.tolist() == [[2.0, 3.0]]
