"""From predictions and bounds to columns of violations, and back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sklpos.nets.bounds import Bounds


class OutputColumns(nn.Module):
    """Columns of violations: the finite lower bounds, then the finite upper ones.

    This is the only place that knows which side a bound is on. A violation is
    ``(lower_bound - f) / scale`` or ``(f - upper_bound) / scale``, at most 0 where the
    bound is obeyed. Its buffers are configuration, not state: they move with the
    module, but are not part of its ``state_dict``.

    Parameters
    ----------
    bounds : Bounds
        Unit of the predictions.
    scale : torch.Tensor of shape (n_outputs,)
        Unit of the violations, positive. Its dtype and device are those of the
        columns.

    Examples
    --------
    >>> bounds = Bounds.read([0.0, None, 1.0], [None, None, 2.0], n_outputs=3)
    >>> columns = OutputColumns(bounds, torch.tensor([1.0, 1.0, 2.0]))
    >>> columns.violation(torch.tensor([[-3.0, 0.0, 0.0]]))
    tensor([[ 3.0000,  0.5000, -1.0000]])
    """

    def __init__(self, bounds: Bounds, scale: Tensor):
        super().__init__()
        # 0 * inf is NaN, so a free side has no column rather than a masked one.
        side, output = np.isfinite(bounds.sides).nonzero()
        self.n_outputs = len(bounds)
        self.n_lower = int((side == 0).sum())
        self.n_bounded = int(bounds.bounded.sum())
        # Python flags, as reading them from tensors would wait for the device.
        self.all_outputs = output.tolist() == list(range(self.n_outputs))
        # With the sign of its side, a unit does the work of both:
        # (bound - f) / unit is the violation of a lower and of an upper bound.
        unit = torch.as_tensor(1.0 - 2.0 * side).to(scale) * scale[output]
        self.plain_unit = bool((unit == 1).all())
        buffers = {
            "output": torch.as_tensor(output).to(scale.device),
            "bound": torch.as_tensor(bounds.sides[side, output]).to(scale),
            "unit": unit,
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def __len__(self) -> int:
        return len(self.bound)

    def violation(self, y_pred: Tensor) -> Tensor:
        """Violations of predictions.

        Parameters
        ----------
        y_pred : torch.Tensor of shape (batch, n_outputs)

        Returns
        -------
        torch.Tensor of shape (batch, n_columns)
            In scales; differentiable.
        """
        missing = self.bound - self._of_columns(y_pred)
        return missing if self.plain_unit else missing / self.unit

    def violation_of_range(self, lowest: Tensor, highest: Tensor) -> Tensor:
        """Violations of a lower bound by lowest, of an upper bound by highest outputs.

        Parameters
        ----------
        lowest, highest : torch.Tensor of shape (n_domains, n_outputs)

        Returns
        -------
        torch.Tensor of shape (n_domains, n_columns)
            In scales; differentiable.
        """
        # Mostly there is one side, of all outputs: no indices, nor their gradient.
        if self.n_lower == len(self):
            return self.violation(lowest)
        if self.n_lower == 0:
            return self.violation(highest)
        lower, upper = self.output[: self.n_lower], self.output[self.n_lower :]
        ends = torch.cat([lowest[:, lower], highest[:, upper]], dim=1)
        return (self.bound - ends) / self.unit

    def mean_term(self, term: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean of a term over rows and outputs, in the unit of a squared error of y.

        Parameters
        ----------
        term : torch.Tensor of shape (batch, n_columns)
            In squared scales.
        weight : torch.Tensor of shape (batch, 1) or (batch, n_outputs), optional

        Returns
        -------
        torch.Tensor of shape ()
        """
        if not self.plain_unit:
            term = self.unit**2 * term
        if weight is not None:
            term = (weight if weight.shape[1] == 1 else self._of_columns(weight)) * term
        # A mean over outputs and not over columns: a free output counts as a term of 0,
        # so that freeing one output leaves the weight of the others alone.
        return term.sum() / max(len(term) * self.n_outputs, 1)

    def slope_in_outputs(self, slope: Tensor) -> Tensor:
        """Derivative of a term in the predictions, from that in the violations.

        Parameters
        ----------
        slope : torch.Tensor of shape (batch, n_columns)

        Returns
        -------
        torch.Tensor of shape (batch, n_outputs)
            Of a term in the unit of a squared error of y, not averaged.
        """
        # The violation changes by -1 / unit as the prediction rises, and the term has
        # the factor unit**2.
        return self._spread(-slope if self.plain_unit else -self.unit * slope)

    def signed(self, multiplier: Tensor) -> Tensor:
        """Multipliers per output.

        Parameters
        ----------
        multiplier : torch.Tensor of shape (batch, n_columns)
            In scales.

        Returns
        -------
        torch.Tensor of shape (batch, n_outputs)
            Unit of y: positive where a lower bound pushes up, negative where an upper
            bound pushes down; 0 for a free output.
        """
        # Adding 0 turns the -0.0 of an inactive upper bound into 0.0.
        return self._spread(self.unit * multiplier) + 0.0

    def by_output(
        self, marked: NDArray
    ) -> Iterator[tuple[int, NDArray, NDArray, NDArray]]:
        """Iterate over marked violations, output by output.

        Parameters
        ----------
        marked : ndarray of bool of shape (n_samples, n_columns)

        Yields
        ------
        output : int
        row, column : ndarray of shape (n_marked,)
        sign : ndarray of shape (n_marked, 1)
            1 where a lower bound pushes up, -1 where an upper bound pushes down.
        """
        of_column = self.output.cpu().numpy()
        signs = self.unit.sign().cpu().double().numpy()
        for output in np.unique(of_column):
            row, column = (marked & (of_column == output)).nonzero()
            if row.size:
                yield output, row, column, signs[column, None]

    def _of_columns(self, values: Tensor) -> Tensor:
        return values if self.all_outputs else values[:, self.output]

    def _spread(self, values: Tensor) -> Tensor:
        if self.all_outputs:
            return values
        spread = values.new_zeros(len(values), self.n_outputs)
        return spread.index_add_(1, self.output, values)
