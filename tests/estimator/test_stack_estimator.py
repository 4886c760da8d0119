"""`Stack` in the estimator: within the bound for every input, and an exact mean."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from fake_device import runs_on_fake_device
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback
from torch import nn

from sklpos import (
    PositiveOutputRegressor,
    Stack,
    TrainingCheckpoint,
    certify,
)
from sklpos.distributed import fit_data_parallel
from sklpos.export import to_onnx, to_torch
from sklpos.training.members import deal

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 4))
X[:, 3] = np.exp(2 * X[:, 3])  # a heavy tail
X = (X - X.mean(axis=0)) / X.std(axis=0)
NOISE = 0.2 * RNG.normal(size=(300, 2))
SIGNAL = np.column_stack([np.sin(2 * X[:, 0]) + X[:, 1] ** 2 - 1, X[:, 2] + 0.5])
Y = np.maximum(SIGNAL + NOISE, 0)
WEIGHT = RNG.integers(1, 4, size=300).astype(float)


def make(**params) -> PositiveOutputRegressor:
    return PositiveOutputRegressor(**{"max_epochs": 20, "random_state": 0, **params})


@functools.cache
def fitted(dtype="float64") -> PositiveOutputRegressor:
    return make(dtype=dtype).fit(X, Y, sample_weight=WEIGHT)


@functools.cache
def far_inputs() -> np.ndarray:
    rng = np.random.default_rng(1)
    signs = rng.choice([-1.0, 0.0, 1.0], size=(100_000, 4))
    return signs * 10 ** rng.uniform(-40, 30, size=(100_000, 4))


# The bound


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_input_breaks_the_bound(dtype):
    predictions = fitted(dtype).predict(far_inputs())
    assert np.isfinite(predictions).all()
    assert predictions.min() >= 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_rounding_breaks_the_bound(dtype):
    net = copy.deepcopy(fitted().module_).to(dtype)
    rows = torch.as_tensor(far_inputs()[:20_000]).to(dtype)
    with torch.no_grad():
        for size in (1, 7, 20_000):
            assert net(rows[:size]).min() >= 0
            assert net(rows.flip(0)[:size]).min() >= 0


def test_gradient_descent_does_not_break_the_bound():
    net = fitted().module_
    inputs = torch.as_tensor(X.copy()).requires_grad_()
    optimizer = torch.optim.Adam([inputs], lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        outputs = net(inputs)
        outputs.sum().backward()
        optimizer.step()
    assert outputs.min() >= 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("domain", ["all", "box"])
def test_the_bound_is_certified(domain, dtype):
    certificate = certify(fitted(dtype), domain)
    assert certificate.status_ == "verified"
    assert (certificate.proved_min_ >= 0).all()


def test_an_upper_bound_is_the_mirror_image():
    below = make().fit(X, Y)
    above = make(lower_bound=None, upper_bound=0.0).fit(X, -Y)
    assert above.predict(far_inputs()).max() <= 0
    assert above.predict(X) == pytest.approx(-below.predict(X), abs=1e-6)


def test_each_output_has_its_own_bound():
    lower, upper = [0.3, -np.inf, -np.inf], [np.inf, 1.5, np.inf]
    targets = np.column_stack([Y[:, 0] + 0.3, np.minimum(Y[:, 1], 1.5), SIGNAL[:, 0]])
    model = make(lower_bound=lower, upper_bound=upper).fit(X, targets)
    predictions = model.predict(far_inputs())
    assert predictions[:, 0].min() >= 0.3
    assert predictions[:, 1].max() <= 1.5
    assert predictions[:, 2].min() < -1e3
    assert model.predict(X).mean(axis=0) == pytest.approx(targets.mean(axis=0))
    assert r2_score(targets, model.predict(X), multioutput="raw_values").min() > 0.8


# The mean


@pytest.mark.parametrize(("dtype", "digits"), [("float64", 1e-9), ("float32", 1e-5)])
def test_the_weighted_mean_is_exact(dtype, digits):
    mean = np.average(fitted(dtype).predict(X), axis=0, weights=WEIGHT)
    wanted = np.average(Y, axis=0, weights=WEIGHT)
    assert np.abs(mean - wanted).max() <= digits * Y.std(axis=0).min()


def test_early_stopping_keeps_the_mean_of_all_rows():
    model = make(early_stopping=True).fit(X, Y)
    assert model.predict(X).mean(axis=0) == pytest.approx(Y.mean(axis=0))
    assert 0 < model.n_iter_ <= 20


def test_balance_is_optional():
    free, exact = make(balance=False).fit(X, Y), make().fit(X, Y)
    ratio = exact.predict(X) / free.predict(X)
    assert ratio == pytest.approx(np.broadcast_to(ratio[0], ratio.shape))
    assert np.abs(ratio - 1).max() > 1e-6


def test_a_mean_out_of_bounds_is_not_kept():
    with pytest.warns(UserWarning, match=r"balance was dropped for outputs \[0, 1\]"):
        model = make(lower_bound=1.1, on_violated_y="ignore").fit(X, Y - 1)
    assert model.predict(far_inputs()).min() >= 1.1


# The fit


def test_it_fits_what_falls_and_rises():
    model = make(max_epochs=40).fit(X, Y, sample_weight=WEIGHT)
    assert model.score(X, Y) > 0.9
    new = RNG.normal(size=(500, 4))
    new[:, 3] = 0
    signal = np.maximum(np.sin(2 * new[:, 0]) + new[:, 1] ** 2 - 1, 0)
    assert r2_score(signal, model.predict(new)[:, 0]) > 0.7


def test_a_fit_is_repeatable():
    again = make().fit(X, Y, sample_weight=WEIGHT)
    assert np.array_equal(again.predict(X), fitted().predict(X))
    other = make(random_state=1).fit(X, Y, sample_weight=WEIGHT)
    assert not np.array_equal(other.predict(X), fitted().predict(X))


@pytest.mark.parametrize("unit", [1e-25, 1e200])
def test_the_unit_of_X_does_not_matter(unit):
    model = make(max_epochs=3).fit(unit * X, Y)
    predictions = make(max_epochs=3).fit(X, Y).predict(X)
    np.testing.assert_allclose(model.predict(unit * X), predictions, rtol=1e-9)


def test_a_weight_is_a_repetition():
    rows = np.repeat(np.arange(300), WEIGHT.astype(int))
    whole = make(batch_size=-1)
    weighted = clone(whole).fit(X, Y, sample_weight=10 * WEIGHT)
    repeated = clone(whole).fit(X[rows], Y[rows])
    assert weighted.predict(X) == pytest.approx(repeated.predict(X), abs=1e-7)


def test_a_member_does_not_see_the_targets_of_its_fold():
    params = {"scale_y": False, "dtype": "float64", "max_epochs": 5}
    hidden = deal(X, 4, seed=0) == 2
    # In another order, so that the mean at which all members start is the same.
    changed = Y.copy()
    changed[hidden] = Y[hidden][::-1]
    nets = [make(**params).fit(X, y).net_.module_ for y in (Y, changed)]
    outputs = [net(torch.as_tensor(X)).detach().unflatten(1, (3, 4, 2)) for net in nets]
    same = torch.isclose(*outputs, rtol=1e-9).all(dim=3).all(dim=1).all(dim=0)
    assert same.tolist() == [False, False, True, False]


def test_the_mix_is_measured_on_unseen_rows():
    # Members that learn noise by heart look perfect on the rows that they have seen.
    noise = np.abs(RNG.normal(size=300))
    model = make(module__kinds=((0, 5.0), (64, 0.0)), max_epochs=150).fit(X, noise)
    heavy, light = model.net_.module_.shares[0].tolist()
    assert heavy > 0.8
    assert light == pytest.approx(1 - heavy)


@pytest.mark.parametrize(
    ("rows", "y"),
    [
        (X[:1], Y[:1, 0]),
        (X[:2], Y[:2]),
        (X[:, :1], Y),
        (np.ones((20, 3)), Y[:20]),
        (X, np.full(300, 2.0)),
        (X, np.zeros(300)),
        (RNG.normal(size=(30, 600)), Y[:30]),
    ],
    ids=["one", "two", "feature", "constant", "same y", "zeros", "wide"],
)
def test_unusual_data(rows, y):
    model = make(max_epochs=20).fit(rows, y)
    assert model.predict(rows).mean(axis=0) == pytest.approx(y.mean(axis=0))
    assert model.predict(1e6 * rows).min() >= 0


@pytest.mark.parametrize(
    "params",
    [
        {"criterion": nn.functional.mse_loss},
        {"optimizer": torch.optim.SGD},
        {"optimizer": torch.optim.LBFGS, "lr": 0.1, "batch_size": -1, "max_epochs": 2},
        {"weight_decay": 0.1},
        {"optimizer__weight_decay": 0.1},
        {"lr_schedule": None},
        {"max_epochs": 0},
        {"module__n_folds": 1},
        {"module__width": 7, "module__kinds": ((5, 0.1),)},
    ],
    ids=lambda params: next(iter(params)),
)
def test_parameters(params):
    model = PositiveOutputRegressor(
        Stack,
        strategy="nonnegative_weights",
        random_state=0,
        **{"max_epochs": 5, **params},
    ).fit(X, Y)
    assert model.predict(X).mean(axis=0) == pytest.approx(Y.mean(axis=0))
    assert model.predict(far_inputs()[:1000]).min() >= 0


def test_each_kind_has_its_decay():
    groups = fitted().optimizer_.param_groups
    # Biases of heads, other biases, and the weights of each kind.
    assert [group["weight_decay"] for group in groups] == [5.0, 0.0, 2.5, 0.1, 4.0]
    assert [len(group["params"]) for group in groups] == [3, 3, 2, 2, 2]


def test_biases_that_are_free_do_not_decay():
    free = make(strategy="unconstrained", repair=None, max_epochs=1).fit(X, Y)
    both = make(upper_bound=1e6, max_epochs=1).fit(X, Y)
    for model in (free, both):
        groups = model.optimizer_.param_groups
        assert [group["weight_decay"] for group in groups] == [0.0, 2.5, 0.1, 4.0]


def test_a_bound_far_away_does_not_hold_the_bias_back():
    far = make(max_epochs=100).fit(X, 1000 + Y)
    assert r2_score(1000 + Y, far.predict(X)) > 0.8
    assert far.predict(far_inputs()).min() >= 0


def test_training_continues():
    model = make(warm_start=True, max_epochs=10).fit(X, Y)
    first = model.score(X, Y)
    assert model.fit(X, Y).score(X, Y) > first
    assert len(model.history_) == 20
    online = make()
    for _ in range(20):
        online.partial_fit(X, Y)
    assert online.score(X, Y) > 0.8
    assert online.predict(far_inputs()[:1000]).min() >= 0


def test_a_checkpoint_continues_bit_for_bit(tmp_path):
    class Stop(Exception):
        pass

    class Crash(Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 6:
                raise Stop

    kept = TrainingCheckpoint(tmp_path / "fit")
    with pytest.raises(Stop):
        make(max_epochs=10, callbacks=[kept, Crash()]).fit(X, Y)
    resumed = make(max_epochs=10, callbacks=[kept]).fit(X, Y)
    whole = make(max_epochs=10).fit(X, Y)
    assert np.array_equal(resumed.predict(X), whole.predict(X))


def test_early_stopping_watches_all_members():
    model = make(early_stopping=True, n_iter_no_change=3, max_epochs=300).fit(X, Y)
    assert model.n_iter_ < 300
    assert model.score(X, Y) > 0.8


@runs_on_fake_device
def test_a_device_computes_the_same(device):
    params = {"max_epochs": 3, "optimizer__fused": False, "dtype": "float64"}
    here, there = make(**params).fit(X, Y), make(device=device, **params).fit(X, Y)
    assert np.array_equal(there.predict(X), here.predict(X))
    places = {tensor.device.type for tensor in there.module_.state_dict().values()}
    assert places == {torch.device(device).type}


def test_there_are_no_multipliers():
    model = fitted()
    assert model.multipliers_.shape == (300, 2)
    assert not model.multipliers_.any()
    assert model.kkt_.max_violation == 0
    assert model.repair_ is None


# The product


def test_the_product_is_plain():
    net = fitted().module_
    assert {type(layer) for layer in net} == {nn.Linear, nn.Hardtanh, nn.ReLU}
    assert type(net.head) is nn.Linear
    assert bool((net.head.weight >= 0).all())


def test_float32_is_close_on_heavy_tails():
    net, rows = copy.deepcopy(fitted().module_), np.vstack([X, 2 * X])
    with torch.no_grad():
        found = net.float()(torch.as_tensor(rows, dtype=torch.float32)).numpy()
    error = np.abs(found - fitted().predict(rows)) / Y.std(axis=0)
    assert error.max() < 1e-4


def test_a_feature_that_float32_rounds_to_a_constant():
    rows = X.copy()
    rows[:, 0] = 3 + 1e-9 * rows[:, 0]
    model = make(dtype="float32", max_epochs=5).fit(rows, Y)
    exact = copy.deepcopy(model.module_).double()
    rows = rows.astype(np.float32)
    with torch.no_grad():
        expected = exact(torch.as_tensor(rows).double()).numpy()
    assert model.predict(rows) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", [1e-300, 1e-40])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_feature_too_small_to_be_standardised(size, dtype):
    rows = X.copy()
    rows[:, 0] *= size
    model = make(dtype=dtype, max_epochs=5).fit(rows, Y)
    assert model.predict(rows).mean(axis=0) == pytest.approx(Y.mean(axis=0), rel=1e-5)


def test_it_travels():
    for copied in (
        pickle.loads(pickle.dumps(fitted())),
        clone(fitted()).fit(X, Y, sample_weight=WEIGHT),
        copy.deepcopy(fitted()),
    ):
        assert np.array_equal(copied.predict(X), fitted().predict(X))


def test_skops_asks_for_no_more_trust():
    io = pytest.importorskip("skops.io")
    stored = io.dumps(fitted())
    plain = io.dumps(PositiveOutputRegressor(max_epochs=1).fit(X, Y))
    unknown = io.get_untrusted_types(data=stored)
    assert unknown == io.get_untrusted_types(data=plain)
    loaded = io.loads(stored, trusted=unknown)
    assert np.array_equal(loaded.predict(X), fitted().predict(X))
    loaded.set_params(warm_start=True, max_epochs=1).fit(X, Y, sample_weight=WEIGHT)
    assert len(loaded.history_) == len(fitted().history_) + 1


def test_it_is_exported(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    scaled = make_pipeline(StandardScaler(), make(max_epochs=5)).fit(X, Y)
    net = to_torch(scaled)
    with torch.no_grad():
        found = net(torch.as_tensor(X)).numpy()
    assert found == pytest.approx(scaled.predict(X))
    path = tmp_path / "stack.onnx"
    to_onnx(scaled, path)
    session = onnxruntime.InferenceSession(path)
    (outputs,) = session.run(None, {session.get_inputs()[0].name: X})
    assert outputs == pytest.approx(scaled.predict(X))


def test_searches_take_it():
    pipeline = make_pipeline(StandardScaler(), make(max_epochs=3))
    grid = {"positiveoutputregressor__module__width": [4, 8]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, Y)
    assert search.predict(1e6 * X).min() >= 0
    assert certify(search, "all").status_ == "verified"


# What it does not do


def test_an_instance_is_refused():
    with torch.random.fork_rng():
        stack = Stack(4, 2, X)
    with pytest.raises(ValueError, match="must be the class Stack"):
        make().set_params(module=stack).fit(X, Y)


def test_processes_are_refused():
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        with pytest.raises(ValueError, match="module=Stack needs the quantiles"):
            fit_data_parallel(make(), X, Y)
    finally:
        torch.distributed.destroy_process_group()
