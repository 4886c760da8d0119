"""The package's callbacks, and skorch's own as ``callbacks`` of the estimator."""

import copy
import functools
import json
import pickle
import re

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import (
    BatchScoring,
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    Freezer,
    GradientNormClipping,
    LoadInitState,
    LRScheduler,
    PrintLog,
    ProgressBar,
    TrainEndCheckpoint,
)

from sklpos import PositiveOutputRegressor
from sklpos.strategies import AugmentedLagrangian, Lagrangian, QuadraticPenalty
from sklpos.training.callbacks import ConstraintHistory, MultiplierAscent
from sklpos.training.decay import NoiseScaledDecay
from sklpos.training.print_log import QuietPrintLog

N = 50
COLUMNS = (
    "objective",
    "constraint",
    "max_violation",
    "violation_rate",
    "max_multiplier",
    "mean_multiplier",
    "alpha",
)


def make_data(seed=0, n=N, n_outputs=1):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    y = np.maximum(X[:, :n_outputs] + 0.3 * rng.normal(size=(n, n_outputs)), 0)
    return X, y.squeeze()


def regressor(*callbacks, **params):
    defaults = {
        "module__hidden_layer_sizes": (8,),
        "max_epochs": 4,
        "batch_size": 16,
        "random_state": 0,
        "repair": None,
        "lr": 0.01,
        "weight_decay": 0.0,
    }
    return PositiveOutputRegressor(callbacks=list(callbacks), **{**defaults, **params})


def fitted(model, name):
    """The callback of a fitted model."""
    return dict(model.callbacks_)[name]


def state_of(net):
    return copy.deepcopy(
        {"module": net.module_.state_dict(), "constraint": net.constraint_.state_dict()}
    )


def assert_same_state(one, two, parts=("module", "constraint")):
    for part in parts:
        assert one[part].keys() == two[part].keys()
        for name, value in one[part].items():
            assert torch.equal(value, two[part][name]), (part, name)


def forward(model, state, X):
    """Outputs of the training module in an earlier state."""
    module = copy.deepcopy(model.net_.module_)
    module.load_state_dict(state["module"])
    with torch.no_grad():
        return module(torch.as_tensor(X)).numpy()


class States(Callback):
    """Remembers the training state after each epoch."""

    def initialize(self):
        self.states_ = []
        return self

    def on_epoch_end(self, net, **kwargs):
        self.states_.append(state_of(net))


class Steps(Callback):
    """Remembers what happens in each batch."""

    def initialize(self):
        self.batches_ = []
        return self

    def on_batch_begin(self, net, batch, training, **kwargs):
        if training:
            before = state_of(net)
            self.batches_.append({"batch": batch, "before": before, "gradients": 0})

    def on_violation(self, net, violation, index):
        self.batches_[-1].setdefault("violations", []).append(violation.clone())
        self.batches_[-1].update(
            index=index, detached=not violation.requires_grad, seen=state_of(net)
        )

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.batches_[-1]["gradients"] += 1

    def on_batch_end(self, net, batch, training, **step):
        if training:
            self.batches_[-1].update(after=state_of(net), step=step)


# -- callbacks of skorch ----------------------------------------------------------


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


def test_validation_scores_without_validation_rows_are_left_out():
    X, y = make_data()
    model = regressor(EpochScoring("r2")).fit(X, y)
    assert "r2" not in model.history_[-1]


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


def test_print_log_is_aligned_whatever_the_size_of_its_numbers(capsys):
    class Sizes(Callback):
        def on_epoch_end(self, net, **kwargs):
            size = [1.0, 1.234567e-9, 12345678.9, 0.5][len(net.history) - 1]
            for name in ("max_violation", "alpha", "dur"):
                net.history.record(name, size)

    X, y = make_data()
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


# -- early stopping ---------------------------------------------------------------


def overshooting(*callbacks, **params):
    """A run whose loss rises again: the best epoch is not the last."""
    return regressor(*callbacks, **{"lr": 0.1, "max_epochs": 60, **params})


