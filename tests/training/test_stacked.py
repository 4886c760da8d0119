"""Passes through all members of a stack at once: the numbers of autograd."""

import math

import numpy as np
import pytest
import torch
from properties import assert_same_bits
from skorch.callbacks import Callback
from torch import nn

from sklpos import PositiveOutputRegressor, Stack
from sklpos.nets.bounds import Bounds
from sklpos.training import stacked
from sklpos.training.stacked import StackBackprop, find_passes

KINDS = ((0, 1.0), (4, 0.1), (4, 2.0))
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
ROWS = torch.as_tensor(X)
BOUNDS = {
    "free": (None, None),
    "lower": (-1.0, None),
    "upper": (None, 2.0),
    "both": (-1.0, 2.0),
    "mixed": ([-1.0, None, -2.0], [None, None, 3.0]),
}


def make(bounds="lower", n_outputs=1) -> Stack:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stack = Stack(3, n_outputs, X, width=5, n_folds=2, kinds=KINDS)
    stack.hold(Bounds.read(*BOUNDS[bounds], n_outputs))
    with torch.no_grad():
        for kind in stack.kinds:
            # So large that two bounds need a factor.
            kind.head.weight.mul_(10)
    return stack


def gradients(stack):
    return {name: weight.grad for name, weight in stack.named_parameters()}


def both_ways(stack, inputs, index=None, keep=None):
    """Outputs and gradients by autograd, and without a graph."""
    outputs = stack(inputs)
    slope = torch.randn_like(outputs)
    outputs.backward(slope)
    expected = {"outputs": outputs.detach(), **gradients(stack)}
    stack.zero_grad()
    passes = StackBackprop.of(stack)
    if keep is not None:
        passes.keep_rows(keep)
    found = passes.forward(inputs, index)
    passes.backward(slope)
    return {"outputs": found, **gradients(stack)}, expected


def assert_close(found, expected):
    for name, wanted in expected.items():
        error = (found[name] - wanted).abs().max()
        assert error <= 1e-12 * wanted.abs().max(), name


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_gradients_are_those_of_autograd(bounds, n_outputs):
    if bounds == "mixed" and n_outputs == 1:
        pytest.skip("one output is not mixed")
    assert_close(*both_ways(make(bounds, n_outputs), 2 * ROWS))


def test_heads_may_have_different_bounds():
    stack = make("both", 3)
    stack.kinds[1].hold(Bounds.read([0.0, None, None], None, 3).repeated(2))
    with torch.no_grad():
        stack.kinds[1].head.weight.neg_()
    assert_close(*both_ways(stack, 2 * ROWS))


@pytest.mark.parametrize("number", [1, 7, 60])
def test_rows_are_encoded_once(number):
    index = torch.randperm(60)[:number]
    assert_close(*both_ways(make(), ROWS[index], index, keep=ROWS))


def test_rows_that_changed_are_encoded_again():
    passes, rows = StackBackprop.of(make()), ROWS.clone()
    for _ in range(2):
        passes.keep_rows(rows)
        found = passes.forward(rows[:9], torch.arange(9))
        assert_same_bits(found, passes.forward(rows[:9]))
        rows.neg_()


@pytest.mark.parametrize("name", ["gain", "encodings.1.slope"])
def test_rows_are_encoded_again_if_the_encoding_changed(name):
    stack = make()
    passes = StackBackprop.of(stack)
    for _ in range(2):
        passes.keep_rows(ROWS)
        found = passes.forward(ROWS[:9], torch.arange(9))
        assert_same_bits(found, passes.forward(ROWS[:9]))
        stack.get_buffer(name).mul_(2)


def test_encoded_rows_have_a_limit(monkeypatch):
    monkeypatch.setattr(stacked, "_MOST_VALUES", 100)
    passes = StackBackprop.of(make())
    passes.keep_rows(ROWS)
    assert passes.encoded is None


def test_memory_of_few_batch_sizes_is_kept(monkeypatch):
    monkeypatch.setattr(stacked, "_MOST_BLOCKS", 4)
    passes = StackBackprop.of(make())
    for size in range(1, 20):
        passes.backward(torch.ones_like(passes.forward(ROWS[:size])))
    kept = vars(passes)["_memory"]
    assert len(kept) < 10


def test_gradients_add_up():
    stack = make()
    passes = StackBackprop.of(stack)
    slope = torch.ones_like(passes.forward(ROWS))
    passes.backward(slope)
    once = {name: grad.clone() for name, grad in gradients(stack).items()}
    passes.backward(slope)
    for name, grad in gradients(stack).items():
        torch.testing.assert_close(grad, 2 * once[name])


def with_hook(stack):
    stack.kinds[1].hidden.register_forward_hook(lambda *args: None)
    return stack


def frozen(stack):
    stack.kinds[0].head.bias.requires_grad_(False)
    return stack


def with_another_head(stack):
    stack.kinds[2].head = nn.Linear(10, 2)
    return stack


def with_an_output(stack):
    stack.output = nn.Softplus()
    return stack


@pytest.mark.parametrize(
    "change", [with_hook, frozen, with_another_head, with_an_output]
)
def test_what_is_not_plain_is_left_to_autograd(change):
    assert StackBackprop.of(change(make())) is None


def test_a_layer_that_is_replaced_is_noticed():
    stack = make()
    passes = find_passes(stack)
    assert find_passes(stack, passes) is passes
    stack.kinds[0].hidden = nn.Linear(9, 10, dtype=torch.float64)
    assert find_passes(stack, passes) is not passes


class Watcher(Callback):
    """Asks for each batch, so that training needs autograd."""

    def on_batch_end(self, net, **kwargs):
        pass


@pytest.mark.parametrize("batch_size", [16, 60])
def test_a_fit_does_not_depend_on_the_passes(batch_size, monkeypatch):
    y = np.exp(X[:, 0])
    model = PositiveOutputRegressor(
        Stack,
        strategy="nonnegative_weights",
        lr=0.02,
        max_epochs=4,
        batch_size=batch_size,
        random_state=0,
    )
    taken, forward = [], StackBackprop.forward
    monkeypatch.setattr(
        StackBackprop,
        "forward",
        lambda self, *rows: taken.append(1) or forward(self, *rows),
    )
    fast = model.fit(X, y).predict(X)
    assert len(taken) == 4 * math.ceil(60 / batch_size)
    watched = model.set_params(callbacks=[Watcher()]).fit(X, y).predict(X)
    assert len(taken) == 4 * math.ceil(60 / batch_size)
    np.testing.assert_allclose(fast, watched, rtol=1e-12)
