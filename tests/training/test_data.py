"""Rows with their numbers and weights, in reproducible batches."""

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from skorch.utils import data_from_dataset, is_skorch_dataset

from sklpos.training.loaders import BatchLoader
from sklpos.training.rows import RowDataset

SIZE = 23


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(SIZE, 3)), rng.normal(size=(SIZE, 2))
    weight = rng.uniform(0.1, 3, size=SIZE)
    return RowDataset(*(torch.as_tensor(part) for part in (X, y, weight)))


def orders(loader, n_epochs=1):
    """The row numbers of each epoch, in the order of the batches."""
    return [
        torch.cat([batch.index for batch in loader]).tolist() for _ in range(n_epochs)
    ]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_weights_have_mean_one(rows, scale):
    weight = rows.weight.ravel()
    again = RowDataset(rows.X, rows.y, scale * weight)
    assert weight.mean().item() == pytest.approx(1, abs=1e-15)
    torch.testing.assert_close(again.weight.ravel(), weight, rtol=1e-14, atol=0)


def test_weights_take_the_dtype_of_the_targets(rows):
    single = RowDataset(rows.X.float(), rows.y.float(), rows.weight.ravel())
    assert single.weight.dtype == torch.float32
    assert single[[0, 1]].weight.shape == (2, 1)


def test_rows_of_another_number_are_refused(rows):
    with pytest.raises(ValueError, match="inconsistent lengths"):
        RowDataset(rows.X, rows.y[1:], rows.weight.ravel())


def test_skorch_finds_inputs_and_targets(rows):
    assert is_skorch_dataset(rows)
    X, y = data_from_dataset(rows)
    assert X is rows.X
    assert y is rows.y


def test_a_batch_is_the_pair_that_skorch_unpacks(rows):
    X, y = batch = rows[[4, 2]]
    assert batch[0] is X
    assert batch[1] is y
    assert torch.equal(X, rows.X[[4, 2]])
    assert torch.equal(y, rows.y[[4, 2]])
    assert batch.index.tolist() == [4, 2]
    assert torch.equal(batch.weight, rows.weight[[4, 2]])


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_batch_knows_its_rows(rows, shuffle):
    for batch in BatchLoader(rows, batch_size=5, shuffle=shuffle):
        assert torch.equal(batch.X, rows.X[batch.index])
        assert torch.equal(batch.y, rows.y[batch.index])
        assert torch.equal(batch.weight, rows.weight[batch.index])


@pytest.mark.parametrize("batch_size", [1, 5, SIZE, 100])
def test_an_epoch_is_a_permutation(rows, batch_size):
    loader = BatchLoader(rows, batch_size, shuffle=True, seed=1)
    for order in orders(loader, 3):
        assert sorted(order) == list(range(SIZE))
        assert order != sorted(order)


def test_epochs_and_seeds_differ(rows):
    seen = [
        tuple(order)
        for seed in range(3)
        for order in orders(BatchLoader(rows, 5, shuffle=True, seed=seed), 4)
    ]
    assert len(set(seen)) == len(seen) == 12


def test_the_same_seed_gives_the_same_order(rows):
    one, two = (BatchLoader(rows, 5, shuffle=True, seed=7) for _ in range(2))
    assert orders(one, 3) == orders(two, 3)


def test_the_order_does_not_depend_on_the_batch_size(rows):
    sizes = (1, 4, SIZE)
    seen = [orders(BatchLoader(rows, size, shuffle=True), 2) for size in sizes]
    assert seen[0] == seen[1] == seen[2]


def test_continuing_equals_one_go(rows):
    whole = orders(BatchLoader(rows, 5, shuffle=True, seed=3), 5)
    start = orders(BatchLoader(rows, 5, shuffle=True, seed=3), 2)
    rest = BatchLoader(rows, 5, shuffle=True, seed=3, first_epoch=2)
    assert start + orders(rest, 3) == whole


def test_an_epoch_cut_short_does_not_move_the_next(rows):
    whole = orders(BatchLoader(rows, 5, shuffle=True), 2)
    loader = BatchLoader(rows, 5, shuffle=True)
    next(iter(loader))
    assert orders(loader) == whole[1:]


def test_without_shuffling_rows_come_in_order(rows):
    assert orders(BatchLoader(rows, 5), 2) == [list(range(SIZE))] * 2


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "sizes"),
    [
        (5, False, [5, 5, 5, 5, 3]),
        (5, True, [5, 5, 5, 5]),
        (SIZE, True, [SIZE]),
        (100, False, [SIZE]),
    ],
)
def test_batch_sizes(rows, batch_size, drop_last, sizes):
    loader = BatchLoader(rows, batch_size, drop_last=drop_last)
    assert [len(batch.index) for batch in loader] == sizes
    assert len(loader) == len(sizes)


def test_dropped_rows_change_with_the_epoch(rows):
    loader = BatchLoader(rows, 5, shuffle=True, drop_last=True)
    dropped = [tuple(set(range(SIZE)) - set(order)) for order in orders(loader, 6)]
    assert len(set(dropped)) > 1


def test_dropping_everything_is_refused(rows):
    with pytest.raises(ValueError, match=r"no batch of 23 rows; lower batch_size=24"):
        BatchLoader(rows, SIZE + 1, drop_last=True)


def test_the_global_generators_are_left_alone(rows):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    orders(BatchLoader(rows, 5, shuffle=True), 2)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_a_callback_may_change_the_weight_of_one_row(small, data):
    class First(Callback):
        def on_train_begin(self, net, X, **kwargs):
            X.weight[0] = 3
            self.seen_ = X.weight[:3].ravel().tolist()

    model = small(callbacks=[First()]).fit(data.X, data.Y)
    assert dict(model.net_.callbacks_)["First"].seen_ == [3, 1, 1]


def test_weights_that_slow_down_every_pass_are_zero(small, data):
    small_ones = torch.tensor([1e-310, 1e-300], dtype=torch.float64)

    class Decayed(Callback):
        def on_epoch_end(self, net, **kwargs):
            with torch.no_grad():
                next(net.module_.parameters())[0, :2] = small_ones

    model = small(callbacks=[Decayed()], dtype="float64").fit(data.X, data.Y)
    weights = next(model.net_.module_.parameters())[0, :2].tolist()
    assert weights == [0, 1e-300]
