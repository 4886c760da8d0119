"""What an exported model consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklpos.estimator.encoders import ENCODERS
from sklpos.estimator.pipelines import fitted_regressor, flat, take_apart
from sklpos.nets.bounded import BoundedModel


@dataclass(frozen=True, eq=False)
class Subject:
    """A fitted model, taken apart.

    Attributes
    ----------
    steps : list of transformer
        Before the regressor.
    regressor : PositiveOutputRegressor, nn.Module or BoundedModel
    targets : list of transformer
        Those of the targets, from the outermost one inwards.
    """

    steps: list
    regressor: Any
    targets: list

    @classmethod
    def of(cls, model: Any) -> Subject:
        """Take a model apart.

        Parameters
        ----------
        model : PositiveOutputRegressor, Pipeline, search, nn.Module or BoundedModel
            Or a ``TransformedTargetRegressor`` of these.

        Returns
        -------
        Subject

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        ValueError
            If it is something else.
        """
        if isinstance(model, nn.Module | BoundedModel):
            return cls([], model, [])
        steps: list = []
        targets = []
        while True:
            before, model = take_apart(model)
            steps += before
            if not isinstance(model, TransformedTargetRegressor):
                return cls(list(flat(steps)), fitted_regressor(model)[1], targets)
            check_is_fitted(model)
            targets.append(model.transformer_)
            model = model.regressor_

    @property
    def names(self) -> Any:
        """Names of the columns of its data, or None."""
        return getattr(self._first, "feature_names_in_", None)

    @property
    def n_features(self) -> int | None:
        """Number of columns of its data, or None if no part knows it."""
        return getattr(self._first, "n_features_in_", None)

    @property
    def _first(self) -> Any:
        return self.steps[0] if self.steps else self.regressor

    @property
    def begins_with_text(self) -> bool:
        """Whether the first step encodes text."""
        known = getattr(self.steps[0], "categories_", []) if self.steps else []
        return any(isinstance(value, str) for own in known for value in own)

    @property
    def has_encoder(self) -> bool:
        """Whether a step may read columns as text, or by their names."""
        kinds = (ColumnTransformer, *ENCODERS)
        return any(isinstance(step, kinds) for step in self.steps)
