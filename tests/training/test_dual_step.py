"""The dual step of each batch, and the record of an epoch."""

import numpy as np
import pytest
import torch
from watching import (
    COLUMNS,
    N,
    States,
    Steps,
    assert_same_state,
    fitted,
    forward,
    make_data,
    regressor,
)

from sklpos.strategies import AugmentedLagrangian, Lagrangian, QuadraticPenalty


def plain_ascent(dual_lr):
    return Lagrangian(dual_lr, damping=0.0, growth=1.0)


@pytest.mark.parametrize("strategy", ["augmented_lagrangian", "lagrangian", "slack"])
def test_dual_step_comes_before_the_step_on_the_weights(strategy):
    X, y = make_data()
    model = regressor(Steps(), strategy=strategy).fit(X, y)
    moved = 0
    for batch in fitted(model, "Steps").batches_:
        before, seen, after = batch["before"], batch["seen"], batch["after"]
        assert_same_state(before, seen, ["module"])
        assert_same_state(seen, after, ["strategy"])
        moved += not torch.equal(
            before["strategy"]["multiplier"], seen["strategy"]["multiplier"]
        )
    assert moved > 4


def test_the_rows_of_a_batch_move_and_its_loss_is_that_of_the_moved_multipliers():
    X, y = make_data(n_outputs=2)
    model = regressor(Steps(), strategy=plain_ascent(0.7)).fit(X, y)
    assert model.multipliers_.any()
    for batch in fitted(model, "Steps").batches_:
        index, violation = batch["index"], batch["step"]["violation"]
        before, seen, after = (
            batch[when]["strategy"]["multiplier"]
            for when in ("before", "seen", "after")
        )
        moved = before.clone()
        moved[index] = torch.relu(before[index] + 0.7 * violation)
        torch.testing.assert_close(seen, moved, rtol=0, atol=1e-14)
        assert torch.equal(seen, after)
        expected, found = moved[index] * violation, batch["step"]["term"]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_multipliers_land_on_the_right_rows_and_outputs():
    """Frozen weights: every row and output climbs by its own violation, each epoch."""
    X, y = make_data(n_outputs=2)
    bound = np.array([0.2, -np.inf])
    model = regressor(
        strategy=plain_ascent(0.7),
        lower_bound=bound,
        optimizer=torch.optim.SGD,
        lr=1e-300,
        on_violated_y="ignore",
    ).fit(X, y)
    violation = np.maximum(bound[:1] - model.predict(X)[:, :1], 0)
    assert 0 < (violation > 0).sum() < N
    expected = 4 * 0.7 * violation  # in the unit of y: scaled twice, once away
    np.testing.assert_allclose(
        model.multipliers_[:, :1], expected, rtol=1e-9, atol=1e-9
    )
    assert not model.multipliers_[:, 1].any()


@pytest.mark.parametrize("optimizer", [torch.optim.LBFGS, torch.optim.Adam])
def test_one_dual_step_a_batch(optimizer):
    X, y = make_data()
    model = regressor(
        Steps(),
        optimizer=optimizer,
        lr=0.1,
        strategy=plain_ascent(0.2),
        max_epochs=2,
        weight_decay="auto",
    ).fit(X, y)
    batches = fitted(model, "Steps").batches_
    assert [len(batch["violations"]) for batch in batches] == [1] * 8
    evaluations = [batch["gradients"] for batch in batches]
    if optimizer is torch.optim.LBFGS:
        assert min(evaluations) > 1
    else:
        assert evaluations == [1] * 8
    for batch in batches:  # the one step is that of the violation at the start
        index, step = batch["index"], 0.2 * batch["violations"][0]
        before = batch["before"]["strategy"]["multiplier"][index]
        after = batch["after"]["strategy"]["multiplier"][index]
        torch.testing.assert_close(after, torch.relu(before + step))


def test_on_violation_gets_detached_violations_and_row_numbers():
    X, y = make_data(n_outputs=2)
    model = regressor(Steps(), lower_bound=[0.0, -np.inf]).fit(X, y)
    batches = fitted(model, "Steps").batches_
    targets = model.net_.targets
    for batch in batches:
        rows = batch["index"].numpy()
        assert batch["detached"]
        np.testing.assert_array_equal(batch["batch"].X.numpy(), X[rows])
        bound = targets.scaled_bounds.lower[:1]
        expected = bound - forward(model, batch["before"], X[rows])[:, :1]
        np.testing.assert_allclose(batch["violations"][0], expected, atol=1e-12)
    assert sorted(np.concatenate([b["index"] for b in batches[:4]])) == list(range(N))


