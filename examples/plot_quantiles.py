"""
Quantiles that do not cross
===========================

The mean tells how much wind to expect. Who plans work on a crane wants to know how much
there may be: a speed that is exceeded on one day in twenty. That is a quantile, and
several of them describe a whole distribution. One net predicts them all, in their
order, and none below 0.
"""

# %%
# Train
# -----
# The days of Seattle, 2012 to 2015: three years to learn from, and the last one to look
# at. `PinballLoss` with a list asks for several quantiles of one target.

import matplotlib.pyplot as plt
import numpy as np
from vega_datasets import data

from sklpos import PositiveOutputRegressor
from sklpos.criteria import PinballLoss

LEVELS = [0.05, 0.25, 0.5, 0.75, 0.95]

weather = data.seattle_weather()
season = 2 * np.pi * weather["date"].dt.day_of_year / 365.25
weather = weather.assign(
    before=weather["wind"].shift(), sin=np.sin(season), cos=np.cos(season)
).dropna()
names = ["before", "sin", "cos", "temp_max", "temp_min", "precipitation"]
X, y = weather[names].to_numpy(), weather["wind"].to_numpy()  # m/s
new = (weather["date"].dt.year == 2015).to_numpy()
X_train, y_train, X_new, y_new = X[~new], y[~new], X[new], y[new]

model = PositiveOutputRegressor(criterion=PinballLoss(LEVELS), random_state=0)
model.fit(X_train, y_train)
quantiles = model.predict(X_new)
print(f"{len(y_train)} days to learn from; predictions of shape {quantiles.shape}")

# %%
# Are they right?
# ---------------
# A quantile of 95 % should be above the targets of 95 % of the days. That has to be
# measured on days that the net has not seen.

print("\nquantile   share of the new days below")
for level, share in zip(LEVELS, np.mean(y_new[:, None] <= quantiles, 0), strict=True):
    print(f"{level:8.0%}{share:10.1%}")
print(f"explained share of the pinball loss: {model.score(X_new, y_new):.2f}")

# %%
# They are in their order for every input, not only for these days: in the last layer,
# the weights of each quantile are those of the one before plus something that cannot be
# negative, and no feature can be negative either. It is a plain ``nn.Linear``.

steps = np.diff(model.predict(1000 * X_new), axis=1)
print(f"\nsmallest step, far outside the data, >= 0: {steps.min() >= 0}")
print(f"smallest quantile >= 0: {model.predict(1000 * X_new).min() >= 0}")
print(f"last layer: {model.module_.head}")

# %%
# What does it gain?
# ------------------
# The usual interval around a mean has the same width on all days: the quantiles of the
# residuals. It covers as many days, but not as many of those with much wind, where it
# matters.

mean = PositiveOutputRegressor(random_state=0).fit(X_train, y_train)
residuals = y_train - mean.predict(X_train)
around = mean.predict(X_new)[:, None] + np.quantile(residuals, [0.05, 0.95])
windy = mean.predict(X_new) >= np.quantile(mean.predict(X_new), 0.8)


def covered(interval, days):
    """Return the share of days inside an interval from 5 to 95 %."""
    inside = (y_new >= interval[:, 0]) & (y_new <= interval[:, -1])
    return inside[days].mean()


print("\ninterval from 5 to 95 %   all days   windy   others   width, m/s")
for name, interval in {"quantiles": quantiles, "mean, residuals": around}.items():
    width = interval[:, -1] - interval[:, 0]
    print(
        f"{name:<24}{covered(interval, np.full(len(y_new), True)):9.0%}"
        f"{covered(interval, windy):9.0%}{covered(interval, ~windy):9.0%}"
        f"{width.min():8.1f} to {width.max():.1f}"
    )

# %%
# Look at it
# ----------

days = weather["date"][new]
fig, axis = plt.subplots(figsize=(9, 4), layout="constrained")
for inner, alpha in ((0, 0.2), (1, 0.4)):
    axis.fill_between(
        days,
        quantiles[:, inner],
        quantiles[:, -1 - inner],
        color="tab:blue",
        alpha=alpha,
        lw=0,
        label=f"{LEVELS[inner]:.0%} to {LEVELS[-1 - inner]:.0%}",
    )
axis.plot(days, quantiles[:, 2], color="tab:blue", lw=1, label="median")
axis.plot(days, y_new, ".", color="0.2", ms=4, label="measured")
axis.set(ylabel="wind, m/s", title="Seattle, 2015", ylim=(0, None))
axis.legend(ncols=4)
fig.savefig("quantiles.png", dpi=120)
print("\nThe picture is in quantiles.png.")
