"""Pipelines of named columns as one ONNX file: equal to `predict`, or refused."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import (
    ColumnTransformer,
    TransformedTargetRegressor,
    make_column_selector,
    make_column_transformer,
)
from sklearn.decomposition import PCA, KernelPCA
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import VarianceThreshold
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)

from sklpos.export import proto, to_onnx

pytestmark = pytest.mark.filterwarnings(
    "ignore:training diverged:sklearn.exceptions.ConvergenceWarning"
)
pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

NUMBERS = ["area", "age", "single"]


def make_frame(seed, n=60):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "area": rng.gamma(2, 1000, n),
            "shop": rng.choice(["a", "b", "c"], n),
            "age": rng.integers(-5, 90, n),
            "open": rng.random(n) < 0.5,
            "town": pd.Categorical(rng.choice(["u", "v"], n)),
            "single": rng.normal(size=n).astype(np.float32),
        }
    )


FRAME, NEW = make_frame(0), make_frame(1)
Y = np.log(FRAME["area"].to_numpy()) + (FRAME["shop"] == "a")
# Categories that were not seen.
UNKNOWN = NEW.assign(shop="z", town="w")


def with_missing(frame, names):
    return frame.assign(**{name: frame[name].mask(frame["age"] > 40) for name in names})


@pytest.fixture
def fitted(small):
    def fit(*steps, frame=FRAME, y=Y, **params):
        params = {"dtype": "float64", "on_violated_y": "ignore", **params}
        return make_pipeline(*steps, small(**params)).fit(frame, y)

    return fit


def run(path, frame):
    session = onnxruntime.InferenceSession(path)
    feed = {}
    for value in session.get_inputs():
        column = frame[value.name].to_numpy()[:, None]
        is_text = value.type == "tensor(string)"
        feed[value.name] = column.astype(object) if is_text else column
    return session.run(None, feed)[0]


def assert_written(model, path, sample, *frames, rtol=1e-12):
    """Assert that the file predicts rows that were not seen as the model does."""
    to_onnx(model, path, sample)
    for frame in frames or (NEW,):
        expected = model.predict(frame).reshape(len(frame), -1)
        np.testing.assert_allclose(
            run(path, frame), expected, rtol=rtol, atol=rtol * np.ptp(expected)
        )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
TEXT = ["shop", "town"]

COLUMNS = {
    "one-hot, remainder scaled": ([(one_hot, [*TEXT, "open"])], StandardScaler()),
    "one-hot, remainder passed": ([(one_hot, [*TEXT, "open"])], "passthrough"),
    "one-hot, remainder dropped": ([(one_hot, TEXT)], "drop"),
    "dense, first dropped": (
        [(OneHotEncoder(drop="first", sparse_output=False), ["open", "age"])],
        "drop",
    ),
    "infrequent categories": (
        [
            (
                OneHotEncoder(
                    min_frequency=25, handle_unknown="warn", sparse_output=False
                ),
                TEXT,
            )
        ],
        "drop",
    ),
    "ordinal": ([(ordinal, TEXT), ("passthrough", ["age"])], "drop"),
    "a column twice": ([(one_hot, ["age"]), (StandardScaler(), ["age"])], "drop"),
    "target encoder": ([(TargetEncoder(cv=2), TEXT)], StandardScaler()),
    "selectors": (
        [
            (one_hot, make_column_selector(dtype_exclude=[np.number, bool])),
            (StandardScaler(), make_column_selector(dtype_include=np.number)),
        ],
        "drop",
    ),
    "a mask and a slice": (
        [
            (StandardScaler(), [False, False, True, False, False, True]),
            (one_hot, slice("shop", "shop")),
        ],
        "drop",
    ),
    "functions": (
        [(make_pipeline(FunctionTransformer(np.log1p), StandardScaler()), ["area"])],
        "drop",
    ),
    "bins": ([(KBinsDiscretizer(4, encode="onehot-dense"), ["area", "age"])], "drop"),
    "ordinal bins": ([(KBinsDiscretizer(4, encode="ordinal"), NUMBERS)], "drop"),
    "powers": ([(PowerTransformer(), NUMBERS)], "drop"),
    "box-cox": ([(PowerTransformer(method="box-cox"), ["area"])], "drop"),
    "polynomial": (
        [(make_pipeline(StandardScaler(), PolynomialFeatures(3)), NUMBERS)],
        "drop",
    ),
    "norms": ([(Normalizer(norm), ["area", "age"]) for norm in ("l1", "max")], "drop"),
    "quantiles": ([(QuantileTransformer(n_quantiles=9), ["area", "age"])], "drop"),
    "binary": ([(Binarizer(threshold=3), ["age"])], "drop"),
    "distances to centres": ([(KMeans(3, n_init=1), ["single"])], "drop"),
    "clipped": ([(MinMaxScaler(clip=True), NUMBERS)], "drop"),
    "columns of columns": (
        [
            (
                make_column_transformer((one_hot, [0]), remainder=StandardScaler()),
                ["shop", "area"],
            )
        ],
        "drop",
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.filterwarnings("ignore:Found unknown categories:UserWarning")
@pytest.mark.filterwarnings("ignore:Bins whose width:UserWarning")
def test_columns(fitted, path, name):
    parts, remainder = COLUMNS[name]
    model = fitted(make_column_transformer(*parts, remainder=remainder))
    frames = [FRAME[::-1]] if name == "dense, first dropped" else [NEW, UNKNOWN]
    rtol = {"quantiles": 1e-9, "distances to centres": 1e-5}.get(name, 1e-12)
    assert_written(model, path, FRAME[:5], *frames, rtol=rtol)


def imputed(encoder=one_hot, **params):
    text = make_pipeline(SimpleImputer(**params), encoder)
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    return make_column_transformer((text, ["shop"]), (numbers, ["area", "age"]))


@pytest.mark.parametrize(
    "params",
    [
        {"strategy": "most_frequent"},
        {"strategy": "constant", "fill_value": "none"},
    ],
)
def test_missing_values(fitted, path, params):
    frame, new = (with_missing(f, ["shop", "area"]) for f in (FRAME, NEW))
    model = fitted(imputed(**params), frame=frame)
    assert_written(model, path, frame, new, with_missing(UNKNOWN, ["area"]))


def test_missing_categories(fitted, path):
    """A missing value is a category if it was seen, and unknown otherwise."""
    new = with_missing(NEW, ["shop"])
    for frame in (FRAME, with_missing(FRAME, ["shop"])):
        model = fitted(make_column_transformer((one_hot, ["shop"])), frame=frame)
        assert_written(model, path, frame, new)


def test_missing_numbers_are_indicated(fitted, path):
    frame, new = (with_missing(f, ["area"]) for f in (FRAME, NEW))
    imputer = SimpleImputer(add_indicator=True)
    columns = make_column_transformer((imputer, ["area", "single"]))
    model = fitted(columns, StandardScaler(), frame=frame)
    assert_written(model, path, frame, new)


def test_a_category_that_predict_refuses_is_nan(fitted, path):
    model = fitted(make_column_transformer((OneHotEncoder(), ["shop"])))
    to_onnx(model, path, FRAME)
    assert np.isnan(run(path, UNKNOWN)).all()
    assert not np.isnan(run(path, NEW)).any()


def test_inputs_are_the_columns_of_the_sample(fitted, path):
    dated = FRAME.assign(day=pd.Timestamp("2020-01-01"))
    columns = make_column_transformer((one_hot, TEXT), (StandardScaler(), NUMBERS))
    made = to_onnx(fitted(columns, frame=dated), path, dated)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    assert {value.name: value.type for value in session.get_inputs()} == {
        "area": "tensor(double)",
        "shop": "tensor(string)",
        "age": "tensor(int64)",
        "open": "tensor(bool)",
        "town": "tensor(string)",
        "single": "tensor(float)",
    }
    assert all(value.shape[1:] == [1] for value in session.get_inputs())


def test_without_a_sample_the_steps_tell_text_from_numbers(fitted, path):
    model = fitted(
        make_column_transformer((one_hot, ["shop"]), ("passthrough", ["age"]))
    )
    to_onnx(model, path)
    frame = NEW.assign(**{name: NEW[name].astype(float) for name in [*NUMBERS, "open"]})
    frame["town"] = 0.0  # no step reads it
    np.testing.assert_allclose(run(path, frame).ravel(), model.predict(NEW), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_precision_is_that_of_the_net(fitted, path, dtype):
    """Scaled in float64 before that, so that large numbers keep their digits."""
    far = {"area": FRAME["area"] / 1e3 + 1e6}
    columns = make_column_transformer((one_hot, ["shop"]), (StandardScaler(), ["area"]))
    model = fitted(columns, frame=FRAME.assign(**far), dtype=dtype)
    new = NEW.assign(area=NEW["area"] / 1e3 + 1e6)
    rtol = 1e-5 if dtype == "float32" else 1e-9
    assert_written(model, path, new, new, rtol=rtol)
    assert run(path, new).dtype == dtype


def to_polars(frame):
    return pl.DataFrame({name: frame[name].to_list() for name in ["age", "shop"]})


def test_other_kinds_of_columns(fitted, path):
    """Columns of pandas' own dtypes, and of polars."""
    columns = make_column_transformer(
        (one_hot, ["shop", "open"]), (StandardScaler(), ["age", "single"])
    )
    own = {"shop": "string", "age": "Int64", "open": "boolean"}
    frame = FRAME.astype(own)
    model = fitted(columns, frame=frame)
    assert_written(model, path, frame)
    polars = to_polars(FRAME)
    columns = make_column_transformer((one_hot, ["shop"]), (StandardScaler(), ["age"]))
    model = fitted(columns, frame=polars)
    to_onnx(model, path, polars)
    new = to_polars(NEW)
    np.testing.assert_allclose(run(path, new).ravel(), model.predict(new), rtol=1e-12)


