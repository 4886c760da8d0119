"""
The best strategy among the feasible ones
=========================================

The default of ``PositiveOutputRegressor`` needs no search for a strategy, since it is
positive for every input. With an ordinary net, here ``MLP``, the strategy is a
hyper-parameter, and so is its ``alpha``: ``GridSearchCV`` can choose both. The error
alone would choose a net that predicts negative rain, so the search scores the
violation, too, and its ``refit`` takes the smallest error among the candidates that
hold the bound on the held-out days.
"""

# %%
# Search
# ------
# The weather of Seattle, 2012 to 2015, in the order of time: each fold is a year.

import numpy as np
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from vega_datasets import data

from sklpos import MLP, STRATEGIES, PositiveOutputRegressor
from sklpos.metrics import SCORERS, best_feasible
from sklpos.plotting import StrategyComparisonDisplay

weather = data.seattle_weather()
season = 2 * np.pi * weather["date"].dt.day_of_year / 365.25
X = weather[["temp_max", "temp_min", "wind"]].assign(
    sin=np.sin(season), cos=np.cos(season)
)
y = weather["precipitation"]  # mm a day

STRATEGY, ALPHA = (f"positiveoutputregressor__{name}" for name in ("strategy", "alpha"))
with_alpha = ["penalty", "exact_penalty", "slack", "augmented_lagrangian"]
without_alpha = [name for name in STRATEGIES if name not in with_alpha]

search = GridSearchCV(
    make_pipeline(
        StandardScaler(),
        PositiveOutputRegressor(MLP, lr=0.003, max_epochs=30, random_state=0),
    ),
    param_grid=[
        {STRATEGY: with_alpha, ALPHA: [0.3, 3.0, 30.0]},
        {STRATEGY: without_alpha},
    ],
    scoring=SCORERS,
    refit=best_feasible(tolerance=0.0, score="rmse", violation="violation_rate"),
    cv=KFold(4),
)
search.fit(X, y)

# %%
# Every candidate ends with the repair, so none predicts negative rain for the days it
# was fitted to. The days of the year left out are another matter.

results = search.cv_results_
rmse = -results["mean_test_rmse"]
violation = -results["mean_test_violation_rate"]
chosen = search.best_index_


def describe(candidate):
    """Return the name of a candidate, with its alpha if it has one."""
    parameters = results["params"][candidate]
    alpha = f", alpha = {parameters[ALPHA]:g}" if ALPHA in parameters else ""
    return parameters[STRATEGY] + alpha


print("On the held-out years      RMSE, mm   negative predictions")
for candidate in np.lexsort((rmse, violation)):
    print(
        f"{describe(candidate):<34}{rmse[candidate]:.3f}"
        f"{abs(violation[candidate]):12.2%}"
    )
print(
    f"\nAll candidates lie within {np.ptp(rmse):.2f} mm of RMSE, the years of one "
    f"candidate have a standard\ndeviation of {results['std_test_rmse'].mean():.2f} mm."
)

# %%
# Which tolerance?
# ----------------
# With ``tolerance=0`` not one held-out day may be negative. This usually leaves the
# strategies that are positive by construction. Who can live with a few negative days
# raises the tolerance: `best_feasible` can be asked again without a new search.

print()
for tolerance in (0.0, 0.02, 0.05):
    candidate = best_feasible(tolerance)(results)
    print(f"tolerance {tolerance:4.0%}: {describe(candidate)}")
print(f"refitted on all days: {describe(chosen)}")
print(f"smallest of its predictions: {search.predict(X).min():.5f} mm")

# %%
# Look at it
# ----------

display = StrategyComparisonDisplay.from_estimator(search)
display.ax_.set(
    title="Strategies, each at its values of alpha",
    xlabel="held-out days with a negative prediction",
    ylabel="held-out RMSE, mm a day",
)
display.figure_.savefig("search_strategies.png", dpi=120)
print("The picture is in search_strategies.png.")
