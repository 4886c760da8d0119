"""What a damaged or doctored file leads to: one sentence, or a model that works."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from damaged import at, changed, damage, places, sealed
from properties import assert_same_bits
from stored import Tied, by_pickle
from torch import nn

import sklpos
from sklpos import PositiveOutputRegressor

pytestmark = pytest.mark.filterwarnings("ignore")

SEQUENTIAL = nn.Sequential(
    nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)
).double()
MODELS = {
    "one strategy": {},
    "default module": {"module": sklpos.Stack},
    "given module": {"module": SEQUENTIAL},
    "user's module": {"module": Tied},
    "early stopping": {"early_stopping": True},
    "certified": {"strategy": "certified"},
    "two bounds": {"strategy": "slack", "upper_bound": [3, None]},
    "by construction": {"strategy": "nonnegative_weights"},
}


@pytest.fixture(scope="module")
def stored(small, data):
    """States of fitted models, made once."""
    known = {}

    def state(name):
        if name not in known:
            model = small(max_epochs=2, **MODELS[name]).fit(data.X, data.Y)
            known[name] = model.__getstate__()
        return known[name]

    return state


def load(state):
    model = object.__new__(PositiveOutputRegressor)
    model.__setstate__(state)
    return model


def assert_one_sentence(error, what):
    assert isinstance(error, ValueError), (what, error)
    text = str(error)
    assert 0 < len(text) <= 300, (what, text)
    assert "\n" not in text, (what, text)


def loaded_or_refused(state, what):
    try:
        return load(state)
    except Exception as error:
        assert_one_sentence(error, what)
        return None


def assert_predicts(model, data, what):
    predictions = model.predict(data.X)
    assert predictions.shape == data.Y.shape, what
    assert np.isfinite(predictions).all(), what


def use(model, data, what):
    """Each use works, or says in one sentence why not."""
    for call in (
        lambda: assert_predicts(model, data, what),
        lambda: repr(sklpos.report(model)),
        lambda: (model.multipliers_, model.certificate_, repr(model.repair_)),
        lambda: model.get_params(),
        lambda: by_pickle(model),
        lambda: copy.copy(model).enforce(data.X).predict(data.X),
        lambda: copy.copy(model).partial_fit(data.X, data.Y).predict(data.X),
    ):
        try:
            call()
        except ValueError as error:
            assert_one_sentence(error, what)


def try_damages(state, data, seed, n_cases, *, seal):
    rng, n_loaded = random.Random(seed), 0
    for case in range(n_cases):
        changed_state, what = damage(state, rng)
        model = loaded_or_refused(
            sealed(changed_state) if seal else changed_state, (seed, case, what)
        )
        if model is not None and not seal:
            # Only what is beside the content was changed.
            assert_same_bits(model.predict(data.X), load(state).predict(data.X))
        if model is not None:
            n_loaded += 1
            use(model, data, (seed, case, what))
    return n_loaded


@pytest.mark.parametrize("name", ["one strategy", "early stopping"])
def test_damage_is_refused_in_one_sentence(stored, data, name):
    """The digest finds what no other check does."""
    loaded = try_damages(stored(name), data, f"damage {name}", 40, seal=False)
    assert loaded <= 4  # a changed version or digest, or the same value once more


@pytest.mark.parametrize("name", ["one strategy", "given module"])
def test_a_forged_file_is_refused_or_works(stored, data, name):
    assert try_damages(stored(name), data, f"forgery {name}", 20, seal=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_many_damages(stored, data, name):
    try_damages(stored(name), data, f"many {name}", 150, seal=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"user's module"}))
def test_many_forgeries(stored, data, name):
    try_damages(stored(name), data, f"many forgeries {name}", 40, seal=True)


def test_one_bit_is_enough(stored):
    state = stored("one strategy")
    arrays = [place for place in places(state) if place[-1:] == ("values",)]
    for place in arrays[::7]:
        array = at(state, place).copy()
        flat = array.reshape(-1).view(np.uint8)
        flat[len(flat) // 2 : len(flat) // 2 + 1] ^= 1
        with pytest.raises(ValueError, match="does not match the digest"):
            load(changed(state, place, array))


# A forged file, which has the digest of its content

NET = ("vars", "fitted_", "vars", "net", "vars")
FINISHED = ("vars", "fitted_", "vars", "finished", "vars")
HEAD = (*FINISHED, "model", "vars", "module", "vars", "_modules", "head", "vars")
WEIGHT = (*HEAD, "_parameters", "weight", "values")
ADAM = (*NET, "optimizer_", "state", 0, "exp_avg", "values")
GROUP = (*NET, "optimizer_", "param_groups", 0)
SEEN = ("vars", "fitted_", "vars", "seen", "n_features_in_")
BOUNDS = (*NET, "targets", "vars", "bounds", "vars")


@pytest.mark.parametrize(
    ("place", "new", "match"),
    [
        (WEIGHT, np.full((2, 8), np.nan), "'weight' holds NaN or infinity"),
        (WEIGHT, np.full((2, 8), np.inf), "'weight' holds NaN or infinity"),
        (WEIGHT, np.ones((2, 8), dtype=complex), "'weight' holds complex128 numbers"),
        (WEIGHT, np.ones((5, 8)), r"'weight' has shape \(5, 8\)"),
        (WEIGHT, "weights", "'values' is 'weights', which is not of type ndarray"),
        ((*HEAD, "out_features"), 5, "'weight' has shape"),
        ((*HEAD, "forward"), 5, "5 would replace the method 'forward'"),
        (("vars", "predict"), 5, "5 would replace the method 'predict'"),
        ((*BOUNDS, "lower"), np.zeros(5), r"'a bound' is an array of shape \(5,\)"),
        ((*BOUNDS, "lower"), np.full(2, 1e9), "the model has other bounds|is below"),
        ((*NET, "head"), "nowhere", "no attribute `nowhere`"),
        ((*NET, "alpha"), "1", "'alpha' is '1', which is not of type float"),
        ((*NET, "optimizer", "name"), "torch.nn.modules.linear.Linear", "'optimizer'"),
        ((*NET, "history_", "epochs"), [3], "not a mapping|cannot be loaded"),
        (
            ADAM,
            np.ones(1),
            r"\['exp_avg'\] is float64 of shape \(1,\), not .* \(8, 3\)",
        ),
        (ADAM, np.ones((8, 3), np.float32), r"\['exp_avg'\] is float32"),
        (ADAM, np.ones((8, 3), np.int64), r"\['exp_avg'\] is int64"),
        ((*GROUP, "betas"), (0.9,), r"optimizer\['betas'\] has 1 items, not 2"),
        ((*GROUP, "lr"), np.nan, r"optimizer\['lr'\] is NaN"),
        ((*GROUP, "params"), [0, 0, 2, 3], "optimizer lists other weights"),
        (SEEN, 4, "'n_features_in_' is 4, with 3 features"),
        ((*FINISHED, "repair"), "none", "'repair' is 'none'"),
        (("vars", "fitted_"), {}, "'fitted_' is a dict, which is not of type Fit"),
    ],
    ids=lambda value: ".".join(map(str, value[-2:])) if type(value) is tuple else "",
)
def test_what_is_wrong_is_said(stored, place, new, match):
    state = stored("one strategy")
    try:
        parent = at(state, place[:-1])
        forged = changed(state, place[:-1], {**parent, place[-1]: new})
    except TypeError:
        forged = changed(state, place, new)
    with pytest.raises(ValueError, match=match) as raised:
        load(sealed(forged))
    assert_one_sentence(raised.value, place)


@pytest.mark.parametrize("name", ["module", "warm_start", "_net_params"])
def test_a_missing_parameter_is_named(stored, name):
    state = changed(stored("one strategy"), ("vars", name), None, delete=True)
    with pytest.raises(ValueError, match=f"parameter '{name}' is missing"):
        load(sealed(state))


def test_what_contains_itself_is_refused(stored):
    endless = []
    endless.append(endless)
    state = changed(stored("one strategy"), ("vars", "callbacks"), endless)
    with pytest.raises(ValueError, match="recursion") as raised:
        load(sealed(state))
    assert_one_sentence(raised.value, "cycle")


@pytest.mark.parametrize("state", [None, 3, "x", [], {}, {"vars": []}])
def test_no_state_at_all(state):
    with pytest.raises(ValueError, match="cannot be loaded"):
        load(state)


def test_a_pickle_that_was_cut_or_changed(stored, small, data):
    """Of pickle itself there are other errors; of this package, one sentence."""
    model = small().fit(data.X, data.Y)
    content = bytearray(pickle.dumps(model))
    weight = model.module_.head.weight.detach().numpy().tobytes()
    content[content.find(weight) + 6] ^= 1
    with pytest.raises(ValueError, match="does not match the digest"):
        pickle.loads(bytes(content))


def test_a_file_of_a_newer_version_is_named_as_such(stored):
    state = changed(stored("one strategy"), ("vars", "alpha"), None, delete=True)
    state["sklpos_version"] = "99.0"
    with (
        pytest.warns(UserWarning, match=r"stored by sklpos 99\.0"),
        pytest.raises(ValueError, match="is of another version: parameter 'alpha'"),
    ):
        load(sealed(state))


def test_a_certificate_is_a_claim_of_the_file(small, data):
    """SECURITY.md says so: the digests in a file tell of its own model only."""
    model = small(strategy="certified").fit(data.X, data.Y)
    claim = (*FINISHED, "certificate", "vars", "proved_min_")
    forged = load(sealed(changed(model.__getstate__(), claim, np.full(2, 5.0))))
    assert forged.certificate_
    assert forged.certificate_.proved_min_.tolist() == [5.0, 5.0]
    assert forged.certify("box", X=data.X).proved_min_.max() < 5
    subject = (*FINISHED, "certificate", "vars", "subject_", "vars", "digests")
    with pytest.raises(ValueError, match="digests of the subject of a proof") as raised:
        load(sealed(changed(model.__getstate__(), subject, np.ones(3))))
    assert_one_sentence(raised.value, subject)


def test_the_module_is_tried_without_a_trace(small, data):
    """Loading leaves modes and running statistics as they were stored."""
    model = small(module=SEQUENTIAL, batch_size=20).fit(data.X, data.Y)
    for training in (True, False):
        model.net_.module_.train(training)
        loaded = by_pickle(model)
        assert [m.training for m in loaded.net_.module_.modules()] == [
            m.training for m in model.net_.module_.modules()
        ]
        for name, value in model.net_.module_.state_dict().items():
            assert torch.equal(loaded.net_.module_.state_dict()[name], value)


class Fussy(nn.Module):
    """A module of a user that takes no other rows than those of its data."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, X):
        if not hasattr(self, "allowed"):
            raise RuntimeError("the table is not there yet")
        return self.head(X)


def test_a_users_module_is_not_tried(small, data):
    Fussy.allowed = True
    try:
        stored = pickle.dumps(small(module=Fussy).fit(data.X, data.Y))
    finally:
        del Fussy.allowed
    assert isinstance(pickle.loads(stored).module_, Fussy)
