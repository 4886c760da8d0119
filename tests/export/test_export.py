"""What is exported predicts as the model does, and is as plain as promised."""

import io

import numpy as np
import pytest
import torch
from networks import ACTIVATIONS, random_network
from sklearn.decomposition import PCA, KernelPCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
)
from torch import nn

from sklpos.export import proto
from sklpos.export.models import to_onnx, to_torch
from sklpos.nets.bounds import Bounds
from sklpos.nets.outputs import BoundedOutput
from sklpos.strategies import STRATEGIES

SCALERS = [StandardScaler, MinMaxScaler, RobustScaler, MaxAbsScaler]


def far(X):
    """The same rows in a unit far from standardised."""
    return 50 + 10 * np.asarray(X)


@pytest.fixture
def fitted(small, data):
    """Fit a regressor behind scalers; return it, and rows it has not seen."""

    def fit(*steps, dtype="float64", bound=0.0, upper=None, **params):
        params = {"dtype": dtype, "lower_bound": bound, "upper_bound": upper, **params}
        net = small(on_violated_y="ignore", **params)
        model = make_pipeline(*steps, net)
        model.fit(far(data.X).astype(dtype), data.Y)
        return model, far(data.X_new).astype(dtype)

    return fit


def run(proto, X):
    """Run a model in onnxruntime."""
    session = pytest.importorskip("onnxruntime").InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"X": X})[0]


def written(model, tmp_path):
    """Write a model; return what the file holds."""
    onnx = pytest.importorskip("onnx")
    to_onnx(model, tmp_path / "model.onnx")
    return onnx.load(tmp_path / "model.onnx")


def operations(proto):
    return [node.op_type for node in proto.graph.node]


def assert_same_predictions(found, model, X):
    expected = model.predict(X).reshape(len(X), -1)
    assert found.dtype == expected.dtype
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * scale)


# -- ONNX ---------------------------------------------------------------------------


def test_every_strategy_in_onnx(fitted, strategy, tmp_path):
    params = {"strategy": strategy, "bound": [0.1, -np.inf], "module__dropout": 0.1}
    model, X = fitted(StandardScaler(), **params)
    proto = written(model, tmp_path)
    assert_same_predictions(run(proto, X), model, X)
    net = ["Gemm", "Relu", "Gemm"]
    if strategy == "activation":  # the head is not the output
        assert operations(proto)[:3] == net
        assert operations(proto)[-1] == "Add"
    else:
        assert operations(proto) == net


OTHER_LAYERS = {
    "batch_norm": lambda: nn.BatchNorm1d(8),
    "hardsigmoid": nn.Hardsigmoid,
    "hardtanh": lambda: nn.Hardtanh(0, 1),
    "relu6": nn.ReLU6,
}


@pytest.mark.parametrize("name", [*ACTIVATIONS, *OTHER_LAYERS])
def test_every_layer_in_onnx(fitted, name, tmp_path):
    """In both dtypes, as runtimes do not know every operation in float64."""
    make = (ACTIVATIONS | OTHER_LAYERS)[name]
    for dtype in ("float32", "float64"):
        layers = nn.Linear(3, 8), make(), nn.Linear(8, 8), make(), nn.Linear(8, 2)
        model, X = fitted(StandardScaler(), module=nn.Sequential(*layers), dtype=dtype)
        assert_same_predictions(run(written(model, tmp_path), X), model, X)


@pytest.mark.parametrize(
    ("function", "bound"),
    [
        ("softplus", 0.1),
        ("exp", [0.1, -np.inf]),
        ("relu", [0.1, -np.inf]),
        ("square", 0.1),
    ],
)
def test_every_output_activation_in_onnx(fitted, function, bound, tmp_path):
    strategy = STRATEGIES["activation"](function)
    model, X = fitted(StandardScaler(), strategy=strategy, bound=bound)
    assert_same_predictions(run(written(model, tmp_path), X), model, X)


# Both kinds of one bound, both bounds, and none, in one model.
SIDES = [(None, 1.0), (0.1, 1.0), ([None, 0.1], [1.0, None]), ([0.1, None], [1.0, 2.0])]


