"""scikit-learn's callbacks follow the epochs of a fit, through meta-estimators too."""

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklpos import PositiveOutputRegressor

pytest.importorskip("sklearn.callback", reason="needs scikit-learn >= 1.9")


class Recorder:
    """Follows every task; stops after some epochs."""

    max_propagation_depth = None

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.log, self.predictions = [], []

    def setup(self, estimator, context):
        self.log.append("setup")

    def on_fit_task_begin(self, estimator, context):
        self.log.append(f"begin {context.task_name}")

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
    model = make_model(repair=None).set_callbacks(recorder).fit(*data)
    epochs = ["begin epoch", "end epoch"] * 4
    assert recorder.log == ["setup", "begin fit", *epochs, "end fit", "teardown"]
    assert recorder.predictions[-1] == pytest.approx(model.predict(data[0]), abs=0)
    assert abs(recorder.predictions[0] - recorder.predictions[-1]).max() > 1e-3


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