@pytest.mark.parametrize(
    "strategy", ["augmented_lagrangian", "lagrangian", "slack", "exact_penalty"]
)
@pytest.mark.parametrize("monitor", ["train_loss", "valid_loss"])
def test_early_stopping_rewinds_the_multipliers_with_the_module(strategy, monitor):
    X, y = make_data()
    stopper = EarlyStopping(monitor=monitor, load_best=True, patience=3)
    model = overshooting(
        States(),
        stopper,
        strategy=strategy,
        early_stopping=monitor == "valid_loss",
        n_iter_no_change=50,
    ).fit(X, y)
    used = fitted(model, "EarlyStopping")
    best, last = used.best_epoch_, len(model.history_)
    assert 1 <= best < last < 60
    states = fitted(model, "States").states_
    assert_same_state(state_of(model.net_), states[best - 1])
    assert not torch.equal(
        states[best - 1]["module"]["head.weight"], states[-1]["module"]["head.weight"]
    )
    assert model.strategy_.state_ is model.net_.constraint_
    if strategy in ("augmented_lagrangian", "lagrangian"):
        kept = states[best - 1]["constraint"]["multiplier"]
        assert not torch.equal(kept, states[-1]["constraint"]["multiplier"])
        scale = model.net_.targets.scale
        reported = model.multipliers_[model.multipliers_ > 0]
        kept = (kept.numpy() * scale)[kept.numpy() > 0]
        np.testing.assert_array_equal(np.sort(reported), np.sort(kept))


def test_own_early_stopping_parameter_rewinds():
    X, y = make_data()
    model = overshooting(States(), early_stopping=True, n_iter_no_change=3, tol=0.0)
    model.fit(X, y)
    best = fitted(model, "early_stopping").best_epoch_
    assert best < len(model.history_)
    state = fitted(model, "States").states_[best - 1]
    assert_same_state(state_of(model.net_), state)
    assert model.history_[:, "valid_loss"].index(min(model.history_[:, "valid_loss"]))


def test_without_load_best_nothing_is_rewound():
    X, y = make_data()
    stopper = EarlyStopping(monitor="train_loss", patience=3)
    model = overshooting(States(), stopper).fit(X, y)
    assert_same_state(state_of(model.net_), fitted(model, "States").states_[-1])


def test_each_early_stopping_rewinds_to_its_own_epoch():
    X, y = make_data()
    slow = EarlyStopping(monitor="train_loss", load_best=True, patience=4)
    never = EarlyStopping(monitor="objective", load_best=True, patience=100)
    model = overshooting(States(), ("never", never), ("slow", slow)).fit(X, y)
    best = fitted(model, "slow").best_epoch_
    assert_same_state(state_of(model.net_), fitted(model, "States").states_[best - 1])


def test_nothing_is_rewound_to_an_earlier_fit():
    """Ctrl-C in the second epoch of a warm start: its first one is the best known."""

    class CtrlC(Callback):
        cut = None

        def on_batch_end(self, net, training, **kwargs):
            if len(net.history) == self.cut:
                raise KeyboardInterrupt

    X, y = make_data()
    stopper = EarlyStopping(monitor="train_loss", load_best=True, patience=2)
    model = overshooting(stopper, States(), CtrlC(), warm_start=True).fit(X, y)
    CtrlC.cut = len(model.history_) + 2
    model.fit(X[:-3], y[:-3])
    assert model.n_iter_ == 1
    assert len(model.net_.constraint_.multiplier) == N - 3
    assert_same_state(state_of(model.net_), fitted(model, "States").states_[-1])


# -- checkpoints ------------------------------------------------------------------

FILES = {
    "f_params": "params.pt",
    "f_optimizer": "optimizer.pt",
    "f_history": "history.json",
    "f_constraint": "constraint.pt",
}


def test_checkpoint_holds_the_multipliers(tmp_path):
    X, y = make_data()
    best = Checkpoint("train_loss_best", dirname=str(tmp_path), **FILES)
    model = overshooting(States(), best, max_epochs=30).fit(X, y)
    saved = [i for i, yes in enumerate(model.history_[:, "event_cp"]) if yes][-1]
    assert saved < 29
    state = fitted(model, "States").states_[saved]

    stored = torch.load(tmp_path / "constraint.pt", weights_only=True)
    assert_same_state({**state, "constraint": stored}, state)
    assert stored["multiplier"].shape == (N, 1)
    history = json.loads((tmp_path / "history.json").read_text())
    assert set(COLUMNS) <= set(history[-1])

    other = regressor(max_epochs=1, random_state=1).fit(X, y)
    files = {key: str(tmp_path / name) for key, name in FILES.items()}
    other.net_.load_params(**files)
    assert_same_state(state_of(other.net_), state)
    assert len(other.history_) == saved + 1
    assert other.strategy_.state_ is other.net_.constraint_

    by_checkpoint = regressor(max_epochs=1, random_state=1).fit(X, y)
    by_checkpoint.net_.load_params(checkpoint=best)
    assert_same_state(state_of(by_checkpoint.net_), state)