def test_schedule_sees_the_largest_violation_of_the_epoch():
    seen = []

    class Recording(AugmentedLagrangian):
        def on_epoch_end(self, max_violation):
            seen.append(max_violation)

    X, y = make_data()
    model = regressor(strategy=Recording()).fit(X, y)
    assert seen == model.history_[:, "max_violation"]


# The record


@pytest.mark.parametrize(
    "strategy", ["penalty", "exact_penalty", "augmented_lagrangian", "slack"]
)
@pytest.mark.parametrize("batch_size", [16, -1])
def test_history_equals_an_independent_computation(strategy, batch_size):
    X, y = make_data(n_outputs=2)
    weight = np.random.default_rng(1).uniform(0.1, 4, size=N)
    model = regressor(
        Steps(), States(), strategy=strategy, alpha=0.7, batch_size=batch_size
    ).fit(X, y, sample_weight=weight)
    targets, weight = model.net_.targets, weight / weight.mean()
    y = targets.standardise(y)
    batches = fitted(model, "Steps").batches_
    per_epoch = len(batches) // 4
    assert per_epoch == (4 if batch_size == 16 else 1)
    for epoch, record in enumerate(model.history_):
        part = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        rows = np.concatenate([batch["index"] for batch in part])
        f = np.concatenate([b["step"]["y_pred"].detach().numpy() for b in part])
        g = targets.scaled_bounds.lower - f
        alpha = float(part[0]["seen"]["strategy"]["alpha"])
        terms = np.concatenate([term_of(strategy, batch, targets) for batch in part])
        last = fitted(model, "States").states_[epoch]["strategy"]
        multiplier = multiplier_of(strategy, g, alpha, last, rows)
        w = weight[rows, None]
        expected = {
            "objective": np.mean(w * (f - y[rows]) ** 2),
            "constraint": np.mean(w * terms),
            "max_violation": max(g.max(), 0),
            "violation_rate": np.mean(g > 0),
            "max_multiplier": multiplier.max(),
            "mean_multiplier": multiplier.mean(),
            "alpha": alpha,
        }
        assert expected.keys() == set(COLUMNS)
        for name, value in expected.items():
            assert record[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
        total = record["objective"] + record["constraint"]
        assert record["train_loss"] == pytest.approx(total, rel=1e-9)


def term_of(strategy, batch, targets):
    """The term of a batch, from the textbook."""
    g = targets.scaled_bounds.lower - batch["step"]["y_pred"].detach().numpy()
    state = {k: v.numpy() for k, v in batch["seen"]["strategy"].items()}
    alpha, index = state["alpha"], batch["index"].numpy()
    if strategy == "penalty":
        return alpha * np.maximum(g, 0) ** 2
    if strategy == "exact_penalty":
        u, width = state["share"][index], 0.1
        reach = u + g / width
        share = np.clip(reach, 0, 1)
        return alpha * width * share * (reach - share / 2)
    own = state["multiplier"][index]
    if strategy == "slack":
        residual = -g - state["slack"][index] ** 2
        return own * residual + alpha * residual**2
    c = 2 * alpha
    return (np.maximum(own + c * g, 0) ** 2 - own**2) / (2 * c)


def multiplier_of(strategy, g, alpha, last, rows):
    if strategy == "penalty":
        return 2 * alpha * np.maximum(g, 0)
    if strategy == "exact_penalty":
        return alpha * np.clip(last["share"].numpy()[rows] + g / 0.1, 0, 1)
    stored = last["multiplier"].numpy()[rows]
    return -stored if strategy == "slack" else stored


class Doubling(QuadraticPenalty):
    def on_epoch_end(self, max_violation):
        self.state_.alpha.mul_(2)


def test_alpha_is_recorded_as_it_was_while_the_weights_moved():
    X, y = make_data()
    model = regressor(strategy=Doubling()).fit(X, y)
    assert model.history_[:, "alpha"] == [1.0, 2.0, 4.0, 8.0]
    assert model.strategy_.state_.alpha == 16


def test_history_without_bounded_outputs():
    X, y = make_data()
    model = regressor(lower_bound=-np.inf).fit(X, y)
    last = model.history_[-1]
    assert [last[name] for name in COLUMNS[1:-1]] == [0.0] * 5
