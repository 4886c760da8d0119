"""Checkpoints that are damaged or doctored: refused in one sentence, or harmless."""

import copy
import io
import os
import warnings
import zipfile

import numpy as np
import pytest
import torch
from properties import assert_same_bits, training_state, untouched_random_state
from skorch.callbacks import Callback, LRScheduler
from torch import nn

import sklpos.training.archive
from sklpos import MLP, PositiveOutputRegressor, TrainingCheckpoint
from sklpos.strategies import Lagrangian
from sklpos.training.archive import read_archive, write_archive

EPOCHS = 3
X = np.random.default_rng(0).normal(size=(20, 2))
Y = np.maximum(X[:, 0], 0)


def make(path, **params):
    schedule = LRScheduler("ReduceLROnPlateau", monitor="train_loss")
    defaults = {
        "module": MLP,
        "module__hidden_layer_sizes": (3,),
        "early_stopping": True,
        "callbacks": [TrainingCheckpoint(path), ("schedule", schedule)],
        "max_epochs": EPOCHS,
        "random_state": 0,
    }
    return PositiveOutputRegressor(**(defaults | params))


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The bytes of a checkpoint after two of three epochs, and how the fit ends."""
    path = tmp_path_factory.mktemp("honest") / "fit.ckpt"
    end = training_state(make(path).fit(X, Y))
    make(path.with_name("two"), max_epochs=2).fit(X, Y)
    return path.with_name("two").read_bytes(), end


def read(content):
    return read_archive(io.BytesIO(content))


def sealed(tree) -> bytes:
    """A file with a checksum that holds, as somebody who knows the format makes it."""
    file = io.BytesIO()
    write_archive(tree, file)
    return file.getvalue()


def refusal(path, content, **params) -> str | None:
    """Resume from a file; the sentence that refuses it, None if it was used."""
    path.write_bytes(content)
    model = make(path, **params)
    try:
        model.fit(X, Y)
    except ValueError as error:
        assert not hasattr(model, "fitted_")
        assert path.read_bytes() == content
        text = str(error)
        assert len(text) < 300, text
        assert "\n" not in text
        assert repr(str(path)) in text
        return text
    return None


# Accidents


def flipped(content, byte, bit) -> bytes:
    changed = bytearray(content)
    changed[byte] ^= 1 << bit
    return bytes(changed)


def check_flips(content, places):
    """A flipped bit is found, or is in a byte that nobody reads."""
    expected = read(content)
    for byte, bit in places:
        try:
            found = read(flipped(content, byte, bit))
        except ValueError:
            continue
        assert_same_bits(found, expected)
        assert byte >= content.rindex(b"PK\x05\x06"), "not in the end of the zip"


def test_a_flipped_bit_is_found_in_every_region(honest):
    content, _ = honest
    rng, bytes_ = np.random.default_rng(0), len(content)
    check_flips(content, [(b, rng.integers(8)) for b in range(0, bytes_, 97)])
    check_flips(content, [(b, rng.integers(8)) for b in range(bytes_ - 200, bytes_)])


@pytest.mark.slow
def test_a_flipped_bit_is_found_in_every_byte(honest):
    content, _ = honest
    rng = np.random.default_rng(1)
    check_flips(content, [(b, rng.integers(8)) for b in range(len(content))])


def test_a_part_of_a_file_is_refused(honest):
    content, _ = honest
    damaged = [content[:n] for n in range(0, len(content), 199)]
    damaged += [content[:-1], content + b"\0", bytes(100) + content[100:]]
    damaged += [content[:500] + content[1000:], content[::-1]]
    for each in damaged:
        with pytest.raises(ValueError, match=r"damaged|not written by"):
            read(each)


@pytest.mark.parametrize(("name", "version"), [("sklpos", "99.0"), ("torch", "1.9.0")])
def test_a_file_of_another_version_is_refused(
    honest, tmp_path, monkeypatch, name, version
):
    versions = sklpos.training.archive._versions() | {name: version}
    tree = read(honest[0])
    with monkeypatch.context() as patch:
        patch.setattr(sklpos.training.archive, "_versions", lambda: versions)
        content = sealed(tree)
    assert f"written by sklpos {versions['sklpos']} and torch {versions['torch']}" in (
        refusal(tmp_path / "a", content)
    )


# Strangers


def nodes(tree, path=()):
    """All places in a tree."""
    yield path
    if isinstance(tree, (dict, list, tuple)):
        for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from nodes(value, (*path, name))


def edited(tree, path, change):
    """A copy of a tree in which one value is changed, or missing."""
    tree = copy.deepcopy(tree)
    place, *rest = tree, *path
    for name in rest[:-1]:
        place = place[name]
    if isinstance(place, tuple):
        return None
    if change is None:
        del place[rest[-1]]
    else:
        place[rest[-1]] = change(place[rest[-1]])
    return tree


def larger(value):
    if isinstance(value, torch.Tensor):
        return torch.zeros(*value.shape, 2, dtype=value.dtype)
    return [value, value]


def cast(value):
    if isinstance(value, torch.Tensor):
        return value.to(torch.float16 if value.is_floating_point() else torch.float64)
    return {"value": value}


CHANGES = {
    "missing": None,
    "text": lambda value: "text",
    "none": lambda value: None,
    "larger": larger,
    "cast": cast,
    "complex": lambda value: torch.zeros(2, dtype=torch.complex64),
}


def is_a_value(place, change) -> bool:
    """Whether an edit changes what a training learnt, rather than the form of a file.

    Somebody who knows the format can write other numbers; nobody can tell.
    """
    if place[0] == "history":
        return (
            len(place) == 2
            or place[2] in ("batches", "event_lr")
            or (change in ("missing", "cast"))
        )
    # Settings that are off in the live optimizer, too; numbers in another dtype.
    off = place[:3] == ("parts", "optimizer", "param_groups") and change in (
        "missing",
        "none",
    )
    cast = place[-1] in ("__ndarray__", "step") and change == "cast"
    lost = place[:3] == ("parts", "optimizer", "state") and change == "missing"
    return off or cast or (lost and len(place) == 4)


def check_edits(honest, path, every):
    """Each edit is refused, but for those that change what was learnt."""
    content, _ = honest
    tree = read(content)
    places = [place for place in nodes(tree) if place]
    edits = [(place, change) for place in places for change in CHANGES][::every]
    for place, change in edits:
        made = edited(tree, place, CHANGES[change])
        if made is not None and refusal(path, sealed(made)) is None:
            assert is_a_value(place, change), (place, change)
    assert len(edits) > 20


def test_a_file_in_another_form_is_refused(honest, tmp_path):
    check_edits(honest, tmp_path / "a", 37)


@pytest.mark.slow
def test_every_edit_of_the_form_is_refused(honest, tmp_path):
    check_edits(honest, tmp_path / "a", 2)


def test_the_honest_file_goes_on(honest, tmp_path):
    content, end = honest
    (tmp_path / "a").write_bytes(sealed(read(content)))
    assert_same_bits(training_state(make(tmp_path / "a").fit(X, Y)), end)


@pytest.mark.parametrize("name", ["_TrainingCheckpoint", "TrainingCheckpoint"])
def test_a_file_chooses_no_path(honest, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    tree = read(honest[0])
    tree["callbacks"][name] = {"path": str(victim)}
    assert f"has an unknown {name!r}" in refusal(tmp_path / "a", sealed(tree))
    tree = read(honest[0])
    tree["callbacks"]["early_stopping"]["sink"] = "print"
    assert "has an unknown 'sink'" in refusal(tmp_path / "a", sealed(tree))
    assert victim.read_text(encoding="utf-8") == "precious"


def test_no_callback_lets_a_file_choose_its_parameters(tmp_path):
    class Elsewhere(TrainingCheckpoint):
        state_attributes_ = ("path",)

    guard = Elsewhere(tmp_path / "a")
    with pytest.raises(ValueError, match="Elsewhere holds the parameter 'path'"):
        make(tmp_path / "a", callbacks=[guard]).fit(X, Y)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda tree: tree.update(history="text"), "it holds no history"),
        (lambda tree: tree["frozen"].extend(tree["parts"]["module"]), "are frozen"),
        (lambda tree: tree["frozen"].append("x"), "not a list of names of weights"),
        (lambda tree: tree["parts"]["optimizer"]["state"].clear(), None),
        (lambda tree: tree["parts"].update({"x" * 10**4: 1}), "has an unknown 'xx"),
        (lambda tree: tree["parts"].update({"\x1b[2J": 1}), r"unknown '\x1b[2J'"),
    ],
)
def test_what_is_wrong_is_said(honest, tmp_path, edit, words):
    tree = read(honest[0])
    edit(tree)
    found = refusal(tmp_path / "a", sealed(tree))
    assert found is None if words is None else words in found


def compressed(content) -> bytes:
    """The same archive, with its members compressed."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    return file.getvalue()


