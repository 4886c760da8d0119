"""scikit-learn's own checks, every strategy, no expected failure."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklpos import MLP, STRATEGIES, PositiveOutputRegressor, Stack

# The checks feed what warns: targets below the bound, too few epochs, no data frame.
pytestmark = pytest.mark.filterwarnings("ignore")


@parametrize_with_checks([PositiveOutputRegressor(max_epochs=2)])
def test_default_in_few_epochs(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([PositiveOutputRegressor()])
def test_default(estimator, check):
    check(estimator)


def make(strategy, module, **params) -> PositiveOutputRegressor:
    epochs = 5 if module is Stack else 20
    # Weights of one sign learn slowly from the features of a plain net.
    if strategy == "nonnegative_weights" and module is MLP:
        epochs = "auto"
    return PositiveOutputRegressor(
        module, strategy=strategy, max_epochs=epochs, **params
    )


@pytest.mark.slow
@parametrize_with_checks(
    [make(name, MLP) for name in sorted(STRATEGIES)],
)
def test_strategy(estimator, check):
    check(estimator)


#: They hold the standardised targets of some checks, and not of others.
BOTH_BOUNDS = {"lower_bound": -5.0, "upper_bound": 5.0}


@pytest.mark.slow
@parametrize_with_checks(
    [make(name, Stack, **BOTH_BOUNDS) for name in sorted(STRATEGIES)]
)
def test_strategy_with_both_bounds(estimator, check):
    check(estimator)
