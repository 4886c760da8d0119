"""Nets with an infinite buffer train together, and those that diverge are told."""

import numpy as np
import torch
from sklearn.model_selection import GridSearchCV
from torch import nn

from sklpos import PositiveOutputRegressor
from sklpos.search import BatchedGridSearchCV


class Masked(nn.Module):
    """One hidden unit never counts, as a mask of an attention layer has it."""

    def __init__(self, n_features_in, n_outputs):
        super().__init__()
        self.hidden = nn.Linear(n_features_in, 4)
        self.register_buffer("mask", torch.tensor([-torch.inf, 0.0, 0.0, 0.0]))
        self.head = nn.Linear(4, n_outputs)

    def forward(self, X):
        return self.head(torch.softmax(self.hidden(X) + self.mask, dim=1))


def test_a_mask_is_infinite_on_purpose(data):
    model = PositiveOutputRegressor(
        Masked, strategy="penalty", max_epochs=2, batch_size=16, random_state=0
    )
    scores = [
        kind(model, {"alpha": [0.1, 1.0]}, cv=2, refit=False)
        .fit(data.X, data.Y)
        .cv_results_["mean_test_score"]
        for kind in (GridSearchCV, BatchedGridSearchCV)
    ]
    np.testing.assert_allclose(*scores, rtol=1e-9)
