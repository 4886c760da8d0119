"""Sizes of batches under batch norm, and what a loader takes of torch's."""

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from sklpos.training.loaders import BatchLoader
from sklpos.training.rows import RowDataset


def numbered(n):
    """Rows whose only feature is their number."""
    return RowDataset(torch.arange(n)[:, None] * 1.0, torch.ones(n, 1), torch.ones(n))


def net(*norm):
    return nn.Sequential(nn.Linear(3, 8), *norm, nn.ReLU(), nn.Linear(8, 1))


class Frozen(nn.BatchNorm1d):
    """Batch norm that stays in eval mode, as in transfer learning."""

    def train(self, mode=True):
        return super().train(False)


class OneByOne:
    """Rows that are cut into batches before they are fetched."""

    def __init__(self, n):
        self.rows = numbered(n)
        self.X = self.rows.X

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def sizes(model):
    batches = model.history_[-1]["batches"]
    return [batch["train_batch_size"] for batch in batches]


# Batch norm


@pytest.mark.parametrize(
    ("n", "size", "expected"),
    [(9, 4, [4, 5]), (8, 4, [4, 4]), (5, 4, [5]), (6, 4, [4, 2]), (1, 4, [1])],
)
@pytest.mark.parametrize("make", [numbered, OneByOne])
def test_a_lone_last_row_joins_the_batch_before(n, size, expected, make):
    loader = BatchLoader(make(n), size, shuffle=True, smallest=2)
    batches = [batch.index for batch in loader]
    assert [len(index) for index in batches] == expected
    assert len(loader) == len(expected)
    whole = BatchLoader(numbered(n), size, shuffle=True)
    assert torch.equal(torch.cat(batches), torch.cat([b.index for b in whole]))


@pytest.mark.parametrize("strategy", ["auto", "slack", "nonnegative_weights"])
def test_batch_norm_sees_no_single_row(data, small, strategy):
    module = net(nn.BatchNorm1d(8))
    model = small(module=module, strategy=strategy, batch_size=13)
    assert sizes(model.fit(data.X, data.y)) == [13, 13, 14]
    assert model.predict(data.X).min() >= 0


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 8), nn.LayerNorm(8), Frozen(8)])
def test_other_modules_keep_their_batches(data, small, norm):
    model = small(module=net(norm), batch_size=13).fit(data.X, data.y)
    assert sizes(model) == [13, 13, 13, 1]
    small(module=net(norm), batch_size=1).fit(data.X[:5], data.y[:5])


@pytest.mark.parametrize(
    ("n", "batch_size", "words"),
    [(1, "auto", "there is 1 training row"), (5, 1, "batch_size=1 is too small")],
)
def test_batch_norm_of_single_rows_is_refused(data, small, n, batch_size, words):
    model = small(module=net(nn.BatchNorm1d(8)), batch_size=batch_size)
    with pytest.raises(ValueError, match=f"{words}.*"):
        model.fit(data.X[:n], data.y[:n])


def test_training_is_resumed_with_the_same_batches(data, small):
    params = {"module": net(nn.BatchNorm1d(8)), "batch_size": 13, "warm_start": True}
    halves = small(**params, max_epochs=2)
    halves.fit(data.X, data.y).fit(data.X, data.y)
    whole = small(**params, max_epochs=4).fit(data.X, data.y)
    np.testing.assert_array_equal(halves.predict(data.X), whole.predict(data.X))


# Samplers


def order(loader):
    return torch.cat([batch.index for batch in loader]).tolist()


@pytest.mark.parametrize(
    "make",
    [
        lambda: WeightedRandomSampler(torch.arange(9.0), 20),
        lambda: RandomSampler(range(9)),
        lambda: SubsetRandomSampler(range(1, 9)),
    ],
)
def test_a_sampler_draws_by_the_seed_and_the_epoch(make):
    loader, again = (BatchLoader(numbered(9), 4, seed=1, sampler=make()) for _ in "ab")
    first, second = order(loader), order(loader)
    assert first != second
    again.epoch = 1
    assert order(again) == second
    assert order(BatchLoader(numbered(9), 4, seed=2, sampler=make())) != first


def test_a_sampler_decides_which_rows_are_seen(data, small):
    drawn = np.flatnonzero(data.y > 0)
    sampler = SubsetRandomSampler(drawn.tolist())
    model = small(iterator_train__sampler=sampler).fit(data.X, data.y)
    assert sizes(model) == [len(drawn)]
    others = np.setdiff1d(np.arange(len(data.y)), drawn)
    assert not model.multipliers_[others].any()
    # The repair looks at all rows, those that were not drawn as well.
    assert model.predict(data.X).min() >= 0


def test_drop_last_leaves_out_what_a_sampler_draws_last():
    loader = BatchLoader(numbered(9), 4, sampler=SequentialSampler(range(9)))
    assert order(loader) == list(range(9))
    loader.drop_last = True
    assert order(loader) == list(range(8))


def test_a_batch_sampler_makes_the_batches(data, small):
    batches = BatchSampler(SequentialSampler(range(40)), 15, drop_last=False)
    model = small(iterator_train__batch_sampler=batches).fit(data.X, data.y)
    assert sizes(model) == [15, 15, 10]


def test_a_row_that_is_drawn_twice_moves_once_by_its_mean(data, small):
    """The dual step of a batch of equal rows is that of one of them."""
    moved = []

    class Watch(Callback):
        def on_violation(self, net, violation, index):
            moved.append(index.tolist())

    def multiplier(numbers):
        model = small(
            strategy="lagrangian",
            iterator_train__sampler=numbers,
            callbacks=[Watch()],
            max_epochs=1,
        )
        return model.fit(data.X, data.y).net_.constraint_.state.multiplier

    row = int(np.argmin(data.X[:, 0]))
    once, twice = multiplier([row]), multiplier([row, row])
    assert moved == [[row], [row]]
    torch.testing.assert_close(once, twice)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"sampler": range(41)}, "up to 40, but there are 40 training rows"),
        ({"sampler": [-1, 3]}, "from -1 up to 3, but there are 40 training rows"),
        ({"sampler": 3}, "must be iterable and have a length"),
        ({"sampler": []}, "must be iterable and have a length of at least 1"),
        ({"sampler": [0], "shuffle": True}, "leave out shuffle"),
        ({"sampler": [0], "batch_sampler": [[0]]}, "not both"),
        ({"collate_fn": len}, "takes no collate_fn"),
        ({"generator": torch.Generator()}, "random_state decides"),
        ({"workers": 2}, "no parameter 'workers'"),
        ({"drop_last": True}, "no batch of 40 rows"),
    ],
)
def test_what_cannot_be_used_is_refused(data, small, params, words):
    params = {f"iterator_train__{name}": value for name, value in params.items()}
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        small(batch_size=50, **params).fit(data.X, data.y)
    assert len(str(caught.value)) <= 300


def test_workers_change_nothing_for_rows_in_memory(data, small):
    fetching = {"num_workers": 2, "pin_memory": True, "prefetch_factor": 4}
    fetching |= {"persistent_workers": True, "worker_init_fn": print}
    params = {f"iterator_train__{name}": value for name, value in fetching.items()}
    model = small(batch_size=9, **params).fit(data.X, data.y)
    plain = small(batch_size=9).fit(data.X, data.y)
    np.testing.assert_array_equal(model.predict(data.X), plain.predict(data.X))
