"""Many at once is the same as one after the other, and the process stays as it was."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from joblib import parallel_config
from properties import assert_same_bits, global_state, training_state
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

GRID = {"strategy": ["augmented_lagrangian", "slack"], "module__dropout": [0.0, 0.3]}
SCORES = ("mean_test_score", "split0_test_score", "rank_test_score")


@pytest.mark.parametrize("strategy", ["augmented_lagrangian", "activation"])
def test_predict_from_8_threads(fitted, data, strategy):
    model = fitted(strategy, dtype="float32")
    parts = [data.X_new[i % 7 :] for i in range(64)]
    expected = [model.predict(part) for part in parts]
    with ThreadPoolExecutor(8) as threads:
        assert_same_bits(list(threads.map(model.predict, parts)), expected)


def test_predict_while_others_fit(small, fitted, data, mostly_slow_strategy):
    strategy = mostly_slow_strategy
    model = fitted(strategy)
    params = {"strategy": strategy, "module__dropout": 0.2, "batch_size": 10}

    def fit(seed):
        return training_state(small(random_state=seed, **params).fit(data.X, data.Y))

    expected = model.predict(data.X_new), [fit(0), fit(1)]
    with ThreadPoolExecutor(4) as threads:
        fits = [threads.submit(fit, seed) for seed in (0, 1)]
        seen = [threads.submit(model.predict, data.X_new) for _ in range(20)]
        assert_same_bits([each.result() for each in seen], [expected[0]] * 20)
        assert_same_bits([each.result() for each in fits], expected[1])


def scores_of(search) -> list:
    return [search.cv_results_[name] for name in SCORES]


@pytest.fixture(scope="module")
def serial(small, data):
    return scores_of(GridSearchCV(small(), GRID, cv=2).fit(data.X, data.Y))


def test_search_by_threads(small, data, serial):
    with parallel_config("threading", n_jobs=2):
        search = GridSearchCV(small(), GRID, cv=2).fit(data.X, data.Y)
    assert_same_bits(scores_of(search), serial)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore")  # of dask: ports, lost workers
@pytest.mark.global_state
def test_search_by_dask(small, data, serial):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.Client(**options), parallel_config("dask"):
        search = GridSearchCV(small(), GRID, cv=2).fit(data.X, data.Y)
    assert_same_bits(scores_of(search), serial)


@pytest.mark.global_state
@pytest.mark.parametrize(
    "change",
    [
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.use_deterministic_algorithms(True),
        lambda: torch.set_num_threads(2),
        lambda: np.seterr(all="raise"),
    ],
)
def test_a_change_of_the_process_would_be_seen(change):
    before = global_state()
    with np.errstate():
        change()
        changed = global_state()
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(1)
    assert changed != before


def test_a_call_that_draws_would_be_seen(small, data):
    class Drawing(Callback):
        def on_epoch_end(self, net, **kwargs):
            torch.rand(1)

    with pytest.raises(AssertionError):
        small(callbacks=[Drawing()]).fit(data.X, data.Y)


@pytest.mark.parametrize("strategy", ["augmented_lagrangian", "certified"])
def test_filters_of_warnings_are_left_alone(small, data, strategy):
    """Not so in the first calls of a process: libraries set some when imported."""

    def work():
        model = small(strategy=strategy).fit(data.X, data.Y)
        model.partial_fit(data.X, data.Y).enforce(data.X_new).predict(data.X)

    work()
    before = list(warnings.filters)
    work()
    assert warnings.filters == before
