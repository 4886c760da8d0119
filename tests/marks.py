"""Parametrisations of which the slow tests run most."""

import pytest


def mostly_slow(values, *always) -> list:
    """Mark all values slow but some, which `make test` tries as well."""
    return [
        value if value in always else pytest.param(value, marks=pytest.mark.slow)
        for value in values
    ]
