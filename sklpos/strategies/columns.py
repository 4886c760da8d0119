"""From predictions and bounds to columns of violations, and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OutputColumns(nn.Module):
    """Columns of violations: one per finite bound of an output.

    This is the only place that knows which side a bound is on. A violation is
    ``(lower_bound - f) / scale``, at most 0 where the bound is obeyed. Its buffers
    are configuration, not state: they move with the module, but are not part of its
    ``state_dict``.

    Parameters
    ----------
    lower_bound : torch.Tensor of shape (n_outputs,)
        Unit of the predictions; ``-inf`` leaves an output free.
    scale : torch.Tensor of shape (n_outputs,)
        Unit of the violations, positive.

    Examples
    --------
    >>> lower_bound = torch.tensor([0.0, -torch.inf, 1.0])
    >>> columns = OutputColumns(lower_bound, torch.tensor([1.0, 1.0, 2.0]))
    >>> columns.violation(torch.tensor([[-3.0, 0.0, 0.0]]))
    tensor([[3.0000, 0.5000]])
    """

    def __init__(self, lower_bound: Tensor, scale: Tensor):
        super().__init__()
        finite = torch.isfinite(lower_bound)
        output = finite.nonzero().ravel()
        self.n_outputs = len(lower_bound)
        # 0 * inf is NaN, so a free output has no column rather than a masked one.
        # Python flags, as reading them from tensors would wait for the device.
        self.all_outputs = bool(finite.all())
        self.unit_scale = bool((scale[output] == 1).all())
        buffers = {
            "output": output,
            "bound": lower_bound[output],
            "scale": scale[output],
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
        bounded = y_pred if self.all_outputs else y_pred[:, self.output]
        missing = self.bound - bounded
        return missing if self.unit_scale else missing / self.scale

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
        if not self.unit_scale:
            term = self.scale**2 * term
        if weight is not None:
            narrow = weight.shape[1] == 1 or self.all_outputs
            term = (weight if narrow else weight[:, self.output]) * term
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
        # The violation falls as the prediction rises. The term has the factor
        # scale**2, of which the violation's own division by the scale leaves one.
        return self._spread(-slope if self.unit_scale else -self.scale * slope)

    def signed(self, multiplier: Tensor) -> Tensor:
        """Multipliers per output: positive where a lower bound pushes up.

        Parameters
        ----------
        multiplier : torch.Tensor of shape (batch, n_columns)
            In scales.

        Returns
        -------
        torch.Tensor of shape (batch, n_outputs)
            Unit of y; 0 for a free output.
        """
        return self._spread(self.scale * multiplier)

    def _spread(self, values: Tensor) -> Tensor:
        if self.all_outputs:
            return values
        spread = values.new_zeros(len(values), self.n_outputs)
        return spread.index_add_(1, self.output, values)
