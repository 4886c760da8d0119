"""
Only positive values, and still nn.Linear
=========================================

A question from the PyTorch forum (its topic 178758): "I am using
a neural network with the following layers: (784,784),(784,784),(784,2). I want the
values in last layer to be positives, but I do not want to use any activation function
such as ReLU". Can the weights and the bias be guided there instead?

The thread discusses two means: a *penalty* on negative outputs, and *slack variables
with Lagrange multipliers*. A multiplier is a price that a row pays for a negative
prediction; it rises as long as the prediction is negative. This example trains the net
of the question in a plain PyTorch loop, with both means and with the augmented
Lagrangian, which needs no slack. Then it adds what the thread lacks: a last step that
makes the outputs positive exactly.
"""

# %%
# Data of that shape
# ------------------
# The thread has no data. Here are 400 rows of 784 numbers and two targets that are
# never negative, and often 0.

import matplotlib.pyplot as plt
import torch
from torch import nn

from sklpos.repair import repair_head
from sklpos.strategies import OutputConstraint

torch.manual_seed(0)
mixing = torch.randn(6, 784) / 6**0.5
slope = torch.randn(6, 2) / 6**0.5


def draw(n_rows):
    """Draw inputs that depend on six hidden causes, and the targets of these."""
    causes = torch.randn(n_rows, 6)
    X = causes @ mixing + 0.5 * torch.randn(n_rows, 784)
    return X, (causes @ slope - 0.5 + 0.5 * torch.randn(n_rows, 2)).relu()


X, y = draw(400)
X_new, _ = draw(1000)

# %%
# The net of the question, in a plain loop
# ----------------------------------------
# `OutputConstraint` turns a strategy into a term of the loss. It needs the number of
# each row in the batch, ``index``, because every row has multipliers of its own. In
# each step ``dual_step`` moves the multipliers first; then the term is added to the
# loss.

EPOCHS = 40


def make_net():
    """Make the net of the thread; nothing follows the last linear layer."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(784, 784),
        nn.ReLU(),
        nn.Linear(784, 784),
        nn.ReLU(),
        nn.Linear(784, 2),
    )


def train(strategy):
    """Train the net under a constraint."""
    net = make_net()
    constraint = OutputConstraint(y, lower_bound=0.0, strategy=strategy)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(X)).split(50):
            y_pred = net(X[index])
            constraint.dual_step(y_pred, index)
            loss = nn.functional.mse_loss(y_pred, y[index]) + constraint(y_pred, index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        constraint.end_epoch()
        schedule.step()
    return net


STRATEGIES = {
    "no constraint": "unconstrained",
    "penalty": "penalty",
    "slack, multipliers": "slack",
    "augmented Lagrangian": "augmented_lagrangian",
}
trained = {name: train(strategy) for name, strategy in STRATEGIES.items()}

# %%
# The exact finish
# ----------------
# No loop ends exactly at the bound. `repair_head` copies a net and moves the weights
# and the bias of its last layer, as little as possible, until no prediction on the
# given rows is negative. With ``y`` it also makes the mean prediction of each output
# equal to the mean of its targets.

repaired = {name: repair_head(net, X, y=y).module for name, net in trained.items()}


@torch.no_grad()
def describe(net):
    """Summarise what a net predicts, for one line of the table."""
    y_pred = net(X)
    rate = (net(X_new) < 0).float().mean()
    return f"{y_pred.min():9.4f}{rate:8.1%}{y_pred[:, 0].mean():9.4f}"


print(f"{'':<22}{'as trained':^26}  {'after repair_head':^26}")
print(f"{'':<22}" + "  ".join(2 * [f"{'smallest':>9}{'new < 0':>8}{'mean':>9}"]))
for name in STRATEGIES:
    print(f"{name:<22}{describe(trained[name])}  {describe(repaired[name])}")
print(f"The mean of the first target is {y[:, 0].mean():.4f}.")

# %%
# "smallest" is the smallest prediction on the rows of training, "new < 0" the share of
# negative predictions on 1,000 new rows, and "mean" the mean of the first output.
#
# * All three constraints make the violations smaller; none of them ends at 0 exactly.
# * After the repair the smallest prediction is at least 0, without a tolerance.
# * Training under a constraint raises the mean, because it lifts the small predictions
#   alone. The repair brings it back.
# * The repair promises nothing for new rows. ``PositiveOutputRegressor()``, which is
#   for tables, is positive for every input; it ends in a plain ``nn.Linear``, too.

fig, ax = plt.subplots(figsize=(4.2, 2.8), layout="constrained")
places = range(len(STRATEGIES))
for nets, label, color, marker in (
    (trained, "as trained", "#d55e00", "o"),
    (repaired, "after repair_head", "#0072b2", "D"),
):
    smallest = [net(X).min().item() for net in nets.values()]
    ax.plot(smallest, places, marker, color=color, label=label, markersize=8)
ax.axvline(0, color="black", lw=0.8, zorder=0)
ax.set_yticks(places, STRATEGIES)
ax.invert_yaxis()
ax.margins(x=0.08, y=0.15)
ax.set_xlabel("smallest training prediction")
fig.legend(loc="outside upper center", ncols=2, frameon=False)
fig.savefig("thread_question.png", dpi=200)
print("The picture is in thread_question.png.")

# %%
# The answer to the question
# --------------------------
# The last layer is the same ``nn.Linear`` as before, with other numbers in it.

last_layer = repaired["augmented Lagrangian"][-1]
print(f"\nlast layer: {last_layer}")
print("plain nn.Linear:", type(last_layer) is nn.Linear)

# %%
# A trap in the thread's penalty
# ------------------------------
# The thread adds ``alpha * (relu(-pred)**2).sum()`` to a loss that is usually a mean. A
# sum grows with the batch, so the same ``alpha`` weighs more in a larger batch, and
# less in the last, smaller one of an epoch. Fit one constant to targets of -1: with the
# sum it settles at ``-1 / (1 + alpha * batch_size)``, with the mean at
# ``-1 / (1 + alpha)``. In this package every term is a mean.


def settle(reduce, batch_size, alpha=1.0):
    """Find the constant that minimises the mean squared error plus the penalty."""
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


print("\nOne constant, fitted to targets of -1, alpha = 1:")
for size in (1, 8, 64):
    total, mean = settle(torch.sum, size), settle(torch.mean, size)
    print(f"batches of {size:2d}: sum {total:6.3f}, mean {mean:6.3f}")
