"""Generated inputs: each fits and keeps its promise, or one sentence names it."""

import numpy as np
import pytest

pytest.importorskip("hypothesis")
from generated import (
    CONTAINERS,
    assert_fits_or_refuses,
    odd_containers,
    odd_values,
    repeatable,
)
from hypothesis import event, given
from properties import assert_same_bits


def check(case):
    sentence = assert_fits_or_refuses(case)
    event("refused" if sentence else "fitted")  # --hypothesis-show-statistics


@pytest.fixture(scope="module")
def expected(small, data):
    return small().fit(data.X, data.y).predict(data.X)


@pytest.mark.parametrize("name", sorted(set(CONTAINERS) - {"torch, bfloat16"}))
def test_a_container_changes_nothing(small, data, expected, name):
    wrap = CONTAINERS[name]
    model = small().fit(wrap(data.X), wrap(data.y), wrap(np.ones(40)))
    assert_same_bits(model.predict(wrap(data.X)), expected)


@repeatable(30)
@given(odd_values())
def test_some_odd_values(case):
    check(case)


@repeatable(30)
@given(odd_containers())
def test_some_odd_containers(case):
    check(case)


@pytest.mark.slow
@repeatable(1_200)
@given(odd_values())
def test_many_odd_values(case):
    check(case)


@pytest.mark.slow
@repeatable(1_200)
@given(odd_containers())
def test_many_odd_containers(case):
    check(case)
