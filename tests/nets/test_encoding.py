"""The piecewise-linear encoding, against interpolation by numpy."""

import itertools

import numpy as np
import pytest
import torch

from sklpos.nets.encoding import (
    Encoding,
    quantile_knots,
    standardisation,
    weighted_mean,
)


def rows(seed=0, n=200):
    X = np.random.default_rng(seed).normal(size=(n, 3))
    X[:, 1] = np.exp(3 * X[:, 1])
    return X


def encode(X, n_intervals, weight=None):
    shares = np.full(len(X), 1 / len(X))
    knots = [quantile_knots(x, shares, n_intervals) for x in X.T]
    weight = torch.ones(len(X)) if weight is None else weight
    return Encoding(knots, torch.as_tensor(X), weight)


def uncentred(encoding, X):
    return (encoding(torch.as_tensor(X)) + encoding.centre).numpy()


@pytest.mark.parametrize("far", [1.0, 1e6, 1e300])
def test_intervals_are_interpolated(far):
    X = rows()
    encoding = encode(X, 8)
    wanted = []
    for column, x in enumerate(X.T):
        knots = quantile_knots(x, np.full(200, 1 / 200), 8)
        for low, high in itertools.pairwise(knots):
            wanted.append(np.interp(far * X[:, column], [low, high], [0, 1]))
    found = uncentred(encoding, far * X)
    assert found == pytest.approx(np.column_stack(wanted), abs=1e-9)


def test_the_mean_on_the_rows_is_zero():
    X, weight = rows(n=5000), torch.rand(5000, dtype=torch.float64)
    mean = weighted_mean(encode(X, 16, weight), torch.as_tensor(X), weight)
    assert len(mean) == 48
    assert mean.abs().max() < 1e-12


def test_a_weight_is_a_repetition():
    X, weight = rows(), np.random.default_rng(1).integers(1, 5, size=200)
    repeated = np.repeat(X, weight, axis=0)
    for x, more in zip(X.T, repeated.T, strict=True):
        own = quantile_knots(x, weight / weight.sum(), 16)
        equal = np.full(len(more), 1 / len(more))
        assert np.array_equal(own, quantile_knots(more, equal, 16))


def test_knots_are_the_quantiles_of_numpy():
    x = rows()[:, 0]
    wanted = np.quantile(x, np.linspace(0, 1, 17), method="inverted_cdf")
    assert np.array_equal(quantile_knots(x, np.full(200, 1 / 200), 16), wanted)


def test_rounded_sums_of_weights_do_not_move_a_quantile():
    # 0.1 added up eight times is a little less than 0.8.
    knots = quantile_knots(np.arange(10.0), np.full(10, 0.1), 5)
    assert knots.tolist() == [0, 1, 3, 5, 7, 9]


def test_a_constant_is_not_scaled():
    # Its mean is rounded, so its deviation is not exactly 0.
    X = torch.full((7, 1), 0.1, dtype=torch.float64)
    found = standardisation(X, torch.ones(7))
    assert found["gain"].item() == 1
    assert found["centre"].item() != X[0].item()


@pytest.mark.parametrize(
    ("x", "n_knots"),
    [(np.ones(20), 1), (np.arange(20) % 2, 2), (np.arange(20) % 3, 3), ([7.0], 1)],
)
def test_few_values_have_few_knots(x, n_knots):
    x = np.asarray(x, dtype=float)
    assert len(quantile_knots(x, np.full(len(x), 1 / len(x)), 16)) == n_knots


def test_knots_too_close_for_float32_are_merged():
    x = 1e6 + np.linspace(0, 1, 50)
    assert len(quantile_knots(x, np.full(50, 1 / 50), 16)) == 1


@pytest.mark.parametrize("sigma", [1, 2, 3])
def test_float32_agrees_on_heavy_tails(sigma):
    X = np.exp(sigma * np.random.default_rng(0).normal(size=(1000, 4)))
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    exact = encode(X, 16)
    far = np.vstack([X, 10 * X])
    wanted = exact(torch.as_tensor(far)).numpy()
    found = exact.float()(torch.as_tensor(far, dtype=torch.float32)).numpy()
    assert np.abs(found - wanted).max() < 5e-4
