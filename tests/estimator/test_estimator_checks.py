"""scikit-learn's own checks, every strategy, no expected failure."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklpos import MLP, STRATEGIES, PositiveOutputRegressor, Stack

# The checks feed what warns: targets below the bound, too few epochs, no data frame.
pytestmark = pytest.mark.filterwarnings("ignore")


@parametrize_with_checks([PositiveOutputRegressor(max_epochs=5)])
def test_default_in_few_epochs(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([PositiveOutputRegressor()])
def test_default(estimator, check):
    check(estimator)


def make(strategy, module, **params) -> PositiveOutputRegressor:
    if module is Stack:
        params["max_epochs"] = 20
    return PositiveOutputRegressor(module, strategy=strategy, **params)


@pytest.mark.slow
@parametrize_with_checks(
    [make(name, module) for name in sorted(STRATEGIES) for module in (Stack, MLP)]
)
def test_strategy(estimator, check):
    check(estimator)


def make_two_sided(strategy: str, module) -> PositiveOutputRegressor:
    """Bounds that hold the standardised targets of some checks, and not of others."""
    needs = {}
    # The features of an `MLP` must be between 0 and 1, too, and then learn slowly.
    if strategy == "nonnegative_weights" and module is MLP:
        needs = {"module__activation": "sigmoid", "lr": 0.02}
    return make(strategy, module, lower_bound=-5.0, upper_bound=5.0, **needs)


@pytest.mark.slow
@parametrize_with_checks(
    [
        make_two_sided(name, module)
        for name in sorted(STRATEGIES)
        for module in (Stack, MLP)
    ]
)
def test_strategy_with_both_bounds(estimator, check):
    check(estimator)