def shared(depth) -> list:
    """A list of 2 ** depth items that takes `depth` lists in memory."""
    tree = []
    for _ in range(depth):
        tree = [tree, tree]
    return tree


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"x": torch.zeros(1).expand(10**9)}, "holds a Tensor"),
        ({"x": torch.empty(10**9, device="meta")}, "holds a Tensor"),
        ({"x": shared(40)}, "nested without end"),
        ({"x": torch.nn.Parameter(torch.zeros(1))}, "holds a Parameter"),
        ([1, 2], "not written by TrainingCheckpoint"),
    ],
)
def test_a_file_that_unfolds_is_refused(tree, words):
    with pytest.raises(ValueError, match=words):
        read(sealed(tree))


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_inside_runs_nothing(tmp_path):
    """Nor does one whose checksum holds."""
    content = sealed({"history": [Evil(tmp_path / "made")]})
    assert "torch cannot read it" in refusal(tmp_path / "a", content)
    assert not (tmp_path / "made").exists()


def test_a_compressed_file_is_refused(honest, monkeypatch):
    """Zeros of 10 MB take 10 kB in it, and are not read."""
    plain = io.BytesIO()
    torch.save({"x": torch.zeros(2_500_000)}, plain)
    small = compressed(plain.getvalue())
    assert len(small) < 20_000
    monkeypatch.setattr(torch, "save", lambda tree, file: file.write(small))
    bomb = sealed({})
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(ValueError, match="would unfold from"):
        read(bomb)


