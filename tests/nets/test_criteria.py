"""Criteria beside the metrics of scikit-learn, finite differences and closed forms."""

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_pinball_loss, mean_tweedie_deviance

from sklpos.criteria import (
    GammaDeviance,
    LogCoshLoss,
    PinballLoss,
    PoissonDeviance,
    TweedieDeviance,
)

DEVIANCES = [
    (1, PoissonDeviance()),
    (1, TweedieDeviance(1)),
    (1.001, TweedieDeviance(1.001)),
    (1.5, TweedieDeviance()),
    (1.999, TweedieDeviance(1.999)),
    (2, GammaDeviance()),
    (2, TweedieDeviance(2.0)),
    (3, TweedieDeviance(3)),
]
ALL = [*(loss for _, loss in DEVIANCES), PinballLoss(0.9), LogCoshLoss()]


def names(criterion):
    return repr(criterion)


def draws(lowest=0.05, n=200):
    rng = np.random.default_rng(0)
    y, mu = lowest + rng.gamma(1.0, size=(2, n))
    return torch.as_tensor(mu), torch.as_tensor(y)


@pytest.mark.parametrize(("power", "criterion"), DEVIANCES)
def test_deviances_are_those_of_scikit_learn(power, criterion):
    mu, y = draws()
    if power < 2:
        y[::3] = 0
    for row in range(0, len(y), 7):
        one = slice(row, row + 1)
        expected = mean_tweedie_deviance(y[one], mu[one], power=power)
        found = float(criterion(mu[one], y[one]))
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.95])
def test_the_pinball_loss_is_that_of_scikit_learn(quantile):
    mu, y = draws()
    expected = mean_pinball_loss(y, mu, alpha=quantile)
    assert float(PinballLoss(quantile, "mean")(mu, y)) == pytest.approx(expected)


def test_quantiles_belong_to_the_outputs():
    levels = [0.1, 0.5, 0.9]
    mu, y = (values[:198].reshape(66, 3) for values in draws())
    found = PinballLoss(levels)(mu, y).mean(0)
    expected = [
        mean_pinball_loss(y[:, j], mu[:, j], alpha=level)
        for j, level in enumerate(levels)
    ]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.95])
def test_the_best_constant_is_the_quantile(quantile):
    _, y = draws(n=999)
    constants = y.sort().values
    losses = PinballLoss(quantile)(
        constants[:, None].expand(-1, 999), y.expand(999, -1)
    )
    best = float(constants[losses.mean(1).argmin()])
    assert best == pytest.approx(np.quantile(y, quantile, method="inverted_cdf"))


@pytest.mark.parametrize("criterion", ALL[: len(DEVIANCES)], ids=names)
def test_the_best_constant_of_a_deviance_is_the_mean(criterion):
    """`elicits` says so, and the balance of the estimator relies on it."""
    _, y = draws()
    mean = y.mean().requires_grad_()
    criterion(mean.expand(len(y)), y).sum().backward()
    assert float(mean.grad) == pytest.approx(0, abs=1e-9)
    assert criterion.elicits == "mean"


@pytest.mark.parametrize("criterion", ALL, ids=names)
def test_gradients_are_finite_differences(criterion):
    mu, y = draws(n=20)
    # On both sides of the floor, and away from the kinks.
    mu = torch.cat([mu, torch.linspace(-3, -0.1, 10).double()])
    y = torch.cat([y, y[:10]])
    assert torch.autograd.gradcheck(criterion, (mu.requires_grad_(), y))


@pytest.mark.parametrize("power", [1, 1.5, 2, 3])
@pytest.mark.parametrize("unit", [1e-3, 7.0, 1e6])
def test_a_deviance_of_another_unit_is_the_same_up_to_a_factor(power, unit):
    """So targets may be divided by their mean before training."""
    mu, y = draws()
    own = TweedieDeviance(power)(mu, y)
    other = TweedieDeviance(power, eps=1e-2 * unit)(unit * mu, unit * y)
    torch.testing.assert_close(other, unit ** (2 - power) * own, rtol=1e-9, atol=0)


@pytest.mark.parametrize("criterion", ALL[: len(DEVIANCES)], ids=names)
@pytest.mark.parametrize("y", [0.0, 1e-6, 0.5, 1e3])
def test_below_the_floor_a_prediction_is_led_back(criterion, y):
    if y == 0 and criterion.power >= 2:
        pytest.skip("it takes positive targets")
    mu = torch.tensor([-1e3, -1.0, 0.0, 5e-4], dtype=torch.float64, requires_grad=True)
    loss = criterion(mu, torch.full_like(mu, y))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    # The same slope everywhere below, so that no prediction blows it up.
    assert (mu.grad < 0).all()
    assert (mu.grad == mu.grad[0]).all()
    at_floor = criterion(torch.full((1,), criterion.eps).double(), torch.tensor([y]))
    assert (loss.detach() > at_floor).all()


@pytest.mark.parametrize("criterion", ALL, ids=names)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_values_stay_finite(criterion, dtype):
    values = torch.tensor([-1e5, -1e-30, 0, 1e-30, 1e-8, 1.0, 1e5], dtype=dtype)
    targets = torch.tensor([1e-8, 1.0, 1e5], dtype=dtype)
    if getattr(criterion, "power", 1) < 2:
        targets[0] = 0
    mu, y = (part.flatten() for part in torch.meshgrid(values, targets, indexing="ij"))
    mu.requires_grad_()
    loss = criterion(mu, y)
    loss.sum().backward()
    assert loss.dtype == dtype
    assert torch.isfinite(loss).all()
    assert torch.isfinite(mu.grad).all()


def test_log_cosh_is_the_logarithm_of_a_cosine():
    errors = np.linspace(-20, 20, 81)
    found = LogCoshLoss()(torch.as_tensor(errors), torch.zeros(81))
    np.testing.assert_allclose(found, np.log(np.cosh(errors)), atol=1e-15)
    huge = torch.tensor([1e30])
    assert float(LogCoshLoss()(huge, -huge)) == pytest.approx(2e30)


@pytest.mark.parametrize("criterion", ALL, ids=names)
def test_reductions_are_those_of_torch(criterion):
    mu, y = draws()
    losses = criterion(mu, y)
    assert losses.shape == y.shape
    for reduction in ("mean", "sum"):
        criterion.reduction = reduction
        torch.testing.assert_close(criterion(mu, y), getattr(losses, reduction)())
    criterion.reduction = "none"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PoissonDeviance("average"), "reduction='average' must be one of"),
        (lambda: TweedieDeviance(0.5), "power=0.5 must be a number of at"),
        (lambda: TweedieDeviance("1.5"), "power='1.5' must be a number"),
        (lambda: GammaDeviance(eps=0), "eps=0 must be a positive number"),
        (lambda: PinballLoss(95), "quantile=95 must be a number between 0 and 1"),
        (lambda: PinballLoss([]), r"quantile=\[\] must be a number"),
        (lambda: PinballLoss("median"), "quantile='median' must be a number"),
        (
            lambda: PoissonDeviance()(torch.ones(3, 1), torch.ones(3)),
            r"input has shape \(3, 1\), but target has shape \(3,\)",
        ),
        (
            lambda: PinballLoss([0.1, 0.9])(torch.ones(3, 1), torch.ones(3, 1)),
            r"2 quantiles need 2 outputs, but input has shape \(3, 1\)",
        ),
    ],
)
def test_misuse_is_told_in_one_sentence(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert len(str(caught.value)) <= 300
