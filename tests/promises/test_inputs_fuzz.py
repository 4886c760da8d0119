"""Generated inputs, parameters and calls: each works, or one sentence names it."""

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
from odd_parameters import (
    assert_answers,
    odd_calls,
    odd_orders,
    odd_parameters,
    odd_strategies,
)
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


@repeatable(15)
@given(odd_values())
def test_some_odd_values(case):
    check(case)


@repeatable(15)
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


def answer(case):
    sentence = assert_answers(case)
    event("refused" if sentence else "accepted")


@repeatable(40)
@given(odd_parameters())
def test_some_odd_parameters(case):
    answer(case)


@repeatable(20)
@given(odd_strategies())
def test_some_odd_strategies(case):
    answer(case)


@repeatable(25)
@given(odd_calls())
def test_some_odd_calls(case):
    answer(case)


@repeatable(12)
@given(odd_orders())
def test_some_odd_orders(case):
    answer(case)


@pytest.mark.slow
@repeatable(2_000)
@given(odd_parameters())
def test_many_odd_parameters(case):
    answer(case)


@pytest.mark.slow
@repeatable(600)
@given(odd_strategies())
def test_many_odd_strategies(case):
    answer(case)


@pytest.mark.slow
@repeatable(1_200)
@given(odd_calls())
def test_many_odd_calls(case):
    answer(case)


@pytest.mark.slow
@repeatable(400)
@given(odd_orders())
def test_many_odd_orders(case):
    answer(case)
