"""skorch's callbacks as ``callbacks`` of the estimator; naming and replacing them."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from properties import assert_same_bits
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import (
    BatchScoring,
    Callback,
    EarlyStopping,
    EpochScoring,
    Freezer,
    GradientNormClipping,
    LRScheduler,
    PassthroughScoring,
    PrintLog,
    ProgressBar,
)
from skorch.history import History
from watching import (
    COLUMNS,
    States,
    Steps,
    assert_same_state,
    fitted,
    forward,
    make_data,
    regressor,
    state_of,
)

from sklpos.training.callbacks import ConstraintHistory, MultiplierAscent
from sklpos.training.decay import NoiseScaledDecay
from sklpos.training.epoch_loss import EpochLoss
from sklpos.training.print_log import QuietPrintLog


@pytest.mark.parametrize("use_caching", [True, False])
@pytest.mark.parametrize("on_train", [True, False])
def test_epoch_scoring(use_caching, on_train):
    X, y = make_data()
    score = EpochScoring(
        "r2", use_caching=use_caching, on_train=on_train, lower_is_better=False
    )
    model = regressor(score, early_stopping=not on_train, lr=0.05).fit(X, y)
    assert len(model.history_[:, "r2"]) == 4
    assert model.history_[0, "r2_best"]
    assert model.history_[-1, "r2"] > 0.3


def test_score_without_caching_is_that_after_the_epoch():
    X, y = make_data()
    score = EpochScoring("r2", use_caching=False, on_train=True)
    model = regressor(score, States()).fit(X, y)
    scaled = model.net_.targets.standardise(y[:, None])
    for state, recorded in zip(
        fitted(model, "States").states_, model.history_[:, "r2"], strict=True
    ):
        f = forward(model, state, X)
        assert recorded == pytest.approx(r2_score(scaled, f), rel=1e-9)


def test_cached_and_computed_validation_scores_agree():
    X, y = make_data()
    scores = [
        EpochScoring("r2", lower_is_better=False, name=name, use_caching=use_caching)
        for name, use_caching in (("cached", True), ("again", False))
    ]
    model = regressor(*scores, early_stopping=True).fit(X, y)
    cached, again = model.history_[:, "cached"], model.history_[:, "again"]
    np.testing.assert_allclose(cached, again, rtol=1e-9)


def test_batch_scoring():
    X, y = make_data()
    score = BatchScoring("r2", on_train=True, lower_is_better=False)
    model = regressor(score).fit(X, y)
    assert len(model.history_[-1, "batches", :, "r2"]) == 4


def test_lr_scheduler():
    X, y = make_data()
    halving = LRScheduler("StepLR", step_size=1, gamma=0.5)
    model = regressor(halving, lr=0.08).fit(X, y)
    assert model.history_[:, "event_lr"] == [0.08, 0.04, 0.02, 0.01]
    assert model.optimizer_.param_groups[0]["lr"] == 0.005


def decayed(epoch):
    return 0.8**epoch


@pytest.mark.parametrize(
    ("policy", "params"),
    [
        ("LambdaLR", {"lr_lambda": decayed}),
        ("ExponentialLR", {"gamma": 0.8}),
        ("CosineAnnealingLR", {"T_max": 6}),
    ],
)
def test_schedule_goes_on_in_a_stream(policy, params):
    if policy != "LambdaLR" and not hasattr(torch.optim.lr_scheduler, "_initial_mode"):
        pytest.skip("an older torch makes one step more wherever it goes on")
    X, y = make_data()
    whole = regressor(LRScheduler(policy, **params)).fit(X, y)
    stream = regressor(LRScheduler(policy, **params))
    for _ in range(4):
        stream.partial_fit(X, y)
    assert stream.history_[:, "event_lr"] == whole.history_[:, "event_lr"]
    assert_same_state(state_of(stream.net_), state_of(whole.net_))


def test_gradient_clipping():
    X, y = make_data()
    clipped = regressor(
        GradientNormClipping(1e-3), Steps(), optimizer=torch.optim.SGD, lr=1.0
    ).fit(X, y)
    for batch in fitted(clipped, "Steps").batches_:
        before, after = batch["before"]["module"], batch["after"]["module"]
        step = torch.cat([(before[k] - after[k]).ravel() for k in before])
        assert step.norm() <= 1.001e-3


def test_freezer():
    X, y = make_data()
    model = regressor(Freezer("features.*"), States()).fit(X, y)
    first, *_, last = fitted(model, "States").states_
    moved = {k for k, v in first["module"].items() if not v.equal(last["module"][k])}
    assert moved == {"head.weight", "head.bias"}


def test_progress_bar(capfd):
    X, y = make_data()
    regressor(ProgressBar()).fit(X, y)
    assert "4" in capfd.readouterr().err


def print_to_terminal(monkeypatch, no_color=""):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_has_colours_unless_the_user_wants_none(
    capsys, monkeypatch, no_color
):
    X, y = make_data()
    print_to_terminal(monkeypatch, no_color)
    regressor(verbose=1).fit(X, y)
    assert ("\x1b" in capsys.readouterr().out) == (not no_color)


def test_a_pipe_has_no_colours(capsys):
    X, y = make_data()
    regressor(verbose=1).fit(X, y)
    assert "\x1b" not in capsys.readouterr().out


def test_a_logger_has_no_colours(capsys, monkeypatch):
    X, y = make_data()
    print_to_terminal(monkeypatch)
    lines = []
    log = QuietPrintLog(sink=lines.append)
    regressor(log, verbose=1, callbacks__print_log=None).fit(X, y)
    assert len(lines) == 6
    assert "\x1b" not in "".join(lines)


def plain(text):
    """Lines without colours."""
    return re.sub(r"\x1b\[\d+m", "", text).splitlines()


def test_print_log_shows_the_constraint_in_reading_order(capsys):
    X, y = make_data()
    regressor(verbose=1, early_stopping=True).fit(X, y)
    header, *_, last = plain(capsys.readouterr().out)
    shown = ["max_violation", "violation_rate", "max_multiplier", "alpha"]
    losses = ["train_loss", "valid_loss", "objective"]
    assert header.split() == ["epoch", *losses, *shown, "dur"]
    assert last.split()[0] == "4"


def test_print_log_is_aligned_whatever_the_size_of_its_numbers(capsys, monkeypatch):
    class Sizes(Callback):
        def on_epoch_end(self, net, **kwargs):
            size = [1.0, 1.234567e-9, 12345678.9, 0.5][len(net.history) - 1]
            for name in ("max_violation", "alpha", "dur"):
                net.history.record(name, size)

    X, y = make_data()
    print_to_terminal(monkeypatch)
    log = QuietPrintLog()
    regressor(Sizes(), log, verbose=1, callbacks__print_log=None).fit(X, y)
    header, rule, *lines = plain(capsys.readouterr().out)
    assert len(lines) == 4
    assert {len(line) for line in lines} == {len(header)} == {len(rule)}
    ends = [match.end() for match in re.finditer(r"\S+", header)]
    for line in lines:
        assert [match.end() for match in re.finditer(r"\S+", line)] == ends
    assert "1.235e-09" in lines[1]


def test_print_log_takes_all_columns_and_other_formats(capsys):
    X, y = make_data()
    options = {"callbacks__print_log__keys_ignored": None}
    regressor(verbose=1, callbacks__print_log__floatfmt=".1e", **options).fit(X, y)
    header, _, first, *_ = plain(capsys.readouterr().out)
    for name in (*COLUMNS, "train_loss", "epoch"):
        assert name in header
    assert re.search(r"\d\.\de", first)


def test_print_log_comes_last_and_can_be_narrowed(capsys):
    X, y = make_data()
    log = PrintLog(keys_ignored=[name for name in COLUMNS if name != "alpha"])
    model = regressor(log, States(), verbose=1, callbacks__print_log=None).fit(X, y)
    assert model.callbacks_[-1][0] == "PrintLog"
    header = capsys.readouterr().out.splitlines()[0]
    assert "alpha" in header
    assert "max_violation" not in header


def test_silent_by_default(capfd):
    X, y = make_data()
    stopper = EarlyStopping(monitor="train_loss", load_best=True, patience=1)
    regressor(stopper, max_epochs=30, lr=0.3).fit(X, y)
    regressor(early_stopping=True, n_iter_no_change=1, lr=0.3).fit(X, y)
    assert capfd.readouterr() == ("", "")


# Naming, replacing, cloning


def test_parameters_of_callbacks():
    X, y = make_data()
    model = regressor(
        ("score", EpochScoring("r2", on_train=True)),
        callbacks__score__name="fit",
        callbacks__multiplier_ascent__window=7,
    ).fit(X, y)
    assert "fit" in model.history_[-1]
    assert fitted(model, "multiplier_ascent").window == 7
    model.set_params(callbacks__multiplier_ascent__window=9).fit(X, y)
    assert fitted(model, "multiplier_ascent").window == 9
    assert model.get_params()["callbacks__multiplier_ascent__window"] == 9


def test_callbacks_of_the_user_are_left_alone():
    X, y = make_data()
    score = EpochScoring("r2", on_train=True)
    before = dict(vars(score))
    model = regressor(score, callbacks__EpochScoring__name="fit").fit(X, y)
    assert vars(score) == before
    assert fitted(model, "EpochScoring") is not score


def test_without_ascent_multipliers_stay_zero():
    X, y = make_data()
    model = regressor(callbacks__multiplier_ascent=None, lr=0.05).fit(X, y)
    assert not model.net_.constraint_.multipliers.any()
    assert not model.multipliers_.any()
    assert model.strategy_.state_.alpha == 1  # the schedule belongs to the ascent
    assert max(model.history_[:, "constraint"]) > 0  # the penalty of the same alpha


def test_without_history_columns():
    X, y = make_data()
    model = regressor(callbacks__constraint_history=None).fit(X, y)
    assert not set(COLUMNS) & set(model.history_[-1])
    assert model.multipliers_.any()


class EverySecondEpoch(MultiplierAscent):
    """Pauses the ascent."""

    def on_violation(self, net, violation, index):
        if len(net.history) % 2 == 0:
            super().on_violation(net, violation, index)


@pytest.mark.parametrize("ascent", [EverySecondEpoch, EverySecondEpoch(window=9)])
def test_subclass_in_the_place_of_the_ascent(ascent):
    X, y = make_data()
    model = regressor(States(), callbacks__multiplier_ascent=ascent, lr=0.05)
    model.fit(X, y)
    assert isinstance(fitted(model, "multiplier_ascent"), EverySecondEpoch)
    states = [s["strategy"]["multiplier"] for s in fitted(model, "States").states_]
    assert not states[0].any()
    assert states[1].any()
    assert torch.equal(states[1], states[2])
    assert not torch.equal(states[2], states[3])


@pytest.mark.parametrize(
    ("twin", "name"),
    [
        (EverySecondEpoch(), "multiplier_ascent"),
        (ConstraintHistory(), "constraint_history"),
        (NoiseScaledDecay(), "weight_decay"),
    ],
)
def test_a_second_callback_for_the_same_state_is_refused(twin, name):
    X, y = make_data()
    model = regressor(twin, weight_decay="auto")
    with pytest.raises(ValueError, match=f"give callbacks__{name} instead"):
        model.fit(X, y)
    model.set_params(**{f"callbacks__{name}": None}).fit(X, y)
    assert fitted(model, type(twin).__name__)


@pytest.mark.parametrize("kind", [MultiplierAscent, ConstraintHistory])
def test_used_callbacks_can_be_cloned(kind):
    X, y = make_data()
    name = {MultiplierAscent: "multiplier_ascent"}.get(kind, "constraint_history")
    model = regressor(**{f"callbacks__{name}": kind()}).fit(X, y)
    again = clone(model).fit(X, y)
    assert_same_state(state_of(again.net_), state_of(model.net_))
    assert type(clone(fitted(model, name))) is kind


def test_search_with_callbacks():
    X, y = make_data()
    model = regressor(
        EarlyStopping(monitor="train_loss", load_best=True),
        LRScheduler("ExponentialLR", gamma=0.9),
    )
    grid = {"callbacks__multiplier_ascent__window": [5, 50], "strategy": ["slack"]}
    search = GridSearchCV(model, grid, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


class NewMoments(Callback):
    """Replaces what the optimizer remembers, between two epochs."""

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 3:
            net.optimizer_.load_state_dict(net.optimizer_.state_dict())
            for state in net.optimizer_.state.values():
                state["exp_avg"] = torch.zeros_like(state["exp_avg"])


class Watching(NewMoments):
    """Asks for each batch, so that nothing is kept between steps."""

    def on_batch_end(self, net, **kwargs):
        pass


def test_an_optimizer_may_change_between_epochs(small, data):
    params = {"optimizer": torch.optim.AdamW, "max_epochs": 5}
    kept = small(callbacks=[NewMoments()], **params).fit(data.X, data.Y)
    anew = small(callbacks=[Watching()], **params).fit(data.X, data.Y)
    assert_same_bits(
        dict(kept.net_.module_.state_dict()), dict(anew.net_.module_.state_dict())
    )
    untouched = small(**params).fit(data.X, data.Y)
    weight = kept.module_.head.weight
    assert not torch.equal(weight, untouched.module_.head.weight)


@pytest.mark.parametrize("name", ["train_loss", "valid_loss"])
@pytest.mark.parametrize("kind", [PassthroughScoring, EpochLoss])
def test_the_loss_of_an_epoch_is_that_of_skorch(name, kind):
    # Two epochs, the second of which is worse, with batches of the other kind.
    net = SimpleNamespace(history=History())
    score = kind(name, on_train=name == "train_loss").initialize()
    rows = []
    for losses in ([0.1, 0.7], [0.3, 0.9]):
        net.history.new_epoch()
        score.on_epoch_end(net)
        size = name.replace("loss", "batch_size")
        batches = [{name: loss, size: 3 + i} for i, loss in enumerate(losses)]
        net.history[-1]["batches"] += [{"other": 1.0}, *batches]
        score.on_epoch_end(net)
        rows.append((net.history[-1][name], net.history[-1][f"{name}_best"]))
    mean = [np.average(losses, weights=[3, 4]) for losses in ([0.1, 0.7], [0.3, 0.9])]
    assert rows == [(mean[0], True), (mean[1], False)]
    assert score.best_score_ == mean[0]
