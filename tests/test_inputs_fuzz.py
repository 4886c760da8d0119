"""Generated inputs: each fits and keeps its promise, or one sentence names it."""

import pytest

pytest.importorskip("hypothesis")
from generated import (
    assert_fits_or_refuses,
    odd_containers,
    odd_values,
    repeatable,
)
from hypothesis import event, given


def check(case):
    sentence = assert_fits_or_refuses(case)
    event("refused" if sentence else "fitted")  # --hypothesis-show-statistics


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
