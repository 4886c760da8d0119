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


def make_two_sided(strategy: str) -> PositiveOutputRegressor:
    """Bounds that hold the standardised targets of some checks, and not of others."""
    needs = {}
    if strategy == "nonnegative_weights":  # features between 0 and 1 learn slowly
        needs = {"module__activation": "sigmoid", "lr": 0.02}
    return PositiveOutputRegressor(
        strategy=strategy, lower_bound=-5.0, upper_bound=5.0, **needs
    )


@pytest.mark.slow
@parametrize_with_checks([make_two_sided(name) for name in sorted(STRATEGIES)])
def test_strategy_with_both_bounds(estimator, check):
    check(estimator)