def test_training_goes_on_from_a_checkpoint(tmp_path):
    X, y = make_data()
    files = {key: str(tmp_path / name) for key, name in FILES.items()}
    whole = regressor(max_epochs=6).fit(X, y)
    half = regressor(max_epochs=3).fit(X, y)
    half.net_.save_params(**files)
    other = regressor(max_epochs=3, warm_start=True).fit(X, y)
    other.net_.load_params(**files)
    other.fit(X, y)
    assert_same_state(state_of(other.net_), state_of(whole.net_))


@pytest.mark.parametrize("files", [{}, {"f_constraint": "constraint.pt"}])
def test_checkpoint_load_best_rewinds_the_multipliers(tmp_path, files):
    X, y = make_data()
    best = Checkpoint("train_loss_best", dirname=str(tmp_path), load_best=True, **files)
    model = overshooting(States(), best, max_epochs=30).fit(X, y)
    states = fitted(model, "States").states_
    assert len(model.history_) < len(states) == 30
    assert_same_state(state_of(model.net_), states[len(model.history_) - 1])


def test_plain_checkpoint_saves_all_but_the_multipliers(tmp_path, monkeypatch):
    X, y = make_data()
    monkeypatch.chdir(tmp_path)
    model = regressor(Checkpoint(), early_stopping=True).fit(X, y)
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"params.pt", "optimizer.pt", "criterion.pt", "history.json"}
    stored = torch.load("params.pt", weights_only=True)
    assert stored.keys() == model.net_.module_.state_dict().keys()


def test_checkpoint_can_pickle_the_net(tmp_path):
    X, y = make_data()
    every = Checkpoint(None, dirname=str(tmp_path), f_pickle="net.pkl")
    model = regressor(every).fit(X, y)
    net = pickle.loads((tmp_path / "net.pkl").read_bytes())
    assert_same_state(state_of(net), state_of(model.net_))
    assert net.strategy_.state_ is net.constraint_


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_checkpoint_at_the_end_is_of_one_epoch(tmp_path, order):
    """Module and multipliers are of the same epoch, whoever comes first."""
    X, y = make_data()
    stopper = EarlyStopping(monitor="train_loss", load_best=True, patience=3)
    end = TrainEndCheckpoint(dirname=str(tmp_path), f_constraint="constraint.pt")
    model = overshooting(States(), *[stopper, end][order]).fit(X, y)
    stored = {
        "module": torch.load(tmp_path / "train_end_params.pt", weights_only=True),
        "constraint": torch.load(
            tmp_path / "train_end_constraint.pt", weights_only=True
        ),
    }
    epoch = fitted(model, "EarlyStopping").best_epoch_ if order.step is None else 0
    assert_same_state(stored, fitted(model, "States").states_[epoch - 1])


def at_the_end(**files):
    return TrainEndCheckpoint(**files).initialize()  # or there is nothing to load


@pytest.mark.parametrize("kind", [functools.partial(Checkpoint, None), at_the_end])
def test_load_init_state_goes_on_where_the_last_run_ended(kind, tmp_path):
    X, y = make_data()
    checkpoint = kind(dirname=str(tmp_path), **FILES)
    whole = regressor(max_epochs=8).fit(X, y)
    for _ in range(2):
        model = regressor(checkpoint, LoadInitState(checkpoint)).fit(X, y)
    assert len(model.history_) == 8
    assert_same_state(state_of(model.net_), state_of(whole.net_))


# -- naming, replacing, cloning ---------------------------------------------------


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
    assert not model.net_.constraint_.multiplier.any()
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
    states = [s["constraint"]["multiplier"] for s in fitted(model, "States").states_]
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


# -- the dual step ----------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["augmented_lagrangian", "lagrangian", "slack"])
def test_dual_step_comes_before_the_step_on_the_weights(strategy):
    X, y = make_data()
    model = regressor(Steps(), strategy=strategy).fit(X, y)
    moved = 0
    for batch in fitted(model, "Steps").batches_:
        before, seen, after = batch["before"], batch["seen"], batch["after"]
        assert_same_state(before, seen, ["module"])
        assert_same_state(seen, after, ["constraint"])
        moved += not torch.equal(
            before["constraint"]["multiplier"], seen["constraint"]["multiplier"]
        )
    assert moved > 4


