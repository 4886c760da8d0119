"""Files that were stored by earlier states of the package load, and go on."""

import lzma
import pickle
from pathlib import Path

import numpy as np
import pytest
from properties import assert_obeys

import sklpos

# Written by the last commit without upper bounds, with a model of every strategy.
STORED = Path(__file__).parent / "lower_bounds_only.pkl.xz"
FILE = pickle.loads(lzma.decompress(STORED.read_bytes()))
X, Y, X_new, MODELS = FILE["X"], FILE["Y"], FILE["X_new"], FILE["models"]


@pytest.fixture(params=MODELS)
def case(request):
    return MODELS[request.param]


@pytest.fixture
def model(case):
    return pickle.loads(case["stored"])


def test_it_predicts_and_reports_as_before(model, case):
    np.testing.assert_allclose(model.predict(X_new), case["predictions"], rtol=1e-12)
    np.testing.assert_array_equal(model.multipliers_, case["multipliers"])
    found = sklpos.report(model, X, Y)
    assert found.upper_bound_.tolist() == [np.inf, np.inf]
    assert "upper" not in str(found)
    # There are the same rows, so what was stored is what is measured now.
    stored, measured = (pair[0] for pair in (found.training_, found.rows_))
    assert stored.below_rate == measured.below_rate
    assert found.certificate_ is None or repr(model.certificate_) in str(found)


def test_its_parameters_have_the_present_names(model):
    params = model.get_params()
    assert params["upper_bound"] is None
    assert params["on_violated_y"] == "ignore"
    assert params["on_negative_y"] == "deprecated"
    sklpos.PositiveOutputRegressor(**params)


@pytest.mark.filterwarnings("ignore:balance was dropped")
def test_it_keeps_its_multipliers_in_a_warm_start(model, case):
    """The rows are known to be the same, although more is known of them now."""
    model.set_params(warm_start=True, max_epochs=0).fit(X, Y)
    np.testing.assert_allclose(model.multipliers_, case["multipliers"], atol=1e-12)
    assert_obeys(model, X, model.lower_bound)


def test_it_is_trained_and_repaired_further(model):
    before = model.predict(X_new)
    model.partial_fit(X, Y).enforce(X_new)
    assert not np.array_equal(model.predict(X_new), before)
    assert_obeys(model, X_new, model.lower_bound)


@pytest.fixture(scope="module")
def fitted_now():
    return sklpos.PositiveOutputRegressor(max_epochs=1).fit(X, Y)


def test_it_is_stored_again_as_it_is_now(model, fitted_now):
    again = pickle.loads(pickle.dumps(model.partial_fit(X, Y)))
    np.testing.assert_array_equal(again.predict(X_new), model.predict(X_new))
    stored, expected = (
        vars(each.net_.constraint_.columns) for each in (again, fitted_now)
    )
    assert stored.keys() == expected.keys()


# Written when `Stack` did not standardise its inputs.
OPT_IN = Path(__file__).parent / "opt_in_stack.pkl.xz"


def test_a_stack_of_other_inputs_predicts_but_is_not_trained_further():
    file = pickle.loads(lzma.decompress(OPT_IN.read_bytes()))
    model, X, y = pickle.loads(file["stored"]), file["X"], file["y"]
    np.testing.assert_allclose(model.predict(X), file["predictions"], rtol=1e-12)
    assert sklpos.certify(model, "all").status_ == "verified"
    for train in (model.set_params(warm_start=True).fit, model.partial_fit):
        with pytest.raises(ValueError, match="module is part of the net and cannot"):
            train(X, y)
    assert model.set_params(warm_start=False).fit(X, y).predict(X).min() >= 0
