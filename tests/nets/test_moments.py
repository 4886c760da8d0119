"""Moments of targets that come in chunks, compared with numpy on all of them."""

import numpy as np
import pytest

from sklpos.nets.bounds import Bounds
from sklpos.nets.moments import Moments, RunningMoments
from sklpos.nets.units import TargetScale

RNG = np.random.default_rng(0)


def of(y):
    return Moments.of(y, np.ones(len(y)))


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e-6])
@pytest.mark.parametrize("unit", [1e-120, 1.0, 1e120])
def test_merged_chunks_are_the_whole(offset, unit):
    y = unit * (offset + RNG.normal(size=(90, 2)))
    whole = of(y[:1]).merged(of(y[1:50])).merged(of(y[50:]))
    assert whole.number == 90
    np.testing.assert_allclose(whole.mean, y.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(whole.deviation, unit * (y / unit).std(axis=0), 1e-9)
    root = unit * np.sqrt(((y / unit) ** 2).mean(axis=0))
    np.testing.assert_allclose(whole.size, root, rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9])
def test_rounding_is_no_deviation(value):
    whole = of(np.full((3, 1), value)).merged(of(np.full((10, 1), value)))
    assert whole.deviation == 0
    assert whole.mean == value


@pytest.mark.parametrize("size", [1, 7, 100])
def test_at_least_half_of_a_stream_counts(size):
    y = np.cumsum(RNG.normal(size=(700, 1)), axis=0)
    seen = RunningMoments(of(y[:size]))
    for end in range(2 * size, 701, size):
        seen = seen.followed_by(y[end - size : end], np.ones(size))
        number = seen.moments.number
        assert number >= end / 2
        np.testing.assert_allclose(seen.moments.mean, y[end - number : end].mean())


def test_a_first_chunk_of_another_size_is_forgotten():
    seen = RunningMoments(of(np.full((50, 1), 1e12)))
    seen = seen.followed_by(RNG.normal(size=(200, 1)), np.ones(200))
    assert np.abs(seen.moments.mean) < 1


@pytest.mark.parametrize("unit", ["deviation", "mean", None])
@pytest.mark.parametrize("shifted", [True, False])
def test_scales_of_a_stream_are_those_of_its_rows(unit, shifted):
    y = RNG.gamma(1.0, size=(1000, 2))
    y[50:, 1] *= 1e6
    ones, bounds = np.ones(1000), Bounds.read(0.0, None, 2)
    params = {"unit": unit, "shifted": shifted}
    targets = TargetScale.from_data(y[:50], ones[:50], bounds, **params)
    targets = targets.following(y[50:], ones[50:])
    whole = TargetScale.from_data(y[50:], ones[50:], bounds, **params)
    for name in ("shift", "scale", "mean", "deviation"):
        # The first output stays nearly what it was, and is left alone.
        assert getattr(targets, name)[1] == getattr(whole, name)[1]


def test_a_constant_keeps_the_scale_before():
    y, ones = RNG.normal(size=(50, 1)), np.ones(500)
    targets = TargetScale.from_data(y, ones[:50], Bounds.read(None, None, 1))
    after = targets.following(np.full((500, 1), 7.0), ones)
    assert after.scale == targets.scale
    assert after.shift == 7.0
