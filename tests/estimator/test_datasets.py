"""Data sets and loaders of torch, read once or in each epoch, equal arrays."""

import numpy as np
import pytest
import torch
from marks import mostly_slow
from sklearn.base import clone
from skorch.dataset import Dataset as SkorchDataset
from skorch.helper import SliceDataset
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from sklpos import MLP, STRATEGIES, PositiveOutputRegressor, Stack, TrainingCheckpoint

IN_MEMORY = sorted(STRATEGIES)
BY_ITEM = [name for name in IN_MEMORY if STRATEGIES[name].guarantee != "domain"]


class Items(Dataset):
    """Rows that count how often one of them is read."""

    def __init__(self, *parts):
        self.parts = parts
        self.n_read = 0

    def __len__(self):
        return len(self.parts[0])

    def __getitem__(self, number):
        self.n_read += 1
        item = tuple(part[number] for part in self.parts)
        return item if len(item) > 1 else item[0]


class Endless(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(3), 0.0)])


class Changing(Items):
    """Rows with noise, anew each time."""

    def __getitem__(self, number):
        X, y = super().__getitem__(number)
        return X + number * self.n_read, y


@pytest.fixture(params=["kept", "read again"])
def storage(request, monkeypatch):
    """Keep the rows, as those of a small data set are, or read them in each epoch."""
    if request.param == "read again":
        monkeypatch.setattr("sklpos.estimator.first_pass.MOST_VALUES", 1)
    return request.param


@pytest.fixture
def read_again(monkeypatch):
    monkeypatch.setattr("sklpos.estimator.first_pass.MOST_VALUES", 1)


def assert_same_fit(model, expected, X):
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))
    np.testing.assert_array_equal(model.multipliers_, expected.multipliers_)
    assert model.kkt_ == expected.kkt_


@pytest.mark.parametrize("strategy", IN_MEMORY)
@pytest.mark.parametrize("early_stopping", mostly_slow([False, True], True))
def test_items_give_the_fit_of_arrays(data, small, storage, strategy, early_stopping):
    params = {"strategy": strategy, "early_stopping": early_stopping, "batch_size": 9}
    model = small(**params)
    items = Items(data.X, data.Y, data.weight - 1)
    if storage == "read again" and strategy not in BY_ITEM:
        with pytest.raises(ValueError, match="needs all rows in memory"):
            model.fit(items)
        return
    expected = clone(model).fit(data.X, data.Y, data.weight - 1)
    assert_same_fit(model.fit(items), expected, data.X)


@pytest.mark.parametrize(
    "make",
    [
        lambda X, y: Items(X, y),
        lambda X, y: Items(X.tolist(), y.tolist()),
        lambda X, y: Items(torch.as_tensor(X), torch.as_tensor(y)),
        lambda X, y: TensorDataset(torch.as_tensor(X), torch.as_tensor(y)),
        lambda X, y: SkorchDataset(X, y),
        lambda X, y: ConcatDataset([Items(X[:7], y[:7]), Items(X[7:], y[7:])]),
        lambda X, y: Subset(Items(*np.repeat([X, X], 2, 1)[:1], np.repeat(y, 2)), EVEN),
        lambda X, y: Subset(TensorDataset(*map(torch.as_tensor, (X, y))), range(40)),
        lambda X, y: DataLoader(Items(X, y), batch_size=9, shuffle=True),
    ],
)
def test_all_kinds_of_data_sets(data, small, storage, make):
    expected = small(batch_size=9).fit(data.X, data.y)
    model = small(batch_size=9).fit(make(np.array(data.X), np.array(data.y)))
    assert_same_fit(model, expected, data.X)


EVEN = range(0, 80, 2)


def test_a_column_of_targets_stays_a_column(data, small, storage):
    model = small().fit(Items(data.X, data.Y[:, :1]))
    assert model.predict(data.X).shape == (40, 1)


