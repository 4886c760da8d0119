"""Numbers that describe something other than rows, such as a radius."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklpos.nets.arrays import naming
from sklpos.nets.values import as_plain


def as_floats(values: ArrayLike, name: str) -> NDArray:
    """Copy numbers into a float64 array.

    Parameters
    ----------
    values : array-like or torch.Tensor
    name : str
        Name of the parameter in error messages.

    Returns
    -------
    ndarray

    Raises
    ------
    ValueError, TypeError

    Examples
    --------
    >>> as_floats([1, 2], "radius")
    array([1., 2.])
    """
    with naming(name):
        array = np.asarray(as_plain(values, name))
        # numpy would drop the imaginary part.
        if np.iscomplexobj(array):
            raise TypeError("complex numbers are not supported.")
        return np.array(array, dtype=np.float64)
