"""
Rain cannot be negative
=======================

A net that ends in a plain linear layer is asked for the rain of a day in Seattle, from
the day's temperatures and wind and the season. More than half of the days are dry, so
an ordinary net predicts less than no rain for many of them. Here is what each strategy
makes of that, without and with the repair of the head that ends ``fit`` by default.
"""

# %%
# Three years to learn from, the fourth to predict
# ------------------------------------------------

import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from vega_datasets import data

from sklpos import STRATEGIES, PositiveOutputRegressor

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
# Every net starts from the same weights and sees the same batches. Strategies that
# promise positive outputs ``"everywhere"`` are never repaired; the others are trained
# twice: as training leaves them, and with the repair.


def fit_predict(strategy, repair):
    """Train a net; return its predictions for the training and for the test days."""
    net = PositiveOutputRegressor(strategy=strategy, repair=repair, random_state=0)
    model = make_pipeline(StandardScaler(), net).fit(X_train, y_train)
    return model.predict(X_train), model.predict(X_test)


raw, repaired, by_construction = {}, {}, {}
for name, strategy in STRATEGIES.items():
    if strategy.guarantee == "everywhere":
        by_construction[name] = fit_predict(name, repair="head")
    else:
        raw[name] = fit_predict(name, repair=None)
        repaired[name] = fit_predict(name, repair="head")

clipped = [np.maximum(rain, 0) for rain in raw["unconstrained"]]

# %%
# Compare
# -------


def rmse(rain, y):
    """Return the root mean squared error, in mm."""
    return np.sqrt(np.mean((rain - y) ** 2))


def negative(rain):
    """Return the share of predictions below zero, as a per cent."""
    return f"{np.mean(rain < 0):.1%}"


def row(name, rain):
    """Return one line of the table."""
    train, test = rain
    return (
        f"{name:<20}"
        f"{rmse(train, y_train):7.2f}{rmse(test, y_test):7.2f}"
        f"{negative(train):>9}{negative(test):>7}"
        f"{train.min():9.2f}{test.min():7.2f}"
        f"{train.mean() / y_train.mean():9.3f}{test.mean() / y_test.mean():7.3f}"
    )


def rows(rains):
    """Return the lines of several nets."""
    return "\n".join(row(name, rain) for name, rain in rains.items())


ordinary, mended = raw.pop("unconstrained"), repaired["unconstrained"]
was, still = negative(ordinary[1]), negative(repaired["penalty"][1])
print(
    f"""\
Rain in Seattle, mm a day; {np.mean(y == 0):.0%} of all days are dry.
train: {len(y_train)} days of 2012 to 2014, which the nets learn from
test:  {len(y_test)} days of 2015, which they have not seen

WHAT TO LOOK AT. "negative": the share of predictions below zero. "mean ratio": the
mean of the predictions divided by the mean of y.

WHAT IT SHOWS. An ordinary net predicts negative rain, on {was} of the new days.
Clipping hides that outside the net, and only ever adds rain: see the mean ratio. The
repair stays inside the net, which still ends in a plain linear layer, and is exact on
train: no prediction below zero, and a mean ratio of 1.

WHAT IT DOES NOT SHOW. The repair promises the days it was given, not the next one:
the net of the penalty, repaired, is still negative on {still} of the new days, and a
new year's rain is not that of the old ones. Only the strategies at the end of the table
are positive everywhere. And RMSE hardly moves: the gain is the guarantee.

                         RMSE          negative       smallest       mean ratio
                      train   test   train   test    train   test    train   test
as trained, repair=None
{row("unconstrained", ordinary)}
{row("  clipped at zero", clipped)}
{rows(raw)}

repaired and balanced, the default
{rows(repaired)}

positive by construction, never repaired
{rows(by_construction)}
"""
)

# %%
# Look at it
# ----------
# Above, the new year: the ordinary net and the default. Below, the ordinary net before
# and after the repair on the training days. It lifts the dry days to zero, and lowers
# the others a little, until the mean is right.

dates, default = weather["date"][new], repaired["augmented_lagrangian"]
fig, (year, order) = plt.subplots(2, 1, figsize=(9, 8), layout="constrained")

year.bar(dates, y_test, width=1, color="0.85", label="measured (cut at 18)")
year.plot(dates, ordinary[1], color="tab:red", lw=1, label="ordinary net")
year.plot(dates, default[1], color="tab:blue", lw=1, label="the default, repaired")
year.fill_between(dates, ordinary[1], 0, where=ordinary[1] < 0, color="tab:red")
year.axhline(0, color="black", lw=0.8)
year.set(ylim=(-3, 18), ylabel="rain, mm a day", title="2015, not seen in training")
year.legend(loc="upper center", ncols=3)

rank = np.argsort(ordinary[0])
order.plot(ordinary[0][rank], color="tab:red", label="ordinary net")
order.plot(mended[0][rank], ".", color="tab:green", ms=3, label="the same, repaired")
order.axhline(0, color="black", lw=0.8)
order.set(
    ylim=(-3, 15),
    xlabel="training days, ordered by the prediction of the ordinary net",
    ylabel="predicted rain, mm a day",
    title="2012 to 2014: after the repair none is below zero, and the mean is exact",
)
order.legend()
fig.savefig("first_fit.png", dpi=120)
print("The picture is in first_fit.png.")
