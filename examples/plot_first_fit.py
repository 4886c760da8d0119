"""
Rain cannot be negative
=======================

How much rain falls on a day in Seattle? The inputs are the temperatures and the wind of
the day, and the season. More than half of the days are dry, so an ordinary net predicts
less than no rain for many of them. The default of ``PositiveOutputRegressor`` does not
do that for any input. This example compares it with an ordinary net that is clipped,
trained under a constraint, or repaired.
"""

# %%
# Three years to learn from, the fourth to predict
# ------------------------------------------------

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import PercentFormatter
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from vega_datasets import data

import sklpos
from sklpos import MLP, PositiveOutputRegressor

weather = data.seattle_weather()
season = 2 * np.pi * weather["date"].dt.day_of_year / 365.25
X = weather[["temp_max", "temp_min", "wind"]].assign(
    sin=np.sin(season), cos=np.cos(season)
)
y = weather["precipitation"]  # mm a day

new = weather["date"].dt.year == 2015
X_train, X_test = X[~new], X[new]
y_train, y_test = y[~new], y[new]

# %%
# Train
# -----
# The default needs no scaler. ``MLP`` is an ordinary net with one hidden layer. Each of
# its strategies is shown twice: as training leaves the net, and with the repair of the
# last layer.


def fit(strategy, **settings):
    """Train an ordinary net behind a scaler."""
    net = PositiveOutputRegressor(MLP, strategy=strategy, random_state=0, **settings)
    return make_pipeline(StandardScaler(), net).fit(X_train, y_train)


default = PositiveOutputRegressor(random_state=0).fit(X_train, y_train)
softplus = fit("activation")
STRATEGIES = ("unconstrained", "penalty", "augmented_lagrangian")
trained = {name: fit(name, repair=None) for name in STRATEGIES}
repaired = {name: fit(name) for name in STRATEGIES}
ordinary = trained.pop("unconstrained")

# %%
# Compare
# -------


def rmse(rain, y):
    """Return the root mean squared error, in mm."""
    return np.sqrt(np.mean((rain - y) ** 2))


def negative(rain):
    """Return the share of predictions below zero, as a per cent."""
    return f"{np.mean(rain < 0):.1%}"


def row(name, model, lowest=-np.inf):
    """Return one line of the table; predictions are clipped at `lowest`."""
    train = np.maximum(model.predict(X_train), lowest)
    test = np.maximum(model.predict(X_test), lowest)
    return (
        f"{name:<20}"
        f"{rmse(train, y_train):7.2f}{rmse(test, y_test):7.2f}"
        f"{negative(train):>9}{negative(test):>7}"
        f"{train.min():9.2f}{test.min():7.2f}"
        f"{train.mean() / y_train.mean():9.3f}{test.mean() / y_test.mean():7.3f}"
    )


def rows(models):
    """Return the lines of several nets."""
    return "\n".join(row(name, model) for name, model in models.items())


print(
    f"""\
Rain in Seattle, mm a day; {np.mean(y == 0):.0%} of all days are dry.
train: {len(y_train)} days of 2012 to 2014, which the nets learn from
test:  {len(y_test)} days of 2015, which they have not seen

"negative" is the share of predictions below zero. "mean ratio" is the mean of the
predictions divided by the mean of y.

                         RMSE          negative       smallest       mean ratio
                      train   test   train   test    train   test    train   test
positive for every input
{row("the default", default)}
{row("softplus", softplus)}

an ordinary net
{row("unconstrained", ordinary)}
{row("  clipped at zero", ordinary, lowest=0)}
{rows(trained)}

an ordinary net, repaired on the training days
{rows(repaired)}

No input has a negative prediction:
  the default: {sklpos.certify(default, "all").status_}
  augmented_lagrangian, repaired: \
{sklpos.certify(repaired["augmented_lagrangian"], "all").status_}
"""
)

# %%
# What it shows
# -------------
# The default has no negative prediction on any day, seen or new, because there is no
# input that has one: the certificate says so. It still ends in a plain linear layer,
# and its mean is exact on the training days.
#
# Clipping hides negative predictions outside of the net, and it only ever adds rain, so
# the mean is too high on the training days. The repair mends both inside of the net,
# but only for the days that it was given: some new days are negative again.
#
# What it does not show: a better fit. The errors of all nets are close together. And
# the smallest prediction of the default is not 0: it predicts a little rain for every
# day, as the softplus does.

# %%
# Look at it
# ----------
# Above, the new year. Below, the days of the new year are moved away from the mean
# of all training days, to where no day ever was.


def moved(model, factor):
    """Return predictions for days that are farther from the mean day by a factor."""
    centre = X_train.mean()
    return model.predict(centre + factor * (X_test - centre))


fig, (year, far) = plt.subplots(
    2, 1, figsize=(9, 8), height_ratios=(3, 2), layout="constrained"
)
dates, negative_rain = weather["date"][new], ordinary.predict(X_test)
year.bar(dates, y_test, width=1, color="0.85", label="measured (cut at 18)")
year.plot(dates, negative_rain, color="tab:red", lw=1, label="ordinary net")
year.plot(dates, default.predict(X_test), color="tab:blue", lw=1, label="default")
year.fill_between(dates, negative_rain, 0, where=negative_rain < 0, color="tab:red")
year.axhline(0, color="black", lw=0.8)
year.set(
    ylim=(-3, 18),
    ylabel="rain, mm a day",
    title="2015: no day of the default is negative, because none can be",
)
year.legend(loc="upper center", ncols=3)

factors = np.linspace(1, 5, 41)
for name, model, color in (
    ("ordinary net", ordinary, "tab:red"),
    ("ordinary net, repaired", repaired["unconstrained"], "tab:orange"),
    ("default", default, "tab:blue"),
):
    shares = [np.mean(moved(model, factor) < 0) for factor in factors]
    far.plot(factors, shares, color=color, label=name)
far.yaxis.set_major_formatter(PercentFormatter(1))
far.set(
    xlabel="distance from the mean day, times that of the days of 2015",
    ylabel="negative predictions",
    title="Farther away, where no day ever was",
)
far.legend()
fig.savefig("first_fit.png", dpi=120)
print("The picture is in first_fit.png.")