def test_a_loader_decides_the_batches(data, storage, small):
    items, sampler = Items(data.X, data.y), WeightedRandomSampler(data.y + 0.1, 30)
    batches = BatchSampler(sampler, 8, drop_last=True)
    pairs = [
        (DataLoader(items, 9), {"batch_size": 9, "iterator_train__shuffle": False}),
        (
            DataLoader(items, 9, shuffle=True, drop_last=True),
            {"batch_size": 9, "iterator_train__drop_last": True},
        ),
        (
            DataLoader(items, 9, sampler=sampler),
            {"batch_size": 9, "iterator_train__sampler": sampler},
        ),
        (
            DataLoader(items, batch_sampler=batches),
            {"iterator_train__batch_sampler": batches},
        ),
    ]
    for loader, params in pairs:
        expected = small(**params).fit(data.X, data.y)
        model = small(batch_size="auto").fit(loader)
        assert_same_fit(model, expected, data.X)
    # What the estimator is given goes first.
    model = small(batch_size=5).fit(DataLoader(items, 9, shuffle=True))
    assert_same_fit(model, small(batch_size=5).fit(data.X, data.y), data.X)


def test_workers_read_the_items(data, small, storage):
    expected = small(batch_size=9, max_epochs=1).fit(data.X, data.y)
    loader = DataLoader(Items(data.X, data.y), 9, True, num_workers=1, pin_memory=True)
    model = small(batch_size="auto", max_epochs=1).fit(loader)
    assert_same_fit(model, expected, data.X)
    # This process looks at some rows only.
    assert loader.dataset.n_read < 3 * 40 or storage == "kept"


def test_training_goes_on_with_items(data, small, storage):
    items = Items(data.X, data.y)
    for call in ("fit", "partial_fit"):
        model, expected = small(warm_start=True), small(warm_start=True)
        for _ in range(2):
            getattr(model, call)(items)
            getattr(expected, call)(data.X, data.y)
        np.testing.assert_array_equal(model.predict(data.X), expected.predict(data.X))


def test_a_checkpoint_knows_its_items(data, small, storage, tmp_path):
    def fit(items, n):
        checkpoint = TrainingCheckpoint(tmp_path / "training")
        return small(callbacks=[checkpoint], max_epochs=n).fit(items)

    items = Items(data.X, data.y)
    fit(items, 2)
    resumed = fit(items, 4)
    whole = small(max_epochs=4).fit(data.X, data.y)
    np.testing.assert_array_equal(resumed.predict(data.X), whole.predict(data.X))
    with pytest.raises(ValueError, match="data"):
        fit(Items(data.X + 1, data.y), 5)


def test_items_are_predicted_and_protected(data, fitted, small, storage):
    model = clone(fitted()).fit(data.X, data.Y)
    for items in (Items(data.X_new), Items(data.X_new, data.X_new)):
        np.testing.assert_array_equal(model.predict(items), model.predict(data.X_new))
    found, expected = map(model.certify_risk, (Items(data.X), data.X))
    np.testing.assert_array_equal(found.violation_rate_, expected.violation_rate_)
    with pytest.raises(ValueError, match="map-style"):
        model.predict(Endless())
    model.enforce(Items(data.X_new))
    assert model.predict(data.X_new).min() >= 0


def test_validation_rows_may_be_items(data, small, storage):
    X, y = data.X_new, np.abs(data.X_new[:, 0])
    model = small().fit(Items(data.X, data.y), X_val=Items(X, y))
    expected = small().fit(data.X, data.y, X_val=X, y_val=y)
    assert model.history_[:, "valid_loss"] == expected.history_[:, "valid_loss"]
    with pytest.raises(ValueError, match=r"items of X_val must be pairs"):
        small().fit(data.X, data.y, X_val=Items(data.X))


def test_images_are_read_item_by_item(small, storage):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(41, 1, 5, 5)).astype(np.float32)
    y = np.abs(X.mean(axis=(1, 2, 3)))
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.Flatten(),
        nn.BatchNorm1d(18),
        nn.ReLU(),
        nn.Linear(18, 1),
    )
    params = {"module": module, "batch_size": 20}
    model = small(**params).fit(Items(X, y))
    assert_same_fit(model, small(**params).fit(X, y), X)