def within(values, bound, upper):
    return Bounds.read(bound, upper, values.shape[1]).contain(values).all()


@pytest.mark.parametrize(("bound", "upper"), SIDES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["activation", "nonnegative_weights"])
def test_both_bounds_in_onnx(fitted, name, dtype, bound, upper, tmp_path):
    params = {"strategy": name, "module__activation": "sigmoid", "dtype": dtype}
    model, X = fitted(StandardScaler(), bound=bound, upper=upper, **params)
    proto = written(model, tmp_path)
    assert_same_predictions(run(proto, X), model, X)
    far_out = np.vstack([1e3 * X, -1e3 * X, X])
    assert within(run(proto, far_out).astype(float), bound, upper)
    assert within(by_torch(model, far_out).astype(float), bound, upper)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bound_holds_on_the_training_rows(fitted, data, dtype, tmp_path):
    """The margin of the repair is wider than what another runtime rounds."""
    model, _ = fitted(StandardScaler(), dtype=dtype, max_epochs=50)
    X = far(data.X).astype(dtype)
    found = run(written(model, tmp_path), X)
    assert found.min() < 1e-3
    assert found.min() >= 0


def test_the_number_of_rows_is_free(fitted, tmp_path):
    model, X = fitted(StandardScaler())
    proto = written(model, tmp_path)
    for value, width in ((proto.graph.input[0], 3), (proto.graph.output[0], 2)):
        rows, columns = value.type.tensor_type.shape.dim
        assert rows.dim_param
        assert columns.dim_value == width
    for n in (1, 7):
        assert_same_predictions(run(proto, X[:n]), model, X[:n])


def test_one_output_is_a_column(small, data, tmp_path):
    model = small().fit(data.X, data.y)
    assert run(written(model, tmp_path), data.X_new.copy()).shape == (20, 1)


def test_other_steps_in_onnx(fitted, tmp_path):
    pytest.importorskip("skl2onnx")
    model, X = fitted(PCA(2), MinMaxScaler(), StandardScaler())
    proto = written(model, tmp_path)
    assert_same_predictions(run(proto, X), model, X)
    assert operations(proto)[-3:] == ["Gemm", "Relu", "Gemm"]
    assert not {"Scaler", "Div"} & set(operations(proto))


def test_a_step_that_skl2onnx_cannot_convert(fitted, tmp_path):
    pytest.importorskip("skl2onnx")
    model, _ = fitted(SplineTransformer(), StandardScaler())
    with pytest.raises(ValueError, match="SplineTransformer: skl2onnx fails in float6"):
        to_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["onnx", "skl2onnx"])
def test_a_missing_package_is_named(fitted, tmp_path, monkeypatch, missing):
    pytest.importorskip("onnx")

    def import_module(name):
        if name == missing:
            raise ImportError
        return __import__(name)

    monkeypatch.setattr(proto, "import_module", import_module)
    model, _ = fitted(KernelPCA(2))
    needs = f"to_onnx needs the package {missing}.* pip install 'sklpos\\[onnx\\]'"
    with pytest.raises(ImportError, match=needs):
        to_onnx(model, tmp_path / "model.onnx")


TWICE = nn.Linear(3, 3)  # of which only the first use is behind the scalers


class Square(nn.Module):
    def forward(self, X):
        return X**2


def hooked(layer):
    layer.register_forward_hook(lambda *args: None)
    return layer


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (Square, "Square;"),
        (lambda: hooked(nn.ReLU()), "ReLU with a forward or a hook of its own"),
        (lambda: hooked(nn.Sequential(nn.ReLU())), "Sequential with a forward or a h"),
    ],
)
def test_a_layer_that_is_not_understood(fitted, layer, what, tmp_path):
    pytest.importorskip("onnx")
    module = nn.Sequential(nn.Linear(3, 4), layer(), nn.Linear(4, 2))
    model, X = fitted(StandardScaler(), module=module)
    with pytest.raises(ValueError, match=what):
        to_onnx(model, tmp_path / "model.onnx")
    assert_same_predictions(by_torch(model, X), model, X)  # which keeps it as it is


# -- torch --------------------------------------------------------------------------


@torch.no_grad()
def by_torch(model, X):
    return to_torch(model)(torch.as_tensor(X)).numpy()


