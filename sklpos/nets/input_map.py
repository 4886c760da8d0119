"""The affine steps before a net, folded into its first layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, diags_array, issparse
from torch import Tensor

# Roundings of one scaled value and of its conversion to the dtype of the net.
_SCALER_TERMS = 4


@dataclass(frozen=True, eq=False)
class InputMap:
    """``x -> gain @ x + offset``: the effect of a chain of affine steps.

    Attributes
    ----------
    gain : csr_array of shape (n_out, n_in)
    offset : ndarray of shape (n_out,)
    gain_size : csr_array of shape (n_out, n_in)
        Product of the absolute matrices of the steps: rounding is relative to these
        terms, which may cancel in `gain`.
    offset_size : ndarray of shape (n_out,)
        Sum of the absolute terms that make the offset.
    n_terms : int
        Largest number of roundings of one value.
    steps : tuple of transformer
        Those that are read, in the order of their use.
    assumptions : tuple of str
        What they take for granted of the rows.

    Examples
    --------
    >>> scale = InputMap.scaling([0.5], [-1.0])
    >>> weight, bias = scale.fold(torch.ones(1, 1), torch.zeros(1))
    >>> weight.item(), bias.item()
    (0.5, -1.0)
    >>> InputMap.linear([[1.0, 1.0]], [0.0]).then(scale).gain.toarray()
    array([[0.5, 0.5]])
    """

    gain: csr_array
    offset: NDArray
    gain_size: csr_array
    offset_size: NDArray
    n_terms: int
    steps: tuple = ()
    assumptions: tuple[str, ...] = ()

    @classmethod
    def identity(cls, n_features: int) -> InputMap:
        """Make a map that changes nothing.

        Parameters
        ----------
        n_features : int

        Returns
        -------
        InputMap
        """
        unit = csr_array(diags_array(np.ones(n_features)))
        return cls(unit, np.zeros(n_features), unit, np.zeros(n_features), 0)

    @classmethod
    def scaling(cls, factor: ArrayLike, shift: ArrayLike) -> InputMap:
        """Make a map that scales and shifts each feature.

        Parameters
        ----------
        factor, shift : array-like of shape (n_features,)

        Returns
        -------
        InputMap
        """
        gain = csr_array(diags_array(np.asarray(factor, dtype=np.float64)))
        shift = np.asarray(shift, dtype=np.float64)
        return cls(gain, shift, abs(gain), np.abs(shift), _SCALER_TERMS)

    @classmethod
    def linear(
        cls, matrix: ArrayLike, offset: ArrayLike, offset_size: ArrayLike | None = None
    ) -> InputMap:
        """Make a map of a matrix product.

        Parameters
        ----------
        matrix : array-like or sparse array of shape (n_out, n_in)
        offset : array-like of shape (n_out,)
        offset_size : array-like of shape (n_out,), optional
            By default, that of an offset which is one number.

        Returns
        -------
        InputMap
        """
        gain = csr_array(matrix, dtype=np.float64)
        offset = np.asarray(offset, dtype=np.float64)
        size = np.abs(offset) if offset_size is None else np.asarray(offset_size)
        # One product and one sum for each term, beside those of any step.
        n_terms = _SCALER_TERMS + gain.shape[1]
        return cls(gain, offset, abs(gain), size, n_terms)

    def then(self, after: InputMap) -> InputMap:
        """Chain two maps.

        Parameters
        ----------
        after : InputMap
            Takes what this one returns.

        Returns
        -------
        InputMap
        """
        return InputMap(
            gain=csr_array(after.gain @ self.gain),
            offset=after.gain @ self.offset + after.offset,
            gain_size=csr_array(after.gain_size @ self.gain_size),
            offset_size=after.gain_size @ self.offset_size + after.offset_size,
            n_terms=self.n_terms + after.n_terms,
            steps=self.steps + after.steps,
            assumptions=tuple(dict.fromkeys(self.assumptions + after.assumptions)),
        )

    @property
    def n_features(self) -> int:
        """Number of features that it takes."""
        return self.gain.shape[1]

    def transform(self, X) -> NDArray:
        """Pass rows through the steps themselves, including their rounding.

        Parameters
        ----------
        X : ndarray or data frame of shape (n_samples, n_columns)
            As the first step takes them.

        Returns
        -------
        ndarray of shape (n_samples, n_out)
        """
        for step in self.steps:
            # A scaler with copy=False works in place.
            X = step.transform(X.copy())
        return X.toarray() if issparse(X) else np.asarray(X)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Fold the map into a linear layer.

        The result is ``weight @ (gain @ x + offset) + bias`` as a layer of x.

        Parameters
        ----------
        weight : torch.Tensor of shape (n_layer, n_out)
        bias : torch.Tensor of shape (n_layer,)

        Returns
        -------
        weight, bias : torch.Tensor
        """
        offset = torch.as_tensor(self.offset).to(weight)
        return _times(weight, self.gain), bias + weight @ offset

    def fold_sizes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Sizes of the terms that `fold` adds up, to which rounding is relative.

        Parameters
        ----------
        weight : torch.Tensor of shape (n_layer, n_out)

        Returns
        -------
        weight_size : torch.Tensor of shape (n_layer, n_in)
        bias_size : torch.Tensor of shape (n_layer,)
        """
        size = torch.as_tensor(self.offset_size).to(weight)
        return _times(weight.abs(), self.gain_size), weight.abs() @ size

    def range_before(self, low: NDArray, high: NDArray) -> tuple[NDArray, NDArray]:
        """Undo the map of a range of features, rounded outwards.

        Parameters
        ----------
        low, high : ndarray of shape (n_out,)

        Returns
        -------
        low, high : ndarray of shape (n_in,)
            0 for a feature that no value depends on, and NaN for one whose range does
            not follow, because it is mixed with others.
        """
        gain = self.gain.tocoo()
        filled = gain.data != 0
        rows, columns, data = gain.row[filled], gain.col[filled], gain.data[filled]
        found = np.zeros((2, self.n_features))
        found[:, columns] = np.nan
        # Values that depend on one feature alone tell its range.
        alone = np.bincount(rows, minlength=len(self.offset))[rows] == 1
        k, j, factor = rows[alone], columns[alone], data[alone]
        # A negative gain swaps the ends.
        ends = [(end[k] - self.offset[k]) / factor for end in (low, high)]
        ends = np.sort(ends, axis=0)
        # Relative to the terms and not to their sum, in which they may cancel.
        size = np.abs(ends) + np.abs(self.offset_size[k] / factor)
        rounding = np.finfo(np.float64).eps * self.n_terms * size
        found[0, j], found[1, j] = ends[0] - rounding[0], ends[1] + rounding[1]
        return found[0], found[1]

    def largest_before(self, largest: float) -> float:
        """Largest size of a feature for which no value is larger than a given one.

        Parameters
        ----------
        largest : float
            After the map.

        Returns
        -------
        float
            At most 1e300, so that the steps themselves cannot overflow.
        """
        reach = np.asarray(self.gain_size.sum(axis=1)).ravel()
        # A little less, as the values are rounded; one of no feature has all the room.
        with np.errstate(over="ignore", divide="ignore"):
            room = (0.99 * largest - self.offset_size) / reach
        return float(np.clip(room.min(), 0, 1e300))


def _times(weight: Tensor, matrix: csr_array) -> Tensor:
    """Product of a tensor and a sparse matrix."""
    product = (matrix.T @ weight.detach().cpu().numpy().T).T
    return torch.as_tensor(np.ascontiguousarray(product)).to(weight)
