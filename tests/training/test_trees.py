"""Copies of trees of tensors, in memory that is used again."""

import pytest
import torch
from properties import assert_same_bits
from torch import nn

from sklpos.training.trees import Copies, copied


def tree(value, *, shape=(2,), dtype=torch.float32):
    full = torch.full(shape, value, dtype=dtype)
    return {"a": {"weight": full, "lr": value}, "b": [full + 1, (2 * full, None)]}


def test_copies_are_those_of_the_last_tree():
    copies = Copies()
    for value in (1.0, 2.0):
        live = tree(value)
        expected = copied(live)
        copies.hold(live)
        live["a"]["lr"] = None
        live["b"].append("later")
        live["a"]["weight"].zero_()
        assert_same_bits({name: copies[name] for name in "ab"}, expected)


def test_memory_is_used_again():
    copies = Copies()
    first = copies.hold(tree(1.0))["a"]["weight"]
    assert copies.hold(tree(2.0))["a"]["weight"] is first


@pytest.mark.parametrize(
    "other",
    [
        tree(3.0, shape=(2, 1)),
        tree(3.0, shape=()),
        tree(3.0, dtype=torch.float64),
        {"a": {}, "b": []},
        {"a": torch.eye(2).to_sparse(), "b": []},
    ],
    ids=["shape", "scalar", "dtype", "empty", "sparse"],
)
def test_memory_of_another_form_is_not(other):
    copies = Copies()
    for live in (tree(1.0), other, tree(2.0)):
        copies.hold(live)
        for name, expected in live.items():
            found = copies[name]
            if isinstance(expected, torch.Tensor):
                found, expected = found.to_dense(), expected.to_dense()
            assert_same_bits(found, expected)


# torch warns that it is a beta version.
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_tensors_may_gain_values():
    copies = Copies()
    for values in (torch.eye(2), torch.ones(2, 2)):
        copies.hold({"mask": values.to_sparse_csr()})
        assert torch.equal(copies["mask"].to_dense(), values)


def test_weights_are_copied_without_their_history():
    weight = nn.Parameter(torch.ones(2))
    copies = Copies()
    for _ in range(2):
        copies.hold({"weight": weight})
    assert not copies["weight"].requires_grad
