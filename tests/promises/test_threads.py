"""Threads that share one estimator: nothing is lost or mixed without a word."""

import contextlib
import copy
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from properties import assert_same_bits, training_state
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

import sklpos
from sklpos.certificates import certify as certificates_certify
from sklpos.estimator.pipelines import snapshot
from sklpos.nets.modules import hooks_of

LONGEST = 20.0


class Meeting(Callback):
    """In the first epoch of a fit, something else happens."""

    def __init__(self, event=None):
        self.event = event

    def on_epoch_end(self, net, **kwargs):
        if self.event is not None:
            self.event()


def in_a_thread(work):
    """Run work in another thread, and return what it returns or raise its error."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work).result(timeout=LONGEST)


@pytest.fixture
def quick_switches():
    """Threads take turns after almost every line."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


CHANGES = {
    "fit": lambda model, data: model.fit(data.X, data.Y),
    "partial_fit": lambda model, data: model.partial_fit(data.X, data.Y),
    "enforce": lambda model, data: model.enforce(data.X_new),
    "sklpos.enforce": lambda model, data: sklpos.enforce(model, data.X_new),
}


@pytest.mark.parametrize(
    ("first", "second", "where"),
    [
        ("fit", "fit", "in another thread"),
        ("partial_fit", "partial_fit", "in another thread"),
        ("partial_fit", "enforce", "in another thread"),
        ("fit", "sklpos.enforce", "in another thread"),
        ("fit", "partial_fit", "a callback may predict"),
        ("partial_fit", "enforce", "a callback may predict"),
    ],
)
def test_one_call_at_a_time_changes_an_estimator(small, data, first, second, where):
    """The second is refused with one sentence, and the first is as if alone."""
    found, begun = [], []
    run = in_a_thread if "thread" in where else lambda work: work()

    def interfere():
        # Once, or calls that are not refused would call each other for ever.
        if begun:
            return
        begun.append(True)
        with pytest.raises(RuntimeError) as caught:
            run(lambda: CHANGES[second](model, data))
        found.append((str(caught.value), model.predict(data.X_new)))

    plain = small(max_epochs=1, warm_start=True).fit(data.X, data.Y)
    before = plain.predict(data.X_new)
    CHANGES[first](plain, data)
    model = small(max_epochs=1, warm_start=True, callbacks=[Meeting(lambda: None)])
    model.fit(data.X, data.Y)
    dict(model.callbacks_)["Meeting"].event = interfere
    CHANGES[first](model, data)
    ((message, seen),) = found
    assert message.startswith(second.split(".")[-1])
    assert f"while {first} of the same estimator is running" in message
    assert where in message
    assert_same_bits(seen, before)
    assert_same_bits(model.predict(data.X_new), plain.predict(data.X_new))
    dict(model.callbacks_)["Meeting"].event = None
    model.partial_fit(data.X, data.Y)


def test_fits_of_two_estimators_do_not_wait_for_each_other(small, data):
    """Even if each of them fits the other one in a callback."""
    barrier = threading.Barrier(2, timeout=LONGEST)
    models = [small(max_epochs=1), small(max_epochs=1)]

    def fit(own, other):
        def fit_other():
            barrier.wait()
            with pytest.raises(RuntimeError, match="in another thread"):
                other.fit(data.X, data.Y)
            barrier.wait()

        return own.set_params(callbacks=[Meeting(fit_other)]).fit(data.X, data.Y)

    with ThreadPoolExecutor(2) as threads:
        pairs = models, models[::-1]
        fits = [threads.submit(fit, *pair) for pair in zip(*pairs, strict=True)]
        done = [each.result(LONGEST) for each in fits]
    assert done == models


def test_no_rows_are_lost(small, data, quick_switches):
    """Each call counts, or says that it does not."""
    model = small().partial_fit(data.X, data.Y)

    def work(number):
        with contextlib.suppress(RuntimeError):
            model.partial_fit(data.X, data.Y)
            return 1
        return 0

    with ThreadPoolExecutor(8) as threads:
        counted = sum(threads.map(work, range(24)))
    alone = small()
    for _ in range(1 + counted):
        alone.partial_fit(data.X, data.Y)
    assert_same_bits(training_state(model), training_state(alone))


class Watched:
    """Readers in threads, while the model in their hands changes."""

    def __init__(self, read, n_threads=3):
        self.read = read
        self.over = threading.Event()
        self.threads = ThreadPoolExecutor(n_threads)
        self.n_threads = n_threads

    def __enter__(self):
        self.found = [self.threads.submit(self.go_on) for _ in range(self.n_threads)]
        return self

    def go_on(self):
        seen = [self.read()]
        while not self.over.is_set():
            seen.append(self.read())
        return seen

    def __exit__(self, *error):
        self.over.set()
        self.seen = [one for each in self.found for one in each.result(LONGEST)]
        self.threads.shutdown()


def test_predictions_are_of_one_model(small, data, quick_switches):
    """Old and new differ in the shape of y, and in the head."""
    vector, matrix = small().fit(data.X, data.y), small().fit(data.X, data.Y)
    repaired = copy.deepcopy(matrix).enforce(data.X_new)
    states = [vector, matrix, repaired]
    expected = [state.predict(data.X_new) for state in states]
    model = copy.deepcopy(vector)

    def read():
        found = model.predict(data.X_new)
        return any(np.array_equal(found, one) for one in expected)

    with Watched(read) as watched:
        for state in states * 60:
            model.fitted_ = state.fitted_
        model.fit(data.X, data.Y).enforce(data.X_new).fit(data.X, data.y)
    assert all(watched.seen)
    assert len(watched.seen) > 3


