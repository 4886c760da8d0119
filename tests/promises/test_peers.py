"""What *Choose a strategy* says of the models that others offer is true of them."""

import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import GammaRegressor, PoissonRegressor, TweedieRegressor
from sklearn.neural_network import MLPRegressor

pytest.importorskip("sklearn", minversion="1.7")  # MLPRegressor(loss=...)

PAGE = Path(__file__).parents[2] / "docs/how-to/choose-a-strategy.md"
# The table of models for one bound; the other one is that of a benchmark.
ONE_BOUND, _, _ = PAGE.read_text(encoding="utf-8").partition("## A range")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in ONE_BOUND.splitlines()
    if line.startswith("| ")
]


def net(**settings):
    return MLPRegressor(
        hidden_layer_sizes=16, max_iter=2000, random_state=0, **settings
    )


def with_link(function, inverse):
    return TransformedTargetRegressor(net(), func=function, inverse_func=inverse)


# first words of the row in the page's table: the model
PEERS = {
    "`MLPRegressor": net(loss="poisson"),
    "`PoissonRegressor": PoissonRegressor(alpha=0, max_iter=1000),
    "`TweedieRegressor": TweedieRegressor(power=1.5, alpha=0, max_iter=1000),
    "`GammaRegressor": GammaRegressor(alpha=0, max_iter=1000),
    "`TransformedTargetRegressor": with_link(np.log, np.exp),
    "the same": with_link(np.log1p, np.expm1),
    "boosted trees, Poisson": HistGradientBoostingRegressor(loss="poisson"),
    "boosted trees, gamma": HistGradientBoostingRegressor(loss="gamma"),
}
NEAR, EXACT = 0.03, 1e-3  # of the mean of y

rng = np.random.default_rng(0)
X = rng.normal(size=(300, 3))
WITH_ZEROS = np.maximum(X @ [2, 1, 0] - 1 + rng.normal(size=300), 0)
POSITIVE = WITH_ZEROS + 0.1
FAR = 100 * rng.normal(size=(1000, 3))


def accepts(model, y):
    try:
        model.fit(X, y)
    except ValueError:
        return False
    return True


def assert_mean(said, model, y):
    ratio = model.fit(X, y).predict(X).mean() / y.mean()
    if said.startswith("exact"):
        assert abs(ratio - 1) < EXACT
    elif said == "near":
        assert abs(ratio - 1) < NEAR
    else:
        assert said in ("biased", "too low")
        assert abs(ratio - 1) > NEAR
        assert said == "biased" or ratio < 1


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_page_is_right_about(peer):
    ((_, zero, zeros, outputs, mean, positive, tail),) = [
        row for row in ROWS if row[0].startswith(peer)
    ]
    model = PEERS[peer]
    assert accepts(model, WITH_ZEROS) == (zeros == "yes")
    if outputs in ("yes", "no"):
        assert accepts(model, np.column_stack([POSITIVE] * 2)) == (outputs == "yes")
    y = WITH_ZEROS if zeros == "yes" else POSITIVE
    assert_mean(mean, model, y)
    lowest = min(model.predict(X).min(), model.predict(FAR).min())
    assert (lowest >= 0) == (positive == "yes")
    assert (model.predict(X).min() <= 0) == (zero == "yes")
    assert tail == "no, exp"


def test_every_model_of_scikit_learn_on_the_page_is_tested():
    others = r"`(?!MLP` with)[A-Z]|boosted|the same"
    names = {row[0] for row in ROWS if re.match(others, row[0])}
    assert all(any(name.startswith(peer) for peer in PEERS) for name in names)
    assert len(names) == len(PEERS)
