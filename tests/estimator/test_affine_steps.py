"""Steps before a net: read as maps, each is what scikit-learn computes."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from marks import mostly_slow
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.decomposition import PCA, FastICA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_regression
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection
from torch import nn

import sklpos
from sklpos import MLP, PositiveOutputRegressor
from sklpos.estimator.column_steps import read_steps
from sklpos.nets.bounded import BoundedModel
from sklpos.nets.input_map import InputMap

rng = np.random.default_rng(0)
X = np.column_stack(
    [
        100 + 5 * rng.normal(size=300),
        rng.uniform(-1, 1, size=300),
        rng.exponential(size=300),
    ]
)
y = np.maximum(X[:, 1] + 0.3 * (X[:, 0] - 100) / 5, 0)
FRAME = pd.DataFrame(
    {
        "rain": X[:, 0],
        "day": rng.choice(["mon", "tue", "wed"], size=300),
        "wind": X[:, 1],
        "open": rng.choice(["no", "yes"], size=300),
        "note": "nothing",
        "hours": rng.integers(0, 4, size=300),
    }
)
SALES = np.maximum(
    X[:, 1] + 2 * (FRAME["day"] == "tue") - (FRAME["open"] == "no"), 0
).to_numpy()

LINEAR = [
    PCA(2),
    PCA(2, whiten=True),
    make_pipeline(StandardScaler(), PCA(3, whiten=True), RobustScaler()),
    IncrementalPCA(2),
    TruncatedSVD(2),
    FastICA(2, random_state=0),
    GaussianRandomProjection(2, random_state=0),
    SparseRandomProjection(2, random_state=0),
    VarianceThreshold(0.5),
    make_pipeline(SelectKBest(f_regression, k=2), StandardScaler()),
    FunctionTransformer(),
    make_pipeline(SimpleImputer(), StandardScaler()),
    make_column_transformer((StandardScaler(), [2, 0]), remainder="passthrough"),
    make_pipeline(
        StandardScaler(),
        ColumnTransformer(
            [
                ("a", PCA(1), slice(0, 2)),
                ("b", "drop", [1]),
                ("c", RobustScaler(), [2]),
            ],
            transformer_weights={"a": 3.0},
        ),
    ),
]

COLUMNS = [
    make_column_transformer(
        (StandardScaler(), ["rain", "wind"]),
        (OneHotEncoder(), ["day", "open"]),
    ),
    make_column_transformer(
        (OneHotEncoder(drop="first", sparse_output=False), ["day"]),
        (OneHotEncoder(drop="if_binary"), ["open"]),
        (make_pipeline(StandardScaler(), PCA(2)), ["rain", "wind", "hours"]),
    ),
    make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["day", "hours"]),
        ("passthrough", ["wind"]),
    ),
    make_column_transformer(
        (
            OneHotEncoder(max_categories=2, handle_unknown="infrequent_if_exist"),
            ["day"],
        ),
        (make_pipeline(SimpleImputer(), RobustScaler()), ["wind", "rain"]),
    ),
    make_column_transformer(
        (
            make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()),
            ["open", "day"],
        ),
        (make_pipeline(OrdinalEncoder(), StandardScaler()), ["hours"]),
        remainder="drop",
    ).set_output(transform="default"),
    make_pipeline(
        make_column_transformer(
            (TargetEncoder(target_type="continuous"), ["day", "open"]),
            (StandardScaler(), ["wind"]),
        ),
        PCA(2),
    ),
]


def make_net(**params):
    defaults = {
        "module": MLP,
        "module__hidden_layer_sizes": (10,),
        "strategy": "unconstrained",
        "repair": None,
        "max_epochs": 20,
        "lr": 0.03,
    }
    return PositiveOutputRegressor(**(defaults | {"random_state": 0} | params))


def dense(rows):
    return rows.toarray() if hasattr(rows, "toarray") else np.asarray(rows)


@pytest.mark.parametrize("step", LINEAR, ids=lambda value: type(value).__name__)
def test_a_linear_step_is_read_exactly(step):
    expected = dense(step.fit(X, y).transform(X))
    found, columns = read_steps([step])
    np.testing.assert_allclose(X @ found.gain.T + found.offset, expected, atol=1e-9)
    assert (found.gain_size.toarray() >= np.abs(found.gain.toarray()) - 1e-12).all()
    assert (found.offset_size >= np.abs(found.offset) - 1e-12).all()
    rows = columns.encode(X)
    data = rows if columns.are_features else columns.decode(rows)
    np.testing.assert_array_equal(dense(found.transform(data)), expected)


@pytest.mark.parametrize("step", COLUMNS, ids=lambda step: type(step).__name__)
def test_columns_are_read_exactly(step):
    step.fit(FRAME, SALES)
    found, columns = read_steps([step])
    rows = columns.encode(FRAME)
    expected = dense(step.transform(FRAME))
    np.testing.assert_allclose(rows @ found.gain.T + found.offset, expected, atol=1e-9)
    for group in columns.groups:
        assert (rows[:, group].sum(axis=1) == 1).all()
    again = columns.decode(rows)
    np.testing.assert_array_equal(dense(step.transform(again)), expected)
    used = [c.name for c in columns.columns if c.features]
    pd.testing.assert_frame_equal(again[used], FRAME[used], check_dtype=False)


def test_columns_of_arrays_are_read_by_their_positions():
    data = FRAME.drop(columns="note").to_numpy(dtype=object)
    step = make_column_transformer(
        (StandardScaler(), [0, 2]), (OneHotEncoder(), [1, 3, 4])
    ).fit(data)
    found, columns = read_steps([step])
    rows = columns.encode(data)
    expected = dense(step.transform(data))
    np.testing.assert_allclose(rows @ found.gain.T + found.offset, expected, atol=1e-9)
    np.testing.assert_array_equal(dense(step.transform(columns.decode(rows))), expected)
    assert columns.names[:4] == ("x0", "x1=mon", "x1=tue", "x1=wed")


def test_an_unknown_category_is_a_category_where_the_encoder_takes_it():
    step = COLUMNS[2].fit(FRAME)
    found, columns = read_steps([step])
    other = FRAME.assign(day="sun", hours=9)
    rows = columns.encode(other)
    expected = dense(step.transform(other))
    np.testing.assert_array_equal(rows @ found.gain.T + found.offset, expected)
    assert (expected[:, :7] == 0).all()
    strict = read_steps([COLUMNS[0].fit(FRAME)])[1]
    with pytest.raises(ValueError, match=r"X has 'sun' in column 'day'"):
        strict.encode(other)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (PolynomialFeatures(1), "PolynomialFeatures is not affine"),
        (Normalizer(), "Normalizer is not affine"),
        (PowerTransformer(), "PowerTransformer is not affine"),
        (FunctionTransformer(np.abs), "FunctionTransformer is not affine"),
        (SimpleImputer(add_indicator=True), "SimpleImputer with an indicator"),
        (make_pipeline(StandardScaler(), OrdinalEncoder()), "OrdinalEncoder behind"),
        (
            make_column_transformer((StandardScaler(), [0]), (OrdinalEncoder(), [0])),
            "column 0 is encoded in two ways",
        ),
        (make_column_transformer((Normalizer(), [0, 1])), "Normalizer is not affine"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_steps_are_refused_by_name(step, words):
    data = np.where(rng.random(X.shape) < 0.1, np.nan, X)
    data = data if isinstance(step, SimpleImputer) else np.round(X)
    model = make_pipeline(step, make_net(max_epochs=1, lr=1e-6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(data, y)
    with pytest.raises(ValueError, match=words):
        sklpos.certify(model, "box", X=X)


def dense_sample(columns, rows, count=4000):
    """Numbers anywhere in their range, and any category."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    points = rng.uniform(low, high, size=(count, len(low)))
    for group in map(list, columns.groups):
        points[:, group] = np.eye(len(group))[rng.integers(len(group), size=count)]
    return columns.decode(points)


