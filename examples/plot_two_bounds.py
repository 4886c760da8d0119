"""
A share lies between 0 and 1
============================

Each pixel of scikit-learn's handwritten digits counts how many of 16 points are covered
with ink, so that it is a share: 0 to 1, and exactly 0 or 1 for more than half of the
pixels. A net that completes a digit from its upper half does not know this. It predicts
less ink than none, and more than there is room for. Two bounds prevent that, for every
image.
"""

# %%
# Train
# -----
# The upper half of an image has 32 pixels, the lower half is 32 outputs. One bound for
# all of them is a number; bounds that differ would be lists. ``MLP`` is an ordinary net
# with one hidden layer.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sklpos import MLP, PositiveOutputRegressor

ink = load_digits().data / 16
X_train, X_test, Y_train, Y_test = train_test_split(
    ink[:, :32], ink[:, 32:], test_size=0.3, random_state=0
)


def fit(**params):
    """Train a net."""
    return PositiveOutputRegressor(random_state=0, **params).fit(X_train, Y_train)


ordinary = fit(module=MLP, strategy="unconstrained", repair=None)
default = fit(lower_bound=0, upper_bound=1)
repaired = fit(module=MLP, lower_bound=0, upper_bound=1)
sigmoid = fit(module=MLP, lower_bound=0, upper_bound=1, strategy="activation")

# %%
# Compare
# -------
# The default ends in a linear layer and stays inside for every input. The ordinary net
# with two bounds is trained with a price on each violation, and then its last layer is
# repaired. With both bounds, ``strategy="activation"`` ends in a sigmoid that is scaled
# to the range.


def outside(share):
    """Return where predictions are outside the range."""
    return (share < 0) | (share > 1)


def row(name, train, test):
    """Return one line of the table."""
    return (
        f"{name:<22}{np.sqrt(np.mean((test - Y_test) ** 2)):6.3f}"
        f"{np.mean(outside(train)):9.1%}{np.mean(outside(test)):7.1%}"
        f"{np.mean(outside(test).any(axis=1)):9.1%}"
        f"{train.mean() / Y_train.mean():10.3f}{test.mean() / Y_test.mean():7.3f}"
    )


predicted = {
    "ordinary net": (ordinary.predict(X_train), ordinary.predict(X_test)),
    "default": (default.predict(X_train), default.predict(X_test)),
    "ordinary, repaired": (repaired.predict(X_train), repaired.predict(X_test)),
    "sigmoid": (sigmoid.predict(X_train), sigmoid.predict(X_test)),
}
clipped = [np.clip(share, 0, 1) for share in predicted["ordinary net"]]
print(
    f"""\
{len(X_train)} images to learn from, {len(X_test)} new ones. Outside: the share of the
pixels that are predicted below 0 or above 1, and of the new images with such a pixel.
Mean ratio: the mean prediction divided by the mean of the targets.

                       RMSE       outside        images     mean ratio
                       test    train   test        test    train   test"""
)
for name, shares in predicted.items():
    print(row(name, *shares))
print(row("ordinary net, clipped", *clipped))

# %%
# What it shows
# -------------
# Nearly every image that the ordinary net completes has an impossible pixel. The
# default has none, for any image, and the mean of each pixel is that of the targets.
# The repair of the ordinary net promises the same for the training images only: about
# one new image in six has a pixel outside. The sigmoid is inside for every image, but
# its mean is off, as nothing makes it exact. The errors are almost the same: bounds do
# not make a net more accurate.
#
# Clipping is simple and puts every pixel into the range as well. It happens outside the
# net and moves the mean, and no gradient or exported layer knows about it.

# %%
# Prove it
# --------
# The upper half of an image is a point of the box from 0 to 1. A certificate says
# whether all 32 outputs stay inside for each of its points, on both sides.

box = (np.zeros(32), np.ones(32))
models = {"default": default, "ordinary, repaired": repaired, "sigmoid": sigmoid}
for name, model in models.items():
    print(f"{name}: {model.certify(box, time_limit=10).status_}")

# %%
# Look at it
# ----------
# The new images for which the ordinary net is worst. Below the dashed line is what the
# nets have filled in: red is less ink than none, blue is more than there is room for.

worst = np.argsort(np.abs(predicted["ordinary net"][1] - 0.5).max(axis=1))[-8:]
rows = {"image": Y_test, **{name: test for name, (_, test) in predicted.items()}}
fig, axes = plt.subplots(len(rows), len(worst), figsize=(9, 6.2), layout="constrained")
colors = plt.get_cmap("gray_r").with_extremes(under="tab:red", over="tab:blue")
for (name, lower), line in zip(rows.items(), axes, strict=True):
    for image, axis in zip(worst, line, strict=True):
        share = np.append(X_test[image], lower[image]).reshape(8, 8)
        axis.imshow(share, cmap=colors, vmin=0, vmax=1)
        axis.axhline(3.5, color="0.5", ls="--", lw=0.8)
        axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(name.replace(", ", ",\n"))
fig.savefig("two_bounds.png", dpi=120)
print("The picture is in two_bounds.png.")
