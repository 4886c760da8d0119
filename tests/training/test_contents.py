"""Rows that hold the same are told apart from others, whatever holds them."""

import numpy as np
import pytest
import scipy.sparse as sp

from sklpos.training.contents import content_digest

VALUES = np.arange(12.0).reshape(6, 2)


def frame():
    pandas = pytest.importorskip("pandas")
    kinds = pandas.Categorical(list("aabbcc"))
    texts = np.array(list("uvwxyz"), dtype=object)
    return pandas.DataFrame({"x": VALUES[:, 0], "kind": kinds, "text": texts})


ROWS = {
    "array": lambda: VALUES.copy(),
    "columns first": lambda: np.asfortranarray(VALUES),
    "objects": lambda: VALUES.astype(object),
    "sparse": lambda: sp.csr_array(VALUES),
    "frame": frame,
    "series": lambda: frame()["text"],
}


def taken(rows, index):
    return rows.iloc[index] if hasattr(rows, "iloc") else rows[index]


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_told_apart_by_their_content(name):
    own, twin = ROWS[name](), ROWS[name]()
    repr(own)  # what an object keeps of an earlier use does not count
    first = content_digest(taken(own, [0, 1, 2]))
    assert content_digest(taken(twin, [0, 1, 2])) == first
    for other in ([0, 1, 3], [0, 2, 1], [0, 1]):
        assert content_digest(taken(own, other)) != first