@pytest.mark.parametrize(
    "step", mostly_slow(COLUMNS[:5], *COLUMNS[:2]), ids=lambda step: type(step).__name__
)
@pytest.mark.parametrize("strategy", ["unconstrained", "nonnegative_weights"])
def test_a_certificate_covers_numbers_and_categories(step, strategy):
    model = make_pipeline(step, make_net(strategy=strategy)).fit(FRAME, SALES)
    found = sklpos.certify(model, "box", X=FRAME, time_limit=5)
    _, columns = read_steps([model[0]])
    predicted = model.predict(dense_sample(columns, columns.encode(FRAME)))
    assert predicted.min() >= found.proved_min_[0]
    assert found.domain_.categorical == columns.groups
    if strategy == "nonnegative_weights":
        assert found
        assert sklpos.certify(model, "all")
        return
    assert found.status_ == "falsified"
    assert model.predict(found.counterexample_frame_)[0] < 0
    assert set(found.counterexample_frame_.columns) == set(FRAME.columns)


@pytest.mark.parametrize(
    "step", mostly_slow(LINEAR[:3], LINEAR[0]), ids=lambda value: type(value).__name__
)
def test_a_projection_is_certified_in_the_unit_of_the_data(step):
    model = make_pipeline(step, make_net()).fit(X, y)
    found = sklpos.certify(model, "box", X=X, time_limit=5)
    np.testing.assert_array_equal(found.domain_.low, X.min(axis=0))
    points = rng.uniform(X.min(axis=0), X.max(axis=0), size=(5000, 3))
    assert model.predict(points).min() >= found.proved_min_[0]
    if found.counterexample_ is not None:
        assert model.predict(found.counterexample_[None])[0] < 0
    with pytest.raises(ValueError, match="needs X, the rows whose range it is"):
        sklpos.certify(model, "box")
    lower, upper = sklpos.output_bounds(model, X - 0.01, X + 0.01)
    assert (model.predict(X + 0.005) >= lower[:, 0]).all()
    assert (model.predict(X + 0.005) <= upper[:, 0]).all()
    sklpos.enforce(model, domain="hull", X=X, time_limit=1)
    mixed = rng.dirichlet(np.ones(300), size=500) @ X
    assert model.predict(mixed).min() >= 0


