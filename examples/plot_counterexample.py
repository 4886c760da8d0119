"""
Where the net goes below zero
=============================

An ordinary net, here ``MLP``, with two inputs can be seen whole: the rain of a day in
Seattle from its lowest and its highest temperature. The repair that ends ``fit`` makes
every training day positive, and says nothing about the space between and around these
days. (The default, ``Stack``, is positive for every input.) ``certify``
finds out, in degrees: it proves that no prediction of a domain is negative, or shows
an input where one is. ``enforce`` then makes the proof possible.
"""

# %%
# A net that is right on every row it has seen
# --------------------------------------------

import copy

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch, Polygon, Rectangle
from scipy.spatial import ConvexHull
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from vega_datasets import data

import sklpos

weather = data.seattle_weather()
X = weather[["temp_min", "temp_max"]].to_numpy()  # degrees Celsius
y = weather["precipitation"].to_numpy()  # mm a day

before = make_pipeline(
    StandardScaler(),
    sklpos.PositiveOutputRegressor(sklpos.MLP, lr=0.003, max_epochs=50, random_state=0),
).fit(X, y)
print(f"smallest prediction for the {len(X)} training days: ", end="")
print(f"{before.predict(X).min():.4f} mm")

# %%
# Ask
# ---
# The box is the range of each feature by itself, so it contains days that cannot be:
# the lowest temperature above the highest. The hull, all mixtures of training days,
# leaves these out. The scaler is part of the model: all numbers are degrees and mm.


def ask(model):
    """Certify a model over the box and over the hull; print what is found."""
    certificates = {
        "box": sklpos.certify(model, "box"),
        "hull": sklpos.certify(model, "hull", X=X),
    }
    for domain, certificate in certificates.items():
        print(f"{domain:>6}: {certificate.status_}", end="")
        if certificate.counterexample_ is None:
            print(f", it predicts at least {certificate.proved_min_[0]:.4f} mm")
        else:
            low, high = certificate.counterexample_
            rain = model.predict([[low, high]])[0]
            print(f", from {low:.1f} to {high:.1f} degrees it predicts {rain:.2f} mm")
    return certificates


print("\nrepaired on the training days")
found = ask(before)

# %%
# Enforce
# -------
# ``enforce`` is a method of the net, behind the scaler. It takes the nearest head for
# which the bound is proved on the whole box, and so on the hull inside. The net still
# ends in a plain linear layer, and its mean prediction is still that of y.

after = copy.deepcopy(before)
after[-1].enforce(domain="box")
print("\nrepaired on the box")
ask(after)


def rmse(model):
    """Return the root mean squared error on the training days, in mm."""
    return np.sqrt(np.mean((model.predict(X) - y) ** 2))


print(f"\n{'':12}RMSE, mm    mean of predictions, mm (of y: {y.mean():.3f})")
for name, model in (("before", before), ("after", after)):
    print(f"{name:12}{rmse(model):8.3f}{model.predict(X).mean():13.3f}")

# %%
# Look at it
# ----------
# The counterexample of the box lies where no day was, so no training day could warn of
# it. On the right nothing is below zero inside the box; outside, nothing is promised.
# And positive is all that is proved: upper left, where no day holds it, the repaired
# net predicts more rain than before, and is no more to be trusted there.

ORANGE = "#d55e00"  # told from blue by all kinds of sight
low, high = X.min(axis=0), X.max(axis=0)
room = 0.08 * (high - low)
grid = np.meshgrid(
    *(np.linspace(a, b, 200) for a, b in zip(low - room, high + room, strict=True))
)
points = np.column_stack([axis.ravel() for axis in grid])


def draw(axes, model, title):
    """Draw the predictions of a model, the days, the box and the hull."""
    rain = model.predict(points).reshape(grid[0].shape)
    axes.contourf(*grid, rain, levels=[-np.inf, 0], colors=[ORANGE], alpha=0.4)
    levels = [2, 4, 8, 12, 16, 20, 24, 28]
    lines = axes.contour(*grid, rain, levels=levels, colors="#0072b2", linewidths=1)
    axes.clabel(lines, fmt="%d mm")
    axes.plot(*X.T, ".", color="0.35", ms=2, label="training day")
    axes.add_patch(Rectangle(low, *(high - low), fill=False, lw=1.5, label="box"))
    border = X[ConvexHull(X).vertices]
    axes.add_patch(Polygon(border, fill=False, ls="--", lw=1.5, label="hull"))
    axes.set(title=title, xlabel="lowest temperature, degrees")


def mark(axes, domain, certificate, marker):
    """Mark the counterexample of a certificate, if it has one."""
    if certificate.counterexample_ is not None:
        where = certificate.counterexample_
        look = {"color": ORANGE, "mec": "black", "ms": 13, "ls": "none", "zorder": 3}
        label = f"counterexample of the {domain}"
        axes.plot(*where, marker, clip_on=False, label=label, **look)


fig, (left, right) = plt.subplots(
    1, 2, figsize=(11, 6), sharex=True, sharey=True, layout="constrained"
)
draw(left, before, "Before: repaired on the training days")
draw(right, after, "After: repaired on the box")
mark(left, "box", found["box"], "X")
mark(left, "hull", found["hull"], "*")
left.set_ylabel("highest temperature, degrees")
negative = Patch(color=ORANGE, alpha=0.4, label="below zero")
fig.legend(
    handles=[negative, *left.get_legend_handles_labels()[0]],
    loc="outside lower center",
    ncols=6,
)
fig.savefig("counterexample.png", dpi=120)
print("\nThe picture is in counterexample.png.")