# Other nets


def own_net(seed, width=4, slope=0.1):
    torch.manual_seed(seed)
    layers = nn.Linear(2, width), nn.LeakyReLU(slope), nn.Linear(width, 1)
    return nn.Sequential(*layers).double()


def power(exponent):
    return lambda y_pred, y_true: (y_pred - y_true).abs() ** exponent


BEFORE_AND_AFTER = {
    "initial weights": ("module", own_net(0), own_net(1)),
    "an attribute of a layer": ("module", own_net(0), own_net(0, slope=0.2)),
    "the criterion": ("criterion", nn.HuberLoss(delta=1.0), nn.HuberLoss(delta=2.0)),
    "a function": ("criterion", power(2), power(2.5)),
    "the strategy": ("strategy", Lagrangian(dual_lr=1.0), Lagrangian(dual_lr=2.0)),
    "the optimizer": ("optimizer", torch.optim.AdamW, torch.optim.Adam),
}


@pytest.mark.parametrize("what", BEFORE_AND_AFTER)
def test_a_checkpoint_of_another_net_is_refused(tmp_path, what):
    name, before, after = BEFORE_AND_AFTER[what]
    with untouched_random_state():
        made = {
            key: make(tmp_path / "a", **{name: value}, early_stopping=False)
            for key, value in {"before": before, "after": after}.items()
        }
    if name == "module":
        for model in made.values():
            del model._net_params["module__hidden_layer_sizes"]
    made["before"].fit(X, Y)
    kept = (tmp_path / "a").read_bytes()
    assert made["before"].fit(X, Y).n_iter_ == EPOCHS
    with pytest.raises(ValueError, match=f"which differs in .*{name}"):
        made["after"].fit(X, Y)
    assert (tmp_path / "a").read_bytes() == kept


def test_a_callback_that_declares_nothing_is_named(tmp_path):
    class Counting(Callback):
        def on_train_begin(self, net, **kwargs):
            self.seen_ = 0

    guard = TrainingCheckpoint(tmp_path / "a")
    model = make(tmp_path / "a", callbacks=[guard, Counting()])
    with pytest.warns(UserWarning, match="Counting, of which .* does not save seen_"):
        model.fit(X, Y)
    Counting.state_attributes_ = ()

    class Annealing(LRScheduler):
        """Without results of its own."""

        def on_epoch_end(self, net, **kwargs):
            super().on_epoch_end(net, **kwargs)

    guard = TrainingCheckpoint(tmp_path / "b")
    callbacks = [guard, Counting(), Annealing("StepLR", step_size=1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(tmp_path / "b", callbacks=callbacks).fit(X, Y)