def test_a_search_around_nested_pipelines(small, path):
    text = Pipeline(
        [("fill", SimpleImputer(strategy="most_frequent")), ("hot", one_hot)]
    )
    union = FeatureUnion(
        [("pca", PCA(2)), ("same", "passthrough")], transformer_weights={"pca": 0.5}
    )
    columns = ColumnTransformer(
        [("text", text, TEXT), ("numbers", union, NUMBERS)],
        transformer_weights={"text": 2},
    ).set_output(transform="default")
    inner = make_pipeline(columns, VarianceThreshold(), StandardScaler())
    model = Pipeline([("before", inner), ("net", small(dtype="float64"))])
    search = GridSearchCV(model, {"net__alpha": [0.5, 2]}, cv=2)
    assert_written(search.fit(FRAME, Y - Y.min()), path, FRAME)


def test_text_in_an_array(fitted, path):
    names = FRAME[["shop", "town"]].to_numpy(dtype=object)
    model = fitted(one_hot, frame=names)
    new = UNKNOWN[["shop", "town"]].to_numpy(dtype=object)
    for sample in (None, names):
        to_onnx(model, path, sample)
        (found,) = onnxruntime.InferenceSession(path).run(None, {"X": new})
        np.testing.assert_allclose(found.ravel(), model.predict(new), rtol=1e-12)


