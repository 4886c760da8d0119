"""X of more than two dimensions: images and sequences, for a module of one's own."""

import pickle
import re

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from torch import nn

import sklpos
from sklpos import MLP, Stack
from sklpos.export import to_onnx, to_torch

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(60, 2, 6, 6)).astype(np.float32)
BRIGHT = np.maximum(4 * IMAGES[:, 0, :3].mean(axis=(1, 2)), 0)
SERIES = rng.normal(size=(60, 7, 2))
TOKENS = rng.integers(0, 10, size=(60, 5))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.ReLU(),
        nn.Linear(16, 1),
    )


class Recurrent(nn.Module):
    def __init__(self, n_outputs):
        super().__init__()
        self.layer = nn.GRU(2, 8, batch_first=True)
        self.head = nn.Linear(8, n_outputs)

    def forward(self, X):
        return self.head(self.layer(X)[0][:, -1])


class Words(nn.Module):
    def __init__(self, cast=True):
        super().__init__()
        self.cast = cast
        self.words = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, X):
        X = X.long() if self.cast else X
        return self.head(torch.relu(self.words(X).mean(1)))


@pytest.fixture(scope="module")
def model(small):
    return small(module=convolutional(), batch_size=16).fit(IMAGES, BRIGHT)


def test_predictions_are_those_of_the_module(model):
    with torch.no_grad():
        expected = model.module_(torch.as_tensor(IMAGES)).numpy().ravel()
    np.testing.assert_array_equal(model.predict(IMAGES), expected)
    assert model.n_features_in_ == 2


@pytest.mark.parametrize("as_other", [torch.as_tensor, np.ndarray.tolist])
def test_other_containers_are_read(model, as_other):
    np.testing.assert_array_equal(
        model.predict(as_other(IMAGES)), model.predict(IMAGES)
    )


def test_bounds_hold_for_each_strategy(small, strategy):
    model = small(module=convolutional(), strategy=strategy)
    if strategy == "certified":
        with pytest.raises(ValueError, match=r"rows have the shape \(2, 6, 6\)"):
            model.fit(IMAGES, BRIGHT)
        return
    model.fit(IMAGES, BRIGHT)
    if strategy != "unconstrained" or model.repair_ is not None:
        assert model.predict(IMAGES).min() >= 0


def test_sequences_and_tokens(small):
    y = np.abs(SERIES[:, :, 0].mean(axis=1))
    outputs = np.column_stack([y, 2 * y])
    model = small(module=Recurrent).fit(SERIES, outputs)
    assert model.predict(SERIES).shape == (60, 2)
    count = (TOKENS == 3).sum(axis=1)
    assert small(module=Words()).fit(TOKENS, count).predict(TOKENS).min() >= 0


def test_promises_on_rows_hold(model):
    other = 2 * IMAGES + 1
    model = pickle.loads(pickle.dumps(model)).enforce(other)
    assert model.predict(other).min() >= 0
    assert model.certify_risk(IMAGES[:30]).violation_rate_ >= 0
    assert "60 rows" in str(sklpos.report(model, IMAGES, BRIGHT))


def test_training_goes_on(small):
    params = {"module": convolutional(), "batch_size": 16, "warm_start": True}
    halves = small(**params, max_epochs=2).fit(IMAGES, BRIGHT).fit(IMAGES, BRIGHT)
    whole = small(**params, max_epochs=4).fit(IMAGES, BRIGHT)
    np.testing.assert_array_equal(halves.predict(IMAGES), whole.predict(IMAGES))


def test_rows_of_another_size_are_taken_where_the_module_takes_them(small):
    model = small(module=convolutional()).partial_fit(IMAGES, BRIGHT)
    model.partial_fit(IMAGES[:, :, :5], BRIGHT)
    large = np.repeat(IMAGES, 2, axis=3)
    with torch.no_grad():
        expected = model.module_(torch.as_tensor(large)).numpy().ravel()
    np.testing.assert_array_equal(model.predict(large), expected)