def test_every_strategy_in_torch(fitted, strategy):
    model, X = fitted(StandardScaler(), strategy=strategy, module__dropout=0.1)
    net = to_torch(model)
    assert type(net) is nn.Sequential
    assert not net.training
    kinds = [nn.Linear, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in net][:3] == kinds
    assert [type(layer) for layer in net][3:] in ([], [BoundedOutput])
    assert (len(net) == 4) == (strategy == "activation")
    assert_same_predictions(by_torch(model, X), model, X)


@pytest.mark.parametrize("scaler", SCALERS)
def test_scalers_are_folded(fitted, scaler):
    steps = Pipeline([("one", scaler()), ("two", "passthrough")])
    model, X = fitted(steps, dtype="float32")
    assert len(to_torch(model)) == 3
    assert_same_predictions(by_torch(model, X), model, X)


def test_scalers_are_folded_in_float64(fitted):
    """And rounded once."""
    model, _ = fitted(StandardScaler(), dtype="float32")
    scaler, first = model[0], model[-1].module_.features[0]
    weight = first.weight.detach().double().numpy() / scaler.scale_
    bias = first.bias.detach().double().numpy() - weight @ scaler.mean_
    found = to_torch(model)[0]
    for part, exact in ((found.weight, weight), (found.bias, bias)):
        np.testing.assert_array_equal(part.detach().numpy(), exact.astype("float32"))


@pytest.mark.parametrize(
    ("module", "length"),
    [
        (nn.Linear(3, 2, bias=True), 1),
        (nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)), 3),
        (nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(3, 2)), 3),
        (nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.Linear(3, 2))), 3),
        (nn.Sequential(Square(), nn.Linear(3, 2)), 3),
        (nn.Sequential(TWICE, nn.ReLU(), TWICE, nn.ReLU(), nn.Linear(3, 2)), 5),
    ],
)
def test_scalers_before_any_module(fitted, module, length):
    model, X = fitted(StandardScaler(), MinMaxScaler(), module=module)
    assert len(to_torch(model)) == length
    assert_same_predictions(by_torch(model, X), model, X)


def test_the_best_of_a_search(fitted, small, data):
    search = GridSearchCV(small(), {"alpha": [0.5, 2]}, cv=2).fit(data.X, data.Y)
    X = data.X_new.copy()
    assert_same_predictions(by_torch(search, X), search, X)


def test_what_is_exported_is_a_copy(fitted):
    model, X = fitted(StandardScaler())
    before, net = model.predict(X), to_torch(model)
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    np.testing.assert_array_equal(model.predict(X), before)


@pytest.mark.parametrize("step", [PolynomialFeatures(1), MinMaxScaler(clip=True)])
def test_torch_refuses_other_steps(fitted, step):
    model, _ = fitted(step)
    with pytest.raises(ValueError, match=f"{type(step).__name__}.*is not affine"):
        to_torch(model)


@pytest.mark.parametrize("upper", [None, 2.0])
@pytest.mark.parametrize("strategy", ["augmented_lagrangian", "activation"])
def test_torch_export(fitted, strategy, upper):
    bounds = {"bound": [0.0, -np.inf], "upper": upper}
    model, X = fitted(StandardScaler(), strategy=strategy, **bounds)
    rows = {0: torch.export.Dim("n_samples")}
    example = (torch.as_tensor(X),)
    program = torch.export.export(to_torch(model), example, dynamic_shapes=(rows,))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for n in (2, 20):
        with torch.no_grad():
            found = loaded(torch.as_tensor(X[:n])).numpy()
        assert_same_predictions(found, model, X[:n])


# A bare module


def test_a_bare_module(data, tmp_path):
    module = nn.Sequential(random_network([3, 8, 2]), nn.Identity()).eval()
    chain = to_torch(module)
    assert [type(layer) for layer in chain] == [nn.Linear, nn.ReLU, nn.Linear]
    rows = torch.tensor(data.X)
    torch.testing.assert_close(chain(rows), module(rows))
    found = run(written(module, tmp_path), data.X)
    np.testing.assert_allclose(found, module(rows).detach(), atol=1e-12)