@pytest.mark.parametrize(
    "transform",
    [
        {"transformer": StandardScaler()},
        {"func": np.log1p, "inverse_func": np.expm1},
    ],
)
def test_transformed_targets(small, path, transform):
    net = small(lower_bound=None, dtype="float64")
    columns = make_column_transformer((one_hot, TEXT), (StandardScaler(), NUMBERS))
    y = Y - Y.min()
    model = TransformedTargetRegressor(make_pipeline(columns, net), **transform)
    assert_written(model.fit(FRAME, y), path, FRAME)
    assert_written(
        make_pipeline(columns, TransformedTargetRegressor(net, **transform)).fit(
            FRAME, y
        ),
        path,
        FRAME,
    )


# -- Refusals -----------------------------------------------------------------------


def assert_refused(model, path, sample, match):
    with pytest.raises(ValueError, match=match) as caught:
        to_onnx(model, path, sample)
    assert len(str(caught.value)) <= 300
    assert not path.exists()


REFUSED = {
    "SplineTransformer of column 'area': skl2onnx fails in float64": (
        SplineTransformer(),
        ["area"],
    ),
    "CountVectorizer of column 'shop': .* holds text, which only encoders": (
        CountVectorizer(analyzer="char"),
        "shop",
    ),
    "KNNImputer of columns 'area', 'age': skl2onnx fails": (
        KNNImputer(),
        ["area", "age"],
    ),
    "FunctionTransformer of column 'age': cbrt is none of the functions": (
        FunctionTransformer(np.cbrt),
        ["age"],
    ),
}


@pytest.mark.parametrize("match", REFUSED)
def test_a_step_is_refused_with_its_columns(fitted, path, match):
    step, columns = REFUSED[match]
    model = fitted(make_column_transformer((step, columns), (one_hot, ["shop"])))
    assert_refused(model, path, FRAME, f"cannot convert the step {match}")


def test_samples_that_do_not_fit(fitted, path):
    columns = make_column_transformer((one_hot, ["shop"]), ("passthrough", ["age"]))
    model = fitted(columns)
    assert_refused(model, path, FRAME.drop(columns="age"), "lacks the column 'age'")
    assert_refused(
        model, path, FRAME.assign(shop=1.0), "of column 'shop': .*numbers.*on text"
    )
    assert_refused(
        model, path, FRAME.assign(age="4"), "'age' holds text, which only enc"
    )
    mixed = FRAME.assign(age=[1, "2"] * 30)
    assert_refused(model, path, mixed, "'age' of X holds int and str")
    assert_refused(
        fitted(FunctionTransformer(), frame=FRAME[NUMBERS].to_numpy()),
        path,
        np.zeros((3, 2)),
        "must have the 3 columns",
    )


def test_targets_that_cannot_be_undone(small, path):
    model = TransformedTargetRegressor(
        small(lower_bound=None), transformer=QuantileTransformer(n_quantiles=9)
    )
    X = FRAME[NUMBERS].to_numpy()
    assert_refused(
        model.fit(X, Y), path, X, "cannot undo QuantileTransformer of the ta"
    )


def test_what_onnxruntime_predicts_otherwise_is_refused(fitted, path, monkeypatch):
    """Here the model changes, as a faulty conversion cannot be made at will."""
    model = fitted(make_column_transformer((StandardScaler(), NUMBERS)))
    right = model.predict
    monkeypatch.setattr(model, "predict", lambda X: 1.01 * right(X), raising=False)
    assert_refused(model, path, FRAME, "predicts X with an error of")


def test_without_onnxruntime_a_foreign_step_is_not_checked(fitted, path, monkeypatch):
    def import_module(name):
        if name == "onnxruntime":
            raise ImportError
        return __import__(name)

    monkeypatch.setattr(proto, "import_module", import_module)
    model = fitted(make_column_transformer((KernelPCA(2), NUMBERS)))
    with pytest.warns(UserWarning, match="converted KernelPCA.*not checked"):
        to_onnx(model, path, FRAME)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_onnx(fitted(make_column_transformer((one_hot, TEXT))), path, FRAME)
