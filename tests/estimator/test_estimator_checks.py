"""scikit-learn's own checks, every strategy, no expected failure."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklpos import STRATEGIES, PositiveOutputRegressor

# The checks feed what warns: targets below the bound, too few epochs, no data frame.
pytestmark = pytest.mark.filterwarnings("ignore")


@parametrize_with_checks([PositiveOutputRegressor()])
def test_default(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [PositiveOutputRegressor(strategy=name) for name in sorted(STRATEGIES)]
)
def test_strategy(estimator, check):
    check(estimator)
