"""scikit-learn's callbacks follow the epochs of a fit, through meta-estimators too."""

import numpy as np
import pytest
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklpos import MLP, PositiveOutputRegressor

callback = pytest.importorskip("sklearn.callback", reason="needs scikit-learn >= 1.9")


class Recorder:
    """Follows every task; stops after some epochs."""

    max_propagation_depth = None

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.log, self.predictions, self.expected = [], [], {}

    def setup(self, estimator, context):
        self.log.append("setup")

    def on_fit_task_begin(self, estimator, context):
        self.log.append(f"begin {context.task_name}")
        self.expected[context.task_name] = context.max_subtasks

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        self.log.append(f"end {context.task_name}")
        if context.task_name == "epoch":
            self.predictions.append(fitted_estimator.predict(X))
        return len(self.predictions) == self.stop_after

    def teardown(self, estimator, context):
        self.log.append("teardown")


@pytest.fixture
def data():
    X = np.linspace(-1, 1, 30)[:, None]
    return X, np.maximum(X.ravel(), 0)


def make_model(**params):
    return PositiveOutputRegressor(max_epochs=4, random_state=0, **params)


def test_every_epoch_is_a_task_with_a_usable_estimator(data):
    recorder = Recorder()
    model = make_model(module=MLP, repair=None).set_callbacks(recorder).fit(*data)
    epochs = ["begin epoch", "end epoch"] * 4
    assert recorder.log == ["setup", "begin fit", *epochs, "end fit", "teardown"]
    assert recorder.expected == {"fit": 4, "epoch": 0}
    assert recorder.predictions[-1] == pytest.approx(model.predict(data[0]), abs=0)
    assert abs(recorder.predictions[0] - recorder.predictions[-1]).max() > 1e-3


@pytest.mark.parametrize("upper_bound", [None, 0.5])
def test_every_epoch_of_the_default_keeps_the_bounds(data, upper_bound):
    X, y = data[0], np.minimum(data[1], upper_bound or np.inf)
    recorder = Recorder()
    model = make_model(upper_bound=upper_bound).set_callbacks(recorder).fit(X, y)
    assert len(recorder.predictions) == 4
    for predictions in recorder.predictions:
        assert predictions.min() >= 0
        assert predictions.max() <= (upper_bound or np.inf)
    # The end of the fit weighs the members, and makes the mean exact.
    assert model.predict(X).mean() == pytest.approx(y.mean())
    assert recorder.predictions[-1].mean() != pytest.approx(y.mean())


def test_a_callback_can_stop_training(data):
    model = make_model().set_callbacks(Recorder(stop_after=2)).fit(*data)
    assert model.n_iter_ == 2
    assert model.predict(data[0]).min() >= 0


def test_callbacks_do_not_change_the_fit(data):
    plain = make_model().fit(*data).predict(data[0])
    followed = make_model().set_callbacks(Recorder()).fit(*data).predict(data[0])
    assert np.array_equal(plain, followed)


def test_callbacks_reach_through_a_pipeline(data):
    recorder = Recorder()
    pipeline = make_pipeline(StandardScaler(), make_model())
    pipeline.set_callbacks(recorder).fit(*data)
    assert recorder.log.count("end epoch") == 4


def test_teardown_runs_when_fit_fails(data):
    recorder = Recorder()
    model = make_model(strategy="unknown").set_callbacks(recorder)
    with pytest.raises(ValueError, match="unknown"):
        model.fit(*data)
    assert recorder.log[-1] == "teardown"


def make_search(model):
    grid = {"positiveoutputregressor__lr": [0.01, 0.02]}
    return GridSearchCV(make_pipeline(StandardScaler(), model), grid, cv=2)


def test_scores_of_every_epoch_of_every_fit_of_a_search(data):
    monitor = callback.ScoringMonitor(scoring=["r2", "neg_mean_absolute_error"])
    search = make_search(make_model().set_callbacks(monitor)).fit(*data)
    log = monitor.get_logs()
    assert log.estimator_name == "GridSearchCV"
    epochs = [row for row in log.data if row["task_name"] == "epoch"]
    fits = [row for row in log.data if row["task_name"] == "fit"]
    assert len(epochs) == 4 * (2 * 2 + 1)  # candidates, folds and the last fit
    assert len(fits) == 5
    of_the_best = min(fits, key=lambda row: len(row["task_id_path"]))
    assert of_the_best["r2"] == r2_score(data[1], search.predict(data[0]))


def test_scores_are_weighted_as_the_fit_is(data):
    weight = np.linspace(0.1, 1, len(data[0]))
    monitor = callback.ScoringMonitor(scoring="r2")
    model = make_model().set_callbacks(monitor).fit(*data, sample_weight=weight)
    last = monitor.get_logs().data[0]
    score = r2_score(data[1], model.predict(data[0]), sample_weight=weight)
    assert (last["task_name"], last["r2"]) == ("fit", score)


class StopAfter:
    """Stops every fit after some epochs; stays where it is set."""

    def __init__(self, epochs):
        self.epochs = epochs

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        return context.task_name == "epoch" and context.task_id + 1 == self.epochs

    def teardown(self, estimator, context):
        pass


def test_a_callback_can_stop_every_fit_of_a_search(data):
    monitor = callback.ScoringMonitor(scoring="r2")
    model = make_model().set_callbacks(StopAfter(3), monitor)
    search = make_search(model).fit(*data)
    stopped = [r for r in monitor.get_logs().data if r["task_name"] == "epoch"]
    assert len(stopped) == 3 * 5
    assert search.best_estimator_[-1].n_iter_ == 3
    assert search.predict(data[0]).min() >= 0


def test_a_progress_bar_shows_the_epochs_of_each_fit(data, capsys):
    pytest.importorskip("rich")
    bar = callback.ProgressBar(max_propagation_depth=None)
    make_search(make_model()).set_callbacks(bar).fit(*data)
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if "PositiveOutput" in line]
    assert len(lines) == 5
    assert all("100%" in line for line in lines)
