"""Whole domains beside the rows of a net."""

import numpy as np
import pytest
import torch
from constrained_nets import make_net, make_rows
from skorch.callbacks import Callback
from torch import nn
from watching import N, make_data

from sklpos.strategies import AugmentedLagrangian
from sklpos.training.kkt import evaluate_training_state

# Two points beyond the rows stand for two domains; the second output is free.
POINTS = torch.tensor([[3.0, -3.0, 0.0], [-2.0, 1.0, 4.0]], dtype=torch.float64)
BOUND = [1.0, -np.inf]
WEIGHT = np.arange(1.0, N + 1)


def corners(module):
    outputs = module(POINTS)
    return outputs, outputs


def still_net(*, domain=(corners, 2), **params):
    """A linear net that never moves."""
    torch.manual_seed(0)
    X, Y = make_data(n_outputs=2)
    params = {"batch_size": 16, "strategy": AugmentedLagrangian(), **params}
    params |= {"optimizer": torch.optim.SGD, "lr": 0.0, "lower_bound": BOUND}
    net = make_net(nn.Linear(3, 2), Y, domain=domain, **params)
    return net, make_rows(X, Y, WEIGHT)


def domain_violation(net):
    with torch.no_grad():
        return 1.0 - net.module_(POINTS)[:, :1]


@pytest.mark.parametrize("batch_size", [8, 16, -1])
def test_a_domain_counts_like_all_rows_whatever_the_batch(batch_size):
    records = []
    for domain in (None, (corners, 2)):
        ascent = {"callbacks__multiplier_ascent": None}
        net, rows = still_net(domain=domain, batch_size=batch_size, **ascent)
        for constraint in (net.constraint_, net.domain_constraint_):
            if constraint is not None:
                constraint.state.multiplier.fill_(0.25)
        net.partial_fit(rows, epochs=1)
        records.append(net.history[-1])
    without, with_domains = records
    g = domain_violation(net).numpy()
    term = (np.maximum(0.25 + 2 * g, 0) ** 2 - 0.25**2) / 4  # c = 2
    difference = with_domains["constraint"] - without["constraint"]
    assert difference == pytest.approx(term.sum() / 2)  # a mean over two outputs
    for name in ("violation_rate", "max_violation", "mean_multiplier"):
        assert with_domains[name] == without[name]


class Listening(Callback):
    """Remembers what it is told of the domains."""

    def initialize(self):
        self.seen_ = []
        return self

    def on_domain_violation(self, net, violation):
        self.seen_.append(violation)


def test_domains_make_one_dual_step_a_batch():
    net, rows = still_net(callbacks=[("ear", Listening())])
    net.partial_fit(rows, epochs=2)
    seen = dict(net.callbacks_)["ear"].seen_
    assert len(seen) == 2 * 4
    for violation in seen:
        torch.testing.assert_close(violation, domain_violation(net))
        assert not violation.requires_grad
    reached = net.domain_constraint_.state.multiplier
    assert (reached > 0).any()
    torch.testing.assert_close(reached, torch.relu(0.1 * sum(seen)))


def test_kkt_residuals_include_the_domains():
    """The gradient of the Lagrangian, by central differences of its formula."""
    net, _ = still_net()
    X, Y = make_data(n_outputs=2)
    lam = np.linspace(0, 1, N + 2)
    of_rows, of_domains = (torch.as_tensor(v)[:, None] for v in (lam[:N], lam[N:]))
    net.constraint_.state.multiplier.copy_(of_rows)
    net.domain_constraint_.state.multiplier.copy_(of_domains)
    weight, bias = (p.detach().numpy() for p in net.module_.parameters())

    def lagrangian(theta):
        w, b = theta[:6].reshape(2, 3), theta[6:]
        squares, g = (X @ w.T + b - Y) ** 2, 1.0 - (X @ w[0] + b[0])
        domains = 1.0 - (POINTS.numpy() @ w[0] + b[0])
        return squares.mean() + (lam[:N] @ g) / (2 * N) + lam[N:] @ domains / 2

    theta = np.concatenate([weight.ravel(), bias])
    steps = 1e-6 * np.eye(8)
    slope = [(lagrangian(theta + h) - lagrangian(theta - h)) / 2e-6 for h in steps]
    found, _, kkt = evaluate_training_state(net, make_rows(X, Y))
    assert found.shape == (N, 2)
    assert kkt.stationarity == pytest.approx(np.linalg.norm(slope), rel=1e-6)
    assert kkt.max_violation >= domain_violation(net).max()