def test_the_loss_is_that_of_the_moved_multipliers():
    """The term of a batch is taken with the multipliers after its dual step."""
    X, y = make_data()
    model = regressor(Steps(), strategy=Lagrangian(dual_lr=0.7)).fit(X, y)
    assert model.multipliers_.any()
    for batch in fitted(model, "Steps").batches_:
        index, step = batch["index"], batch["step"]
        violation = step["violation"]
        before = batch["before"]["constraint"]["multiplier"][index]
        moved = torch.relu(before + 0.7 * violation)
        torch.testing.assert_close(
            batch["seen"]["constraint"]["multiplier"][index], moved, rtol=0, atol=1e-14
        )
        expected = (moved * violation).mean()
        torch.testing.assert_close(step["constraint"], expected, rtol=1e-12, atol=0)


def test_only_the_rows_of_the_batch_move():
    X, y = make_data(n_outputs=2)
    model = regressor(Steps(), strategy=Lagrangian(dual_lr=0.7)).fit(X, y)
    for batch in fitted(model, "Steps").batches_:
        others = np.setdiff1d(np.arange(N), batch["index"].numpy())
        before, after = (
            batch[when]["constraint"]["multiplier"][others]
            for when in ("before", "after")
        )
        assert torch.equal(before, after)


def test_multipliers_land_on_the_right_rows_and_outputs():
    """Frozen weights: every row and output climbs by its own violation, each epoch."""
    X, y = make_data(n_outputs=2)
    bound = np.array([0.2, -np.inf])
    model = regressor(
        strategy=Lagrangian(dual_lr=0.7),
        lower_bound=bound,
        optimizer=torch.optim.SGD,
        lr=1e-300,
        on_negative_y="ignore",
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
        strategy=Lagrangian(),
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
        before = batch["before"]["constraint"]["multiplier"][index]
        after = batch["after"]["constraint"]["multiplier"][index]
        torch.testing.assert_close(after, torch.relu(before + step))


def test_on_violation_gets_detached_violations_and_row_numbers():
    X, y = make_data(n_outputs=2)
    model = regressor(Steps(), lower_bound=[0.0, -np.inf]).fit(X, y)
    batches = fitted(model, "Steps").batches_
    targets = model.net_.targets
    for batch in batches:
        rows = batch["index"].numpy()
        assert batch["detached"]
        np.testing.assert_array_equal(batch["batch"][0].numpy(), X[rows])
        expected = targets.bound[:1] - forward(model, batch["before"], X[rows])[:, :1]
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


# -- the record -------------------------------------------------------------------


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
        g = targets.bound - f
        alpha = float(part[0]["seen"]["constraint"]["alpha"])
        terms = np.concatenate([term_of(strategy, batch, targets) for batch in part])
        last = fitted(model, "States").states_[epoch]["constraint"]
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
    g = targets.bound - batch["step"]["y_pred"].detach().numpy()
    state = {k: v.numpy() for k, v in batch["seen"]["constraint"].items()}
    alpha, index = state["alpha"], batch["index"].numpy()
    if strategy == "penalty":
        return alpha * np.maximum(g, 0) ** 2
    if strategy == "exact_penalty":
        return alpha * np.maximum(g, 0)
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
        return alpha * (g > 0)
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


# -- infeasible problems ----------------------------------------------------------


def linear_without_bias(*callbacks, **params):
    return regressor(
        *callbacks,
        **{
            "module__hidden_layer_sizes": (),
            "module__bias": False,
            "on_negative_y": "ignore",
            "batch_size": -1,
            **params,
        },
    )


@pytest.mark.parametrize("strategy", ["augmented_lagrangian", "lagrangian", "slack"])
@pytest.mark.parametrize(
    ("optimizer", "lr"), [(torch.optim.Adam, 0.01), (torch.optim.SGD, 1e-3)]
)
def test_infeasible_problem_is_noticed(strategy, optimizer, lr):
    X = np.array([[1.0], [-1.0], [1e-3]])
    model = linear_without_bias(
        States(),
        strategy=strategy,
        lower_bound=1.0,
        optimizer=optimizer,
        lr=lr,
        max_epochs=180,
    )
    with pytest.warns(ConvergenceWarning) as caught:
        model.fit(X, [2.0, 1.0, 1.0])
    (message,) = [str(warning.message) for warning in caught]
    assert "no head without bias obeys lower_bound" in message
    assert "Give the head a bias or lower the bound." in message
    ascent = fitted(model, "multiplier_ascent")
    assert set(ascent.infeasible_rows_) >= {0, 1}
    assert str(ascent.infeasible_rows_) in message
    states = [s["constraint"]["multiplier"] for s in fitted(model, "States").states_]
    assert not torch.equal(states[100], states[149])
    assert torch.equal(states[149], states[-1])  # the third look, and the end
    assert np.isfinite(model.predict(X)).all()


def test_rows_are_named_by_output():
    X = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    y = np.array([[2.0, 0.5], [1.0, 0.5], [1.0, 0.5]])
    model = linear_without_bias(lower_bound=[1.0, -np.inf], max_epochs=160)
    with pytest.warns(ConvergenceWarning, match=r"of 2 rows .* rows \[0, 1\]"):
        model.fit(X, y)


def feasible_problem(seed):
    """Random rows that some head without bias lifts above 1, if only just."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(30, 4))
    head = rng.normal(size=4)
    f = X @ head
    X = X * np.sign(f)[:, None] * np.maximum(1, 1 / np.abs(f))[:, None]
    assert (X @ head).min() >= 1 - 1e-12
    return X, np.maximum(X @ rng.normal(size=4), 1.0)


@pytest.mark.parametrize("strategy", ["augmented_lagrangian", "lagrangian", "slack"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lr", [1e-9, 1e-4])
@pytest.mark.filterwarnings("ignore:training diverged")  # it has not begun
def test_slow_feasible_problems_raise_no_alarm(strategy, seed, lr):
    """Weights that hardly move: all multipliers grow linearly, as if infeasible."""
    X, y = feasible_problem(seed)
    model = linear_without_bias(
        strategy=strategy,
        lower_bound=1.0,
        optimizer=torch.optim.SGD,
        lr=lr,
        max_epochs=45,
        callbacks__multiplier_ascent__window=5,
    )
    model.fit(X, y)
    assert model.multipliers_.any()
    assert model.history_[-1, "max_violation"] > 0.1
    assert fitted(model, "multiplier_ascent").infeasible_rows_ == []


@pytest.mark.parametrize(
    "params",
    [
        {"module__bias": True},  # a constant obeys
        {"lower_bound": 0.0},  # so does nothing at all
        {"strategy": "penalty"},  # nothing grows
    ],
)
def test_problems_that_cannot_be_infeasible_are_not_searched(params):
    X, y = np.array([[1.0], [-1.0]]), [1.0, 0.0]
    params = {"lower_bound": 1.0, "max_epochs": 40, **params}
    model = linear_without_bias(callbacks__multiplier_ascent__window=5, **params)
    model.fit(X, y)
    assert fitted(model, "multiplier_ascent").looks_ == []


@pytest.mark.filterwarnings("ignore:training diverged")
def test_looking_for_infeasible_rows_changes_nothing():
    """Dropout is off meanwhile: no feature is missing, and no number is drawn."""
    X, y = feasible_problem(0)
    before, fits = torch.get_rng_state(), []
    for window in (5, 1000):
        model = linear_without_bias(
            lower_bound=1.0,
            lr=1e-9,
            max_epochs=20,
            module__hidden_layer_sizes=(8,),
            module__dropout=0.5,
            callbacks__multiplier_ascent__window=window,
        )
        fits.append(model.fit(X, y))
        assert torch.equal(torch.get_rng_state(), before)
    assert len(fitted(fits[0], "multiplier_ascent").looks_) == 3
    assert_same_state(*[state_of(model.net_) for model in fits])


def test_new_rows_start_a_new_watch():
    """What was seen of other rows says nothing, and may be of another length."""
    X, y = np.array([[1.0], [-1.0]]), np.array([2.0, 1.0])
    model = linear_without_bias(
        lower_bound=1.0,
        max_epochs=30,
        warm_start=True,
        callbacks__multiplier_ascent__window=10,
    )
    with pytest.warns(ConvergenceWarning, match="no head without bias"):
        model.fit(X, y)
    assert fitted(model, "multiplier_ascent").infeasible_rows_ == [0, 1]
    model.fit(np.array([[1.0], [2.0], [0.5]]), [2.0, 3.0, 1.5])
    assert fitted(model, "multiplier_ascent").infeasible_rows_ == []
    assert len(fitted(model, "multiplier_ascent").looks_) == 3
    assert model.multipliers_.any()