@pytest.mark.parametrize("unit", [1, 100])
def test_rows_that_are_too_small_for_the_module_are_refused(small, unit):
    model = small(module=convolutional()).fit(IMAGES, BRIGHT)
    before, cut = model.predict(IMAGES), IMAGES[:, :, :1]
    with pytest.raises(ValueError, match=r"cannot take X with rows of shape \(2, 1, 6"):
        model.partial_fit(cut, unit * BRIGHT)
    with pytest.raises(ValueError, match=r"cannot take X with rows of shape \(2, 1, 6"):
        model.fit(IMAGES, BRIGHT, X_val=cut, y_val=BRIGHT)
    np.testing.assert_array_equal(model.predict(IMAGES), before)


def test_images_are_searched_over(small):
    search = GridSearchCV(small(module=convolutional()), {"alpha": [1.0, 2.0]}, cv=2)
    assert np.isfinite(search.fit(IMAGES, BRIGHT).best_score_)


SENTENCES = {
    "2 dimensions": (lambda m: m.predict(IMAGES[:, :, 0, 0]), "cannot take X with 2"),
    "too small": (lambda m: m.predict(IMAGES[:, :, :2]), "rows of shape (2, 2, 6)"),
    "channels": (lambda m: m.predict(IMAGES[:, :1]), "X has 1 features"),
    "nan": (lambda m: m.predict(IMAGES * np.nan), "contains NaN"),
    "huge": (lambda m: m.predict(IMAGES.astype(float) * 1e200), "float32"),
    "box": (lambda m: m.certify(), "trained on rows of shape (2, 6, 6)"),
    "own box": (lambda m: m.certify((0, 1)), "trained on rows of shape (2, 6, 6)"),
    "enforce": (lambda m: m.enforce(domain="box"), "a domain needs X of shape"),
    "bounds": (lambda m: m.output_bounds(IMAGES, IMAGES), "X_low: Found array"),
    "radius": (lambda m: m.certified_radius(IMAGES), "X: Found array"),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_what_needs_features_says_so(model, case):
    call, words = SENTENCES[case]
    before = model.predict(IMAGES)
    with pytest.raises(ValueError, match=re.escape(words)):
        call(model)
    np.testing.assert_array_equal(model.predict(IMAGES), before)


@pytest.mark.parametrize("module", [Stack, MLP, MLP(2, 1)])
@pytest.mark.parametrize("X", [IMAGES, torch.as_tensor(SERIES)])
def test_modules_of_features_refuse_images(small, module, X):
    with pytest.raises(ValueError, match=r"X with dim \d.* flatten the rows"):
        small(module=module).fit(X, BRIGHT)


def test_an_embedding_says_what_it_takes(small):
    with pytest.raises(ValueError, match=r"float64; write X\.long\(\)"):
        small(module=Words(cast=False)).fit(TOKENS, BRIGHT)


def test_a_module_of_another_shape_is_refused(small):
    with pytest.raises(ValueError, match=r"it returned \(1, 2, 6, 1\)"):
        small(module=nn.Linear(6, 1)).fit(IMAGES, BRIGHT)


def test_to_torch_keeps_the_layer_that_flattens(model, small):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.ReLU(), nn.Linear(4, 1))
    for fitted in (model, small(module=flat).fit(IMAGES, BRIGHT)):
        with torch.no_grad():
            found = to_torch(fitted)(torch.as_tensor(IMAGES)).ravel()
        np.testing.assert_allclose(found, fitted.predict(IMAGES), atol=1e-6)


@pytest.mark.parametrize("X", [None, IMAGES])
def test_to_onnx_refuses_images(model, X, tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match=r"trained on rows of shape \(2, 6, 6\)"):
        to_onnx(model, tmp_path / "images.onnx", X=X)


UNUSUAL = {
    "LazyBatchNorm1d": lambda: nn.Sequential(nn.LazyBatchNorm1d(), nn.Linear(3, 1)),
    "ScriptModule": lambda: torch.jit.script(nn.Linear(3, 1)),
    "compile=True": lambda: torch.compile(nn.Linear(3, 1), backend="eager"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("words", UNUSUAL)
def test_modules_that_cannot_be_copied_or_seen_into(small, words):
    with pytest.raises(ValueError, match=f"^module .*{words}"):
        small(module=UNUSUAL[words]()).fit(SERIES[:, 0].repeat(2, 1)[:, :3], BRIGHT)
