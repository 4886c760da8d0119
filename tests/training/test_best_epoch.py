"""Weights and multipliers return to the best epoch together, also from files."""

import functools
import json
import pickle
import signal

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    LoadInitState,
    TrainEndCheckpoint,
)
from watching import (
    COLUMNS,
    N,
    States,
    assert_same_state,
    fitted,
    make_data,
    overshooting,
    regressor,
    state_of,
)


@pytest.mark.parametrize(
    ("strategy", "monitor"),
    [
        ("augmented_lagrangian", "train_loss"),
        ("augmented_lagrangian", "valid_loss"),
        ("slack", "train_loss"),
        ("exact_penalty", "valid_loss"),
    ],
)
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
    assert model.strategy_.state_ is model.net_.constraint_.state
    if strategy == "augmented_lagrangian":
        kept = states[best - 1]["strategy"]["multiplier"]
        assert not torch.equal(kept, states[-1]["strategy"]["multiplier"])
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
                signal.raise_signal(signal.SIGINT)

    X, y = make_data()
    stopper = EarlyStopping(monitor="train_loss", load_best=True, patience=2)
    model = overshooting(stopper, States(), CtrlC(), warm_start=True).fit(X, y)
    CtrlC.cut = len(model.history_) + 2
    with pytest.warns(ConvergenceWarning, match="interrupted at epoch 2 of 60"):
        model.fit(X[:-3], y[:-3])
    assert model.n_iter_ == 1
    assert len(model.net_.constraint_.multipliers) == N - 3
    assert_same_state(state_of(model.net_), fitted(model, "States").states_[-1])


# Checkpoints

FILES = {
    "f_params": "params.pt",
    "f_optimizer": "optimizer.pt",
    "f_history": "history.json",
    "f_constraint": "constraint.pt",
}


def read_strategy(path):
    """Tensors of a strategy from the file of its constraint."""
    stored = torch.load(path, weights_only=True)
    names = [name for name in stored if name.startswith("state.")]
    return {name.removeprefix("state."): stored[name] for name in names}


def test_checkpoint_holds_the_multipliers(tmp_path):
    X, y = make_data()
    best = Checkpoint("train_loss_best", dirname=str(tmp_path), **FILES)
    model = overshooting(States(), best, max_epochs=30).fit(X, y)
    saved = [i for i, yes in enumerate(model.history_[:, "event_cp"]) if yes][-1]
    assert saved < 29
    state = fitted(model, "States").states_[saved]

    stored = read_strategy(tmp_path / "constraint.pt")
    assert_same_state({"strategy": stored}, state, ["strategy"])
    assert stored["multiplier"].shape == (N, 1)
    history = json.loads((tmp_path / "history.json").read_text())
    assert set(COLUMNS) <= set(history[-1])

    other = regressor(max_epochs=1, random_state=1).fit(X, y)
    files = {key: str(tmp_path / name) for key, name in FILES.items()}
    other.net_.load_params(**files)
    assert_same_state(state_of(other.net_), state)
    assert len(other.history_) == saved + 1
    assert other.strategy_.state_ is other.net_.constraint_.state

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
    assert net.strategy_.state_ is net.constraint_.state


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_checkpoint_at_the_end_is_of_one_epoch(tmp_path, order):
    """Module and multipliers are of the same epoch, whoever comes first."""
    X, y = make_data()
    stopper = EarlyStopping(monitor="train_loss", load_best=True, patience=3)
    end = TrainEndCheckpoint(dirname=str(tmp_path), f_constraint="constraint.pt")
    model = overshooting(States(), *[stopper, end][order]).fit(X, y)
    stored = {
        "module": torch.load(tmp_path / "train_end_params.pt", weights_only=True),
        "strategy": read_strategy(tmp_path / "train_end_constraint.pt"),
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
