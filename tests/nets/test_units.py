"""Scaling of the targets."""

import numpy as np
import pytest

from sklpos.nets.bounds import Bounds
from sklpos.nets.units import TargetScale


@pytest.mark.parametrize("value", [0.1, -7.3, 1e6 / 3])
@pytest.mark.parametrize("n_samples", [3, 10_000, 100_000])
def test_constant_targets_have_no_deviation_of_their_own(n_samples, value):
    # The sum of many equal shares is not exactly 1.
    y = np.full((n_samples, 1), value)
    targets = TargetScale.from_data(y, np.ones(n_samples), Bounds.read(None, None, 1))
    assert targets.shift == value
    assert targets.scale == 1