class Product:
    """A step that multiplies."""

    def __init__(self, matrix):
        self.matrix = np.array(matrix)

    def transform(self, X):
        return X @ self.matrix.T


def test_rounding_counts_the_terms_that_cancel():
    """In float32, 1e6 x and (1e6 + 1) x are rounded by more than their difference."""
    matrix = [[1e6], [1e6 + 1]]
    step = replace(InputMap.linear(matrix, [0.0, 0.0]), steps=(Product(matrix),))
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -1.0]]))
    model = BoundedModel(module, inputs=step)
    points = rng.uniform(-1, 1, size=(500, 1))
    predicted = model.predict(points)
    assert np.abs(predicted + points).max() > 1e-3
    lower, upper = sklpos.output_bounds(model, points, points)
    assert ((lower <= predicted) & (predicted <= upper)).all()
    assert (upper - lower).max() < 10


def test_a_repair_of_columns_holds_for_every_category():
    model = make_pipeline(COLUMNS[0], make_net()).fit(FRAME, SALES)
    _, columns = read_steps([model[0]])
    sample = dense_sample(columns, columns.encode(FRAME))
    assert model.predict(sample).min() < 0
    sklpos.enforce(model, domain="box", time_limit=20)
    assert model.predict(sample).min() >= 0
    assert sklpos.report(model).certificate_.status_ == "verified"


def test_the_default_is_positive_for_every_row_of_a_frame():
    net = PositiveOutputRegressor(random_state=0, max_epochs=10)
    model = make_pipeline(COLUMNS[2], net)
    model.fit(FRAME, SALES)
    assert sklpos.certify(model, "all")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sklpos.certify(model, "box", X=FRAME)


