"""Arrays and tensors that torch or numpy alone would refuse, or change."""

import numpy as np
import pytest
import torch
from properties import assert_same_bits

from sklpos.nets.arrays import for_torch
from sklpos.nets.tensors import without_torch

FORMS = {
    "backwards": lambda a: np.array(a[::-1])[::-1],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "tensor": torch.tensor,
    "tensor with a gradient": lambda a: torch.tensor(a, requires_grad=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_the_data_does_not_matter(small, data, form):
    X, Y, weight = (part.astype("float32") for part in (data.X, data.Y, data.weight))
    plain = small(dtype="float32").fit(X, Y, weight)
    make = FORMS[form]
    model = small(dtype="float32").fit(make(X), make(Y), make(weight))
    assert_same_bits(model.predict(make(X)), plain.predict(X))
    assert_same_bits(model.enforce(make(X)).predict(X), plain.enforce(X).predict(X))


def test_half_precision_tensors(small, data):
    X = torch.tensor(data.X).bfloat16()
    model = small().fit(X, torch.tensor(data.y).half())
    assert model.predict(X).dtype == np.float32


def test_nothing_is_copied_without_need():
    X = np.ones((4, 3), order="F")
    assert for_torch(X) is X
    assert without_torch(X) is X
    assert np.shares_memory(for_torch(X[::2]), X)
    tensor = torch.ones(3)
    assert without_torch(tensor).ctypes.data == tensor.data_ptr()


def test_what_torch_may_write_is_a_copy():
    X = np.ones((4, 3))
    X.setflags(write=False)
    assert for_torch(X).flags.writeable
    assert not np.shares_memory(for_torch(X), X)
