"""No promise outlives the model that it was made of."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils.prune import l1_unstructured as prune_weights

import sklpos
from sklpos import MLP, PositiveOutputRegressor, report

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = np.maximum(X[:, 0], 0) + 1.0


@pytest.fixture(scope="module")
def stored():
    model = PositiveOutputRegressor(
        MLP, strategy="certified", module__hidden_layer_sizes=8, max_epochs=5
    )
    model = model.set_params(random_state=0).fit(X, Y)
    assert model.certificate_
    return pickle.dumps(model)


@pytest.fixture
def model(stored):
    """As fitted, and stored since."""
    return pickle.loads(stored)


@torch.no_grad()
def change_weights(model):
    model.module_.head.bias.sub_(50)


@torch.no_grad()
def change_hidden_weights(model):
    model.module_.features[0].weight[0, 0] += 1e-3


def load_other_weights(model):
    state = {k: 2 * v for k, v in model.module_.state_dict().items()}
    model.module_.load_state_dict(state)


def change_data(model):
    model.module_.head.bias.data.numpy()[:] = -1


def change_dtype(model):
    model.module_.float()


def replace_layer(model):
    model.module_.features[1] = nn.Tanh()


def replace_forward(model):
    model.module_.head.forward = lambda X: X[:, :1] - 9


def hook(model):
    model.module_.head.register_forward_hook(lambda layer, args, output: output - 9)


def hook_inputs(model):
    model.module_.register_forward_pre_hook(lambda layer, args: (-args[0],))


def prune(model):
    prune_weights(model.module_.head, "weight", 2)


def parametrize(model):
    parametrizations = torch.nn.utils.parametrizations
    parametrizations.weight_norm(model.module_.head)


def ask_for_more(model):
    model.set_params(lower_bound=0.5)


def ask_for_less(model):
    model.set_params(upper_bound=9.0)


def swap_module(model):
    object.__setattr__(model.fitted_.ending.model, "module", MLP(3, 1).double())


CHANGES = {
    change_weights: "weights",
    change_hidden_weights: "weights",
    load_other_weights: "weights",
    change_data: "weights",
    change_dtype: "weights",
    replace_layer: "layers",
    replace_forward: "layers",
    hook: "hooks",
    hook_inputs: "hooks",
    prune: "weights",
    parametrize: "weights",
    ask_for_more: "bounds",
    ask_for_less: "bounds",
    swap_module: "weights",
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_promise_ends_with_a_change(model, change):
    found = model.certificate_
    asked = model.certify(method="crown")
    assert found
    assert asked
    change(model)
    for certificate in (found, asked, model.certificate_):
        assert not certificate
        assert not certificate.holds_for(model)
        # What was found can still be read.
        assert certificate.status_ == "verified"
        expected = "the model has changed since ("
        assert CHANGES[change] in repr(certificate).split(expected)[1]
        assert expected in certificate.to_html()
    text = str(report(model))
    assert "nothing, the model has changed since" in text
    assert "60 training rows, before the model was changed" in text
    assert "proved" not in text


@pytest.mark.parametrize("params", [{}, {"module": MLP}, {"strategy": "activation"}])
def test_other_promises_end_as_well(params):
    model = PositiveOutputRegressor(**params, random_state=0, max_epochs=2).fit(X, Y)
    promise = report(model).promise_
    assert "nothing" not in promise
    weight = next(model.module_.parameters())
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1)
    assert report(model).promise_ == "nothing, the model has changed since (weights)"
    # Enforcing by construction adds no promise about weights that were changed.
    if model.strategy_.guarantee == "everywhere":
        model.enforce(X)
        assert report(model).changes_ == ("weights",)
    with torch.no_grad():
        weight.copy_(before)
    assert report(model).promise_ == promise


def test_a_repair_is_a_promise_again(model):
    change_weights(model)
    model.enforce(domain="box", time_limit=5)
    assert model.certificate_
    assert report(model).changes_ == ()


def test_a_new_fit_ends_a_certificate(model):
    found = model.certify(method="crown")
    model.fit(X, Y + 1)
    assert not found


def test_a_hook_for_all_modules_ends_a_certificate(model):
    found = model.certificate_
    handle = register_module_forward_hook(lambda layer, args, output: output - 9)
    try:
        assert not found
        with pytest.raises(ValueError, match="hook"):
            model.certify()
    finally:
        handle.remove()
    assert found


def test_it_is_true_again_if_the_weights_are_as_they_were(model):
    weights = copy.deepcopy(model.module_.state_dict())
    change_weights(model)
    assert not model.certificate_
    model.module_.load_state_dict(weights)
    assert model.certificate_


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_have_their_own_certificate(model, duplicate):
    found = model.certificate_
    twin = duplicate(model)
    assert twin.certificate_
    twin.set_params(lower_bound=1)
    assert not twin.certificate_
    assert found
    assert model.certificate_
    assert not hasattr(clone(model), "certificate_")


def test_a_certificate_alone_waits_for_its_model(model):
    found = pickle.loads(pickle.dumps(model.certify(method="crown")))
    assert not found
    assert "its model is not at hand" in repr(found)
    other = copy.deepcopy(model)
    change_weights(other)
    assert not found.holds_for(other)
    assert not found
    assert found.holds_for(model)
    assert found
    change_weights(model)
    assert not found


def test_a_falsified_certificate_holds_for_no_model(model):
    found = model.certify(lower_bound=1e6)
    assert found.status_ == "falsified"
    assert not found.holds_for(model)


def test_a_certificate_ends_with_its_model():
    module = nn.Linear(2, 1)
    nn.init.ones_(module.bias)
    nn.init.zeros_(module.weight)
    found = sklpos.certify(module, ([0, 0], [1, 1]))
    assert found
    twin = copy.deepcopy(module)
    del module
    assert not found
    assert found.holds_for(twin)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.Dropout()])
def test_it_is_of_eval_mode(layer):
    module = nn.Sequential(nn.Linear(2, 4), layer, nn.Sigmoid(), nn.Linear(4, 1)).eval()
    with torch.no_grad():
        module[-1].weight.abs_()
        module[-1].bias.fill_(0.1)
    found = sklpos.certify(module, ([0, 0], [1, 1]))
    assert found
    module.train()
    assert not found
    assert "changed since (training mode)" in repr(found)
    module.eval()
    assert found


def pipeline(*scalers):
    regressor = PositiveOutputRegressor(random_state=0, max_epochs=2)
    return make_pipeline(*scalers, regressor).fit(10 + 3 * X, Y)


def move_the_mean(model):
    model[0].mean_ += 1


def stretch(model):
    model[0].scale_ = 2 * model[0].scale_


def take_another_scaler(model):
    model.steps[0] = ("standardscaler", StandardScaler().fit(X))


def take_what_is_not_affine(model):
    model.steps[0] = ("standardscaler", MinMaxScaler(clip=True).fit(X))


def leave_the_scaler_out(model):
    model.set_params(standardscaler="passthrough")


@pytest.mark.parametrize(
    "change",
    [
        move_the_mean,
        stretch,
        take_another_scaler,
        take_what_is_not_affine,
        leave_the_scaler_out,
    ],
)
def test_the_scalers_are_part_of_the_model(change):
    model = pipeline(StandardScaler())
    found = sklpos.certify(model)
    assert found
    assert not found.holds_for(model[-1])
    change(model)
    assert not found


def test_a_search_is_its_best_estimator():
    search = GridSearchCV(
        PositiveOutputRegressor(max_epochs=2, random_state=0), {"alpha": [1.0]}, cv=2
    ).fit(X, Y)
    found = sklpos.certify(search)
    assert found
    with torch.no_grad():
        search.best_estimator_.module_.head.bias.sub_(50)
    assert not found


class Scaled(nn.Module):
    """A layer of a user, with a number and a tensor that are no parameters."""

    def __init__(self, n_features_in, n_outputs):
        super().__init__()
        self.factor = 2.0
        self.offset = torch.zeros(1, dtype=torch.float64)
        self.head = nn.Linear(n_features_in, n_outputs)

    def forward(self, X):
        return self.head(self.factor * X + self.offset)


@pytest.mark.parametrize(
    "change",
    [
        lambda module: setattr(module, "factor", 3.0),
        lambda module: module.offset.add_(1),
    ],
)
def test_attributes_of_a_layer_are_part_of_the_model(change):
    model = PositiveOutputRegressor(Scaled, max_epochs=2, random_state=0).fit(X, Y)
    assert report(model).promise_ == "the training rows, by the repair"
    change(model.module_)
    assert report(model).promise_.startswith("nothing, the model has changed")


def test_a_report_of_a_changed_model_claims_nothing():
    model = PositiveOutputRegressor(
        MLP, strategy="certified", max_epochs=2, random_state=0
    )
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    model.fit(X, np.maximum(X[:, 0], 0))
    assert "proved" in str(report(model))
    with torch.no_grad():
        model.module_.head.bias.sub_(50)
    for text in (str(report(model)), report(model)._repr_html_()):
        assert "proved" not in text
        assert "the model has changed since (weights)" in text


def test_a_certificate_holds_for_nothing_that_is_no_model(model):
    found = model.certificate_
    assert not found.holds_for(None)
    assert not found.holds_for("model")
    assert found
