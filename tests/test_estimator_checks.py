"""scikit-learn's own checks, every strategy, no expected failure."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklpos import STRATEGIES, PositiveOutputRegressor

# The checks feed what warns: targets below the bound, too few epochs, no data frame.
pytestmark = pytest.mark.filterwarnings("ignore")


@parametrize_with_checks(
    [
        PositiveOutputRegressor(),
        *(PositiveOutputRegressor(strategy=name) for name in sorted(STRATEGIES)),
    ]
)
def test_sklearn_check(estimator, check):
    check(estimator)
