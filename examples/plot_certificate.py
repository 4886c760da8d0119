"""
What each strategy can prove
============================

A test set shows how often a net was negative, on some hundred rows. A certificate says
what holds on a whole domain: *verified*, for every one of its inputs; *falsified*, with
an input as a counterexample; or *unknown*, when the method or the time was not enough.
Here is what it says of the default, which is positive for every input, and of an
ordinary net with each strategy; and what the promise costs on new rows.
"""

# %%
# Train
# -----
# The rain of Seattle: three years to learn from, the fourth to judge. The ordinary nets
# start from the same weights, see the same batches, and end with the repair that is the
# default of their strategy.

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from vega_datasets import data

import sklpos

weather = data.seattle_weather()
season = 2 * np.pi * weather["date"].dt.day_of_year / 365.25
X = weather[["temp_max", "temp_min", "wind"]].assign(
    sin=np.sin(season), cos=np.cos(season)
)
y = weather["precipitation"]  # mm a day

new = weather["date"].dt.year == 2015
X_train, X_test = X[~new], X[new]
y_train, y_test = y[~new], y[new]


def fit(**settings):
    """Train a net behind a scaler."""
    net = sklpos.PositiveOutputRegressor(random_state=0, **settings)
    return make_pipeline(StandardScaler(), net).fit(X_train, y_train)


ordinary = {"module": sklpos.MLP, "lr": 0.003, "max_epochs": 50}
models = {"the default": fit()}
models |= {name: fit(strategy=name, **ordinary) for name in sklpos.STRATEGIES}

# %%
# Certify
# -------
# Three domains, in the unit of the data. The *box* of the training rows, each feature
# in its range, has corners where no day will be: a frosty minimum in a heat wave, or a
# season off the circle. Their *hull*, all weighted means of them, is much smaller. The
# *balls* are the smallest: around each day of the new year, all days that differ by at
# most a tenth of a standard deviation in each feature, with a verdict for every row.

RADIUS = 0.1 * X_train.std().to_numpy()
STATUSES = ("verified", "unknown", "falsified")


def certify(model):
    """Return the certificates over box, hull and balls."""
    balls = {"X": X_test, "radius": RADIUS}
    return {
        "box": sklpos.certify(model, "box", time_limit=2),
        "hull": sklpos.certify(model, "hull", X=X_train, time_limit=2),
        "balls by CROWN": sklpos.certify(model, "ball", **balls, method="crown"),
        "balls": sklpos.certify(model, "ball", **balls, time_limit=5),
    }


def rmse(model):
    """Return the root mean squared error on the new year, in mm."""
    return np.sqrt(np.mean((model.predict(X_test) - y_test) ** 2))


def shares(balls):
    """Return the share of rows with each status."""
    return [np.mean(balls.rows_ == status) for status in STATUSES]


def row(name, model, found):
    """Return one line of the table."""
    over = "".join(f"{found[domain].status_:<10}" for domain in ("box", "hull"))
    quick, full = (shares(found[how])[:2] for how in ("balls by CROWN", "balls"))
    balls = "".join(f"{share:6.0%}" for share in (*quick, *full))
    return (
        f"{name:<21}{model[-1].strategy_.guarantee:<11}{over}{balls}"
        f"{np.mean(model.predict(X_test) < 0):6.1%}{rmse(model):6.2f}"
    )


certificates = {name: certify(model) for name, model in models.items()}
print(
    f"""\
Rain in Seattle, mm a day: {len(y_train)} days to learn from, {len(y_test)} new ones.
Balls around the new days: the shares verified and unknown, the rest is falsified.
New days: the share that is predicted below zero, and RMSE.

                                                    by CROWN  all methods  new days
strategy             guarantee  box       hull      ver.  unk.  ver.  unk.  < 0  RMSE"""
)
for name, model in models.items():
    print(row(name, model, certificates[name]))

# %%
# What it shows
# -------------
# The default is verified on every domain. A guarantee on the training rows, which the
# repair gives to all ordinary nets, ends at these rows. Without a promise for more, an
# ordinary net usually goes below zero somewhere between them, in the hull, and farther
# below in the box. Around most new days they are verified, too. CROWN, the quick
# method, leaves many balls *unknown*: it has no counterexample, but its bounds are not
# tight enough for a proof. ``method="auto"`` goes on with an attack and branch and
# bound, and decides most of these, or all.
#
# The strategies that promise more keep it, for every domain inside the one that they
# promise. On these days it costs next to nothing: the RMSE of all nets lies within
# 0.2 mm.
#
# What it does not show: that the box is the right domain. For a day outside of it only
# the guarantee ``"everywhere"`` promises anything. And a net that was trained without
# a promise can be given one afterwards, see ``plot_provable_repair.py``.

# %%
# Look at it
# ----------
# Left, the balls by CROWN, and as a line the share that all methods verify. In the
# middle, the smallest predictions for the new days; and of hull and box what is proved
# (blue), or the lowest that the search has found (orange).

COLORS = dict(zip(STATUSES, ("#0072b2", "0.8", "#d55e00"), strict=True))
names = list(models)[::-1]
fig, (balls, lowest, price) = plt.subplots(
    1, 3, figsize=(13, 5), sharey=True, layout="constrained"
)
left = np.zeros(len(names))
parts = np.array([shares(certificates[name]["balls by CROWN"]) for name in names])
for status, part in zip(STATUSES, parts.T, strict=True):
    balls.barh(names, part, left=left, color=COLORS[status], label=status)
    left += part
proved = [shares(certificates[name]["balls"])[0] for name in names]
balls.plot(proved, names, "k|", ms=20, mew=2)
balls.xaxis.set_major_formatter(PercentFormatter(1))
balls.set_title("balls around the new days")
balls.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)

for name in names:
    for domain, marker, size in (("hull", "s", 9), ("box", "^", 6)):
        found = certificates[name][domain]
        value = found.proved_min_ if found else found.attained_min_
        color = COLORS[found.status_]
        lowest.plot(value, [name], marker, ms=size, mec=color, mfc="none", mew=1.5)
    lowest.plot(models[name].predict(X_test).min(), [name], "ko", ms=4)
lowest.axvline(0, color="black", lw=0.8)
lowest.set(title="smallest prediction", xlabel="rain, mm a day")
lowest.legend(
    handles=[
        Line2D([], [], marker=marker, ls="", color="black", label=label, mfc=inside)
        for label, marker, inside in (
            ("new days", "o", "black"),
            ("hull", "s", "none"),
            ("box", "^", "none"),
        )
    ],
    loc="upper center",
    bbox_to_anchor=(0.5, -0.13),
    ncols=3,
)

bars = price.barh(names, [rmse(models[name]) for name in names], color="0.6")
price.bar_label(bars, fmt="%.2f", padding=3)
price.set(title="RMSE on the new days", xlabel="mm a day", xlim=(0, 8))
fig.savefig("certificate.png", dpi=120)
print("\nThe picture is in certificate.png.")