def test_names_of_columns_come_with_their_model(small, data, quick_switches):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(data.X, columns=list("abc"))
    named, plain = small().fit(frame, data.Y), small().fit(data.X, data.y)
    model = copy.deepcopy(plain)

    def read():
        now = snapshot(model)
        return now.n_outputs_ == 1 + hasattr(now, "feature_names_in_")

    with Watched(read) as watched:
        for _ in range(100):
            model.fitted_ = named.fitted_
            model.fitted_ = plain.fitted_
    assert all(watched.seen)


def test_copies_and_files_are_of_one_model(small, data, quick_switches):
    model = small().fit(data.X, data.Y)

    def read():
        copied = pickle.loads(pickle.dumps(model))
        fit = clone(model).set_params(**model.get_params()).max_epochs
        return fit, copied.multipliers_.shape, copied.n_features_in_, copied.repair_

    with Watched(read, 2) as watched:
        for _ in range(5):
            model.partial_fit(data.X, data.Y)
            model.enforce(data.X_new)
    assert {seen[:3] for seen in watched.seen} == {(5, (40, 2), 3)}


def test_a_fit_sees_all_parameters_of_a_call_or_none(small, data, quick_switches):
    """Bounds that are set in one call are never mixed with others."""
    pairs = [(0.0, 1.0), (10.0, 11.0), (-6.0, -5.0)]
    model = small(lower_bound=0.0, upper_bound=1.0, on_violated_y="ignore")
    model.set_params(max_epochs=1, balance=False)

    def read():
        now = model.get_params()
        return now["lower_bound"], now["upper_bound"]

    with Watched(read) as watched:
        for pair in pairs * 100:
            model.set_params(lower_bound=pair[0], upper_bound=pair[1])
        over = threading.Event()

        def change():
            while not over.is_set():
                for lower, upper in pairs:
                    model.set_params(lower_bound=lower, upper_bound=upper)

        thread = threading.Thread(target=change)
        thread.start()
        fits = [model.fit(data.X, data.y).fitted_ for _ in range(5)]
        over.set()
        thread.join()
    bounds = [fit.ending.model.bounds for fit in fits]
    found = {(float(each.lower[0]), float(each.upper[0])) for each in bounds}
    assert found <= set(pairs)
    assert set(watched.seen) <= set(pairs)


def test_a_refused_set_params_changes_nothing(small):
    model = small()
    before = dict(vars(model))
    with pytest.raises(ValueError, match="Invalid parameter"):
        model.set_params(alpha=3.0, betas=2)
    assert vars(model) == before


def test_a_certificate_is_of_the_model_that_it_records(small, data, monkeypatch):
    """Another thread puts a new model in its place before it is recorded."""
    old, new = small().fit(data.X, data.y), small(random_state=1).fit(data.X, data.y)
    model = copy.deepcopy(old)
    module = sys.modules[certificates_certify.__module__]
    record = module.Subject

    def late(recorded):
        monkeypatch.setattr(module, "Subject", record)
        model.fitted_ = new.fitted_
        return record(recorded)

    monkeypatch.setattr(module, "Subject", late)
    found = model.certify(([5.0] * 3, [6.0] * 3), method="crown")
    expected = new.certify(([5.0] * 3, [6.0] * 3), method="crown")
    assert_same_bits(found.proved_min_, expected.proved_min_)
    assert found.subject_.changes() == ()


@pytest.mark.parametrize("kind", ["regressor", "pipeline", "target"])
def test_a_report_is_of_one_model(small, data, monkeypatch, kind):
    regressor = small(lower_bound=-9.0)
    model = {
        "regressor": regressor,
        "pipeline": make_pipeline(StandardScaler(), regressor),
        "target": TransformedTargetRegressor(regressor, transformer=StandardScaler()),
    }[kind].fit(data.X, data.y)
    last = {"regressor": model, "pipeline": regressor}.get(kind) or model.regressor_
    expected = repr(sklpos.report(model, data.X, data.y))
    module = sys.modules[sklpos.report.__module__]
    bounds_of, new = module.bounds_of, small(random_state=1).fit(data.X, data.Y)

    def late(asked):
        last.fitted_ = new.fitted_
        return bounds_of(asked)

    monkeypatch.setattr(module, "bounds_of", late)
    assert repr(sklpos.report(model, data.X, data.y)) == expected


def test_hooks_of_a_call_are_not_on_the_shared_module(small, data, quick_switches):
    """Another thread would see them, and would be seen by them."""
    model = small().fit(data.X, data.Y)

    def read():
        hooks = [hooks_of(layer) for layer in model.module_.modules()]
        return any(hooks), model.module_.training

    with Watched(read, 1) as watched:
        model.enforce(domain="box", time_limit=0.3)
        model.enforce(domain="box", adjust="bias", time_limit=0.3)
        model.enforce(data.X_new, adjust="bias").certify(method="crown")
        sklpos.report(model, data.X_new)
    assert set(watched.seen) == {(False, False)}
    assert torch.is_grad_enabled()
