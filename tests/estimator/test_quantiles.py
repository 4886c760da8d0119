"""Several quantiles of one target: covered, in order everywhere, scored."""

import functools
import pickle

import numpy as np
import pytest
import torch
from sklearn.metrics import d2_pinball_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklpos import MLP, PositiveOutputRegressor, Stack, report
from sklpos.criteria import PinballLoss
from sklpos.estimator.row_summary import summarise_rows
from sklpos.export import to_onnx

LEVELS = [0.1, 0.5, 0.9]


def draw(n, seed=0):
    """Targets whose deviation grows with a feature, all above 0."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n, 2))
    return X, np.exp(X[:, 0] + (1 + X[:, 1]) / 2 * rng.normal(size=n))


X, Y = draw(600)
X_TEST, Y_TEST = draw(3000, seed=1)


def quantiles(levels=LEVELS, **params):
    params = {"criterion": PinballLoss(levels), "random_state": 0, **params}
    return PositiveOutputRegressor(**params)


@pytest.fixture(scope="module")
def fitted():
    return quantiles().fit(X, Y)


def steepest(model, n_steps=50):
    """Steps between quantiles at inputs that make them small, by gradient descent."""
    module = model.module_
    generator = torch.Generator().manual_seed(0)
    inputs = 5 * torch.randn(200, 2, generator=generator)
    inputs = inputs.to(next(module.parameters()).dtype).requires_grad_()
    for _ in range(n_steps):
        steps = module(inputs).diff(dim=1)
        (slope,) = torch.autograd.grad(steps.sum(), inputs)
        with torch.no_grad():
            inputs -= slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return np.diff(model.predict(inputs.detach().numpy()), axis=1)


@pytest.mark.slow
def test_the_share_of_new_targets_below_is_that_of_each_quantile(fitted):
    predictions = fitted.predict(X_TEST)
    assert predictions.shape == (3000, 3)
    covered = (Y_TEST[:, None] <= predictions).mean(axis=0)
    np.testing.assert_allclose(covered, LEVELS, atol=0.05)
    # The true width grows with the second feature.
    width = predictions[:, 2] - predictions[:, 0]
    assert np.corrcoef(width, X_TEST[:, 1])[0, 1] > 0.5


@pytest.mark.parametrize(
    "params",
    [
        {},
        pytest.param({"dtype": "float32"}, marks=pytest.mark.slow),
        pytest.param({"lower_bound": None}, marks=pytest.mark.slow),
        {"lower_bound": None, "upper_bound": 200.0},
        pytest.param({"upper_bound": 200.0}, marks=pytest.mark.slow),
        {"module": MLP, "strategy": "nonnegative_weights"},
        {"module": MLP, "strategy": "activation"},
        {"strategy": "activation", "upper_bound": 200.0},
        {"module": MLP, "strategy": "activation", "lower_bound": None},
    ],
    ids=str,
)
def test_quantiles_cross_nowhere(params):
    model = quantiles(max_epochs=5, **params).fit(X, Y)
    for size in (1e-3, 1.0, 10.0, 1e4, 1e8):
        predictions = model.predict(size * X_TEST)
        assert (np.diff(predictions, axis=1) >= 0).all()
        if params.get("lower_bound", 0.0) is not None:
            assert predictions.min() >= 0
        assert predictions.max() <= params.get("upper_bound", np.inf)
    assert (steepest(model) >= 0).all()


@pytest.mark.slow
def test_many_quantiles_are_in_order():
    levels = np.linspace(0.02, 0.98, 25)
    model = quantiles(levels, max_epochs=20).fit(X, Y)
    predictions = model.predict(X_TEST)
    assert (np.diff(predictions, axis=1) >= 0).all()
    covered = (Y_TEST[:, None] <= predictions).mean(axis=0)
    np.testing.assert_allclose(covered, levels, atol=0.1)


def test_kinds_of_members_have_the_same_shares_in_all_quantiles(fitted):
    shares = fitted.net_.module_.shares
    assert (shares == shares[0]).all()
    assert (shares[0] != 1 / 3).any()


def test_a_class_and_an_instance_are_the_same():
    of_instance = quantiles(max_epochs=3).fit(X, Y).predict(X)
    of_class = {"criterion": PinballLoss, "criterion__quantile": LEVELS}
    of_factory = {"criterion": functools.partial(PinballLoss, LEVELS)}
    for given in (of_class, of_factory):
        model = quantiles(max_epochs=3, **given).fit(X, Y)
        np.testing.assert_array_equal(model.predict(X), of_instance)


def test_the_score_is_the_mean_d2_of_the_quantiles(fitted):
    weight = np.linspace(0, 1, len(Y_TEST))
    expected = [
        d2_pinball_score(Y_TEST, found, alpha=level, sample_weight=weight)
        for found, level in zip(fitted.predict(X_TEST).T, LEVELS, strict=True)
    ]
    found = fitted.score(X_TEST, Y_TEST, sample_weight=weight)
    assert found == pytest.approx(np.mean(expected))
    column = fitted.score(X_TEST, Y_TEST[:, None], sample_weight=weight)
    assert column == pytest.approx(found)


def test_one_quantile_is_a_vector_and_scored_by_r2():
    model = quantiles(0.9, max_epochs=10).fit(X, Y)
    predictions = model.predict(X)
    assert predictions.shape == Y.shape
    assert np.mean(predictions >= Y) == pytest.approx(0.9, abs=0.05)
    residual = np.sum((Y - predictions) ** 2) / np.sum((Y - Y.mean()) ** 2)
    assert model.score(X, Y) == pytest.approx(1 - residual)


def test_searches_and_pipelines_score_quantiles():
    model = make_pipeline(StandardScaler(), quantiles(max_epochs=2))
    assert np.isfinite(cross_val_score(model, X, Y, cv=2)).all()
    grid = {"lr": [1e-3, 2e-2]}
    search = GridSearchCV(quantiles(max_epochs=2), grid, cv=2).fit(X, Y)
    assert search.best_params_ == {"lr": 2e-2}


def test_a_level_per_column_has_no_order():
    """Targets of their own may be in any order."""
    both = np.column_stack([Y + 10, Y])
    model = quantiles([0.1, 0.9], max_epochs=5).fit(X, both)
    predictions = model.predict(X)
    assert predictions.shape == both.shape
    assert (predictions[:, 0] > predictions[:, 1]).all()


def test_a_report_compares_each_quantile_with_the_target(fitted):
    found = fitted.predict(X_TEST) - Y_TEST[:, None]
    summary, _ = summarise_rows(fitted, X_TEST, Y_TEST)
    np.testing.assert_allclose(summary.rmse, np.sqrt(np.mean(found**2, axis=0)))
    assert "nan" not in str(report(fitted, X_TEST, Y_TEST))


def test_stored_models_and_further_epochs_keep_the_order(fitted):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(X_TEST), fitted.predict(X_TEST))
    again.partial_fit(X, Y)
    assert (np.diff(again.predict(10 * X_TEST), axis=1) >= 0).all()
    warm = quantiles(max_epochs=2, warm_start=True).fit(X, Y).fit(X, Y)
    assert (np.diff(warm.predict(10 * X_TEST), axis=1) >= 0).all()


@pytest.mark.parametrize(
    ("levels", "y", "params", "words"),
    [
        ([0.5, 0.1], Y, {}, r"quantiles \[0.5, 0.1\], which must increase"),
        (LEVELS, np.column_stack([Y, Y]), {}, "3 quantiles, but y has 2 columns"),
        (LEVELS, Y, {"lower_bound": [0, 1, 2]}, r"lower_bound=\[0, 1, 2\] and"),
        (LEVELS, Y, {"lower_bound": [0, 1]}, "lower_bound"),
        (LEVELS, Y, {"balance": True}, "balance=True would move each"),
    ],
)
def test_what_cannot_be_is_refused(levels, y, params, words):
    with pytest.raises(ValueError, match=words) as caught:
        quantiles(levels, **params).fit(X, y)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("module", [MLP, Stack])
def test_a_strategy_that_keeps_no_order_warns(module):
    model = quantiles(module=module, strategy="augmented_lagrangian", max_epochs=1)
    with pytest.warns(UserWarning, match="the quantiles may cross"):
        model.fit(X, Y)


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [{}, {"module": MLP, "strategy": "activation"}, {"lower_bound": None}],
    ids=str,
)
def test_a_stream_in_another_unit_keeps_order_and_learns(params):
    model = quantiles(**params)
    for _ in range(3):
        model.partial_fit(X, Y)
    for _ in range(60):
        model.partial_fit(X, 100 * Y)
    predictions = model.predict(X_TEST)
    assert (np.diff(predictions, axis=1) >= 0).all()
    assert model.score(X_TEST, 100 * Y_TEST) > 0.15


def test_an_exported_activation_keeps_the_order(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model = quantiles(module=MLP, strategy="activation", max_epochs=1).fit(X, Y)
    with torch.no_grad():
        # Turned around, so that the maximum has something to do.
        model.module_.module.head.bias.copy_(torch.tensor([1.0, 0.0, 0.5]))
    expected = model.predict(X)
    assert (np.diff(expected) == 0).any()
    to_onnx(model, tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: X})
    np.testing.assert_allclose(found, expected, rtol=1e-9)