def test_stack_is_made_from_a_sample(data, read_again):
    """Of few rows the sample has all, and only the folds are dealt otherwise."""
    params = {"max_epochs": 5, "random_state": 0}
    model = PositiveOutputRegressor(Stack, **params).fit(Items(data.X, data.y))
    expected = PositiveOutputRegressor(Stack, **params).fit(data.X, data.y)
    for own, other in zip(
        model.net_.module_.buffers(), expected.net_.module_.buffers(), strict=True
    ):
        assert own.shape == other.shape
    assert model.predict(data.X).min() >= 0
    np.testing.assert_allclose(model.predict(data.X).mean(), data.y.mean(), rtol=1e-6)


def test_rows_are_read_once_or_in_each_epoch(data, small, storage):
    items = Items(data.X, data.y)
    small(max_epochs=20).fit(items)
    times = items.n_read / len(items)
    assert times < 1.1 if storage == "kept" else times > 20


REFUSED = {
    "iterable": (lambda d: Endless(), "map-style Dataset"),
    "iterable loader": (lambda d: DataLoader(Endless()), "map-style Dataset"),
    "empty": (lambda d: Items(d.X[:0], d.y[:0]), "no items"),
    "no y": (lambda d: Items(d.X), r"pairs \(x, y\)"),
    "four": (lambda d: Items(d.X, d.y, d.y, d.y), "is of 4 parts"),
    "shapes": (lambda d: Items([x[: 2 + (x[0] > 1)] for x in d.X], d.y), "padding"),
    "text": (lambda d: Items(["a"] * 40, d.y), "must be numbers"),
    "number": (lambda d: Items(d.X[:, 0], d.y), "single number"),
    "nan": (lambda d: Items(np.where(d.X > 1, np.nan, d.X), d.y), "NaN"),
    "nan y": (lambda d: Items(d.X, d.y * np.nan), "y contains NaN"),
    "text y": (lambda d: Items(d.X, ["a"] * 40), "y: could not convert"),
    "weight": (lambda d: Items(d.X, d.y, -d.weight), "Negative values"),
    "collate": (lambda d: DataLoader(Items(d.X, d.y), collate_fn=len), "collate_fn"),
    "batches": (lambda d: DataLoader(Items(d.X, d.y), batch_size=None), "batch_size"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_data_set_of_rows_is_refused(data, small, storage, case):
    make, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        small().fit(make(data))


def test_targets_come_from_the_items_alone(data, small):
    with pytest.raises(ValueError, match="y must be None if X is a Items"):
        small().fit(Items(data.X, data.y), data.y)


def test_items_that_change_are_noticed(data, small, read_again):
    with pytest.raises(ValueError, match="another one than when it was read first"):
        small().fit(Changing(data.X, data.y))


def test_slices_of_skorch_are_arrays(data, small):
    items = Items(data.X, data.y)
    model = small().fit(SliceDataset(items), SliceDataset(items, idx=1))
    assert_same_fit(model, small().fit(data.X, data.y), data.X)
    found = model.predict(SliceDataset(items))
    np.testing.assert_array_equal(found, model.predict(data.X))


class Computed(Dataset):
    """Rows that are in no memory."""

    def __init__(self, n_rows, n_features):
        self.shape = n_rows, n_features

    def __len__(self):
        return self.shape[0]

    def __getitems__(self, numbers):
        turns = np.outer(numbers, 0.7 * np.arange(1, self.shape[1] + 1))
        X = np.sin(turns).astype(np.float32)
        return list(zip(X, np.maximum(X[:, 0] + X[:, 1], 0), strict=True))

    def __getitem__(self, number):
        return self.__getitems__([number])[0]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows():
    from benchmarks.out_of_core import Peak

    model = PositiveOutputRegressor(
        MLP,
        module__hidden_layer_sizes=(8,),
        max_epochs=1,
        balance=False,
        batch_size=1000,
        random_state=0,
    )
    model.fit(Computed(1000, 100))
    found = []
    for n_rows in (170_000, 510_000):
        with Peak() as peak:
            model.fit(Computed(n_rows, 100))
        found.append(peak.extra)
        assert model.predict(Computed(1000, 100)).min() >= 0
    # The rows that are added have 130 MB.
    assert found[1] - found[0] < 40