def test_balls_and_radii_keep_the_category():
    model = make_pipeline(COLUMNS[0], make_net()).fit(FRAME, SALES)
    radius = sklpos.certified_radius(model, FRAME[:50])
    assert (radius > 0).any()
    moved = FRAME[:50].copy()
    moved["rain"] += radius
    moved["wind"] -= radius
    assert model.predict(moved)[radius > 0].min() >= 0
    balls = sklpos.certify(model, "ball", X=FRAME[:50], radius=0.01)
    assert (balls.rows_[radius >= 0.01] == "verified").all()
    assert balls.domain_.radius.tolist() == [0.01, 0, 0, 0, 0.01, 0, 0]
    near = FRAME[:50].assign(wind=FRAME["wind"][:50] + 0.1)
    lower, upper = sklpos.output_bounds(model, FRAME[:50], near)
    assert (model.predict(near) >= lower[:, 0]).all()
    assert (model.predict(near) <= upper[:, 0]).all()
    with pytest.raises(ValueError, match="X_low and X_high have different categories"):
        sklpos.output_bounds(model, FRAME[:50], near.assign(day="mon"))


def test_a_hull_of_categories_is_refused():
    model = make_pipeline(COLUMNS[0], make_net(max_epochs=1)).fit(FRAME, SALES)
    with pytest.raises(ValueError, match=r"domain='hull' mixes rows.*'day'"):
        sklpos.certify(model, "hull", X=FRAME)


def test_a_box_is_given_by_rows_of_the_data():
    model = make_pipeline(COLUMNS[0], make_net()).fit(FRAME, SALES)
    low, high = {"rain": 99, "wind": -1, "day": "tue"}, {"rain": 101, "wind": 1}
    with pytest.raises(ValueError, match=r"domain goes from 'tue' to None.*'day'"):
        sklpos.certify(model, (low, high))
    high["day"] = "tue"
    domain = sklpos.certify(model, (low, high), method="crown").domain_
    assert (
        repr(domain) == "Box(7 features: rain 99 to 101, wind -1 to 1, 2 categorical)"
    )
    points = domain.region()
    assert len(points) == 2  # the shop is open, or not
    as_series = tuple(pd.Series(side) for side in (low, high))
    again = sklpos.certify(model, as_series, method="crown").domain_
    np.testing.assert_array_equal([again.low, again.high], [domain.low, domain.high])


def test_integers_are_named_by_their_column():
    model = make_pipeline(COLUMNS[1], make_net()).fit(FRAME, SALES)
    domain = sklpos.certify(
        model, "box", X=FRAME, categorical=["hours"], method="crown"
    ).domain_
    names = read_steps([model[0]])[1].names
    assert (names.index("hours"),) in domain.categorical
    with pytest.raises(ValueError, match="categorical='day' must be the name"):
        sklpos.certify(model, "box", X=FRAME, categorical=["day"])


def test_nothing_is_missing_where_an_imputer_is_proved():
    model = make_pipeline(SimpleImputer(), StandardScaler(), make_net()).fit(X, y)
    found = sklpos.certify(model, "box")
    assert any("no value is missing" in text for text in found.assumptions_)
    assert not any(
        "missing" in text for text in sklpos.certify(model[-1], "box").assumptions_
    )


@pytest.mark.slow
def test_many_categories_stay_continuous_and_counterexamples_whole():
    many = pd.DataFrame({f"c{j}": rng.integers(0, 30, size=300) for j in range(4)})
    target = np.maximum((many["c0"] > 15) * 1.0 - (many["c1"] > 20), 0)
    encode = OneHotEncoder(sparse_output=False)
    model = make_pipeline(encode, make_net()).fit(many, target)
    found = sklpos.certify(model, "box", time_limit=2)
    assert len(found.domain_.region()) <= 10_000
    row = found.counterexample_frame_
    assert model.predict(row)[0] < 0
    assert all(0 <= row[name][0] < 30 for name in many.columns)


def test_target_encoded_training_rows_are_held_by_enforce():
    """What `fit` repairs are the rows of `fit_transform`, which are others."""
    encode = make_column_transformer(
        (TargetEncoder(target_type="continuous"), ["day", "hours"]),
        (StandardScaler(), ["wind"]),
    )
    net = make_net(strategy="penalty", repair="head", balance=False)
    model = make_pipeline(encode, net).fit(FRAME, SALES)
    model.predict(FRAME)
    assert sklpos.enforce(model, FRAME).predict(FRAME).min() >= 0
    assert sklpos.report(model, FRAME).rows_[1].violation_rate == 0
