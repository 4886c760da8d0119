"""A stack of small nets on encoded inputs, whose mix is one plain net."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sklpos.nets.any_rows import TensorRows, float_rows
from sklpos.nets.arrays import weight_tensor
from sklpos.nets.bounds import Bounds
from sklpos.nets.encoding import Encoding, standardisation, weighted_mean
from sklpos.nets.members import Members
from sklpos.nets.modules import TrainingDefaults
from sklpos.nets.recipe import Recipe


class Stack(nn.Module):
    """Mix of small nets of several kinds, each with one hidden layer of ReLU units.

    The default module. Under ``strategy="nonnegative_weights"``, its heads have weights
    of one sign. With one bound, that cost no accuracy in benchmarks, because the inputs
    are standardised and encoded piecewise linearly first [1]_.

    There are ``len(kinds) * n_folds`` members. The members of a kind differ in the fold
    of the training rows whose targets they do not see, so the kinds are weighed by
    their losses on unseen rows [2]_. The product of a fit is a plain ``nn.Sequential``
    of linear layers, ``nn.Hardtanh(0, 1)`` behind the first one, the encoding, and
    ``nn.ReLU`` behind the second; it ends in its ``head``. If the heads keep an output
    within both bounds, ``nn.Hardtanh(0, 1)`` clips the hidden units, too.

    Pass the class, not an instance: the estimator makes it from the rows of `fit`.

    Parameters
    ----------
    n_features_in : int
        Number of inputs.
    n_outputs : int
        Number of outputs. They share the hidden units.
    X : array-like or sparse matrix of shape (n_samples, n_features_in)
        Training rows: their means, deviations and quantiles.
    sample_weight : array-like of shape (n_samples,), optional
        Positive.
    width : int, optional
        Hidden units of each member; by default 32, or 256 from 10,000 rows on.
    n_folds : int, optional
        Members of each kind; 1 hides no targets, and all kinds count the same. By
        default 4, or 1 from 10,000 rows on.
    kinds : sequence of (int, float), optional
        Intervals per feature and weight decay of each kind; by default ``((0, 2.5),
        (16, 0.1), (16, 4.0))``, or from 10,000 rows on the single kind
        ``(32, 1000 / n_samples)``. Members see the standardised features beside the
        intervals. A feature of two values has one interval, and is seen only there.
    max_intervals : int, default=1024
        Largest number of intervals of all features, which bounds the time of a fit.
        There are no more than distinct rows, either. Where there would be too many,
        each feature has fewer, and none if that were fewer than 4.

    Attributes
    ----------
    lowest, centre, gain : torch.Tensor of shape (n_features_in,)
        Lowest value, mean and reciprocal standard deviation of each training feature.
    shares : torch.Tensor of shape (n_outputs, n_kinds)
        Weights of the kinds in the mix, with sum 1; equal before the end of a fit.
    activation : nn.ReLU or nn.Hardtanh
        Of the hidden units.
    output : nn.Module
        What follows each head: the identity, or an output activation.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] Y. Gorishniy, I. Rubachev, A. Babenko (2022), "On embeddings for numerical
       features in tabular deep learning", arXiv:2203.05556.
    .. [2] L. Breiman (1996), "Stacked regressions", doi:10.1007/BF00117832.

    Examples
    --------
    >>> stack = Stack(1, 1, X=torch.linspace(-1, 1, 50)[:, None])
    >>> stack(torch.zeros(5, 1, dtype=torch.float64)).shape  # 12 members
    torch.Size([5, 12])
    """

    def __init__(
        self,
        n_features_in: int,
        n_outputs: int,
        X: ArrayLike,
        sample_weight: ArrayLike | None = None,
        width: int | None = None,
        n_folds: int | None = None,
        kinds: Sequence[tuple[int, float]] | None = None,
        max_intervals: int = 1024,
    ):
        super().__init__()
        X = float_rows(X)
        recipe = Recipe.of(len(X)).changed(
            width=width, n_folds=n_folds, kinds=kinds, max_intervals=max_intervals
        )
        weight = weight_tensor(sample_weight, len(X))
        for name, values in standardisation(X, weight).items():
            self.register_buffer(name, values)
        self.n_outputs = n_outputs
        self.n_folds = recipe.n_folds
        self.activation = nn.ReLU()
        self.output = nn.Identity()
        self.decays = [float(decay) for _, decay in recipe.kinds]
        self.reach = 1.0
        self._encode(X, weight, recipe)
        self._add_members(X, weight, recipe)
        equal = weight.new_ones(n_outputs, len(self.kinds)) / len(self.kinds)
        self.register_buffer("shares", equal)

    def _encode(self, X: TensorRows, weight: Tensor, recipe: Recipe) -> None:
        # Kinds of the same number of intervals share an encoding.
        distinct = sorted({number for number, _ in recipe.kinds})
        self.sources = [distinct.index(number) for number, _ in recipe.kinds]
        limits = {"most": recipe.max_intervals, "shrinks": recipe.shrinks}
        self.encodings = nn.ModuleList(
            Encoding.of_rows(X, weight, number, **limits) for number in distinct
        ).double()

    def _add_members(self, X: TensorRows, weight: Tensor, recipe: Recipe) -> None:
        sizes = [own.shape[1] for own in self.inputs(X[:1].double())]
        width = sum(sizes)
        self.kinds = nn.ModuleList(
            Members(sizes[source], recipe.width, recipe.n_folds, self.n_outputs)
            for source in self.sources
        ).double()
        mean = weighted_mean(lambda X: torch.cat(self._units(X), 1), X, weight, width)
        for kind, own in zip(self.kinds, mean.chunk(len(self.kinds)), strict=True):
            kind.mean.copy_(own)

    @staticmethod
    def training_defaults(n_samples: int) -> TrainingDefaults:
        """Defaults of the estimator, see `TrainingDefaults`.

        Parameters
        ----------
        n_samples : int
            Training rows.

        Returns
        -------
        TrainingDefaults
        """
        return Recipe.of(n_samples).training

    @property
    def n_members(self) -> int:
        """Number of members of all kinds."""
        return len(self.kinds) * self.n_folds

    @property
    def param_groups(self) -> list[tuple[str, dict[str, float]]]:
        """Parameter groups of an optimizer: weight decay per kind, none for biases.

        For the biases of heads, see `Members.bias_decay`.
        """
        # All kinds have the same bounds.
        drawn = self.kinds[0].bias_decay / self.reach
        groups = [("*head.bias", {"weight_decay": drawn})] if drawn else []
        groups.append(("*bias", {"weight_decay": 0.0}))
        for number, decay in enumerate(self.decays):
            weight_decay = {"weight_decay": decay / self.reach}
            groups.append((f"kinds.{number}.*", weight_decay))
        return groups

    def hold(self, bounds: Bounds) -> Stack:
        """Keep all members within bounds, for every input.

        Parameters
        ----------
        bounds : Bounds
            Of the outputs, in scaled units.

        Returns
        -------
        Stack
            Itself.
        """
        # Only features with an end can keep a sum of them below an upper bound, too.
        if bounds.two_sided.any():
            self.activation = nn.Hardtanh(0, 1)
        for kind in self.kinds:
            kind.hold(bounds.repeated(self.n_folds))
        return self

    def start(self, mean: Tensor, spread: float = 1.0) -> None:
        """Give the head of each member a mean output on the training rows.

        Parameters
        ----------
        mean : torch.Tensor of shape (n_outputs,)
            In scaled units.
        spread : float, default=1.0
            Deviation of the targets in scaled units. Decay limits the size of weights,
            so it is less where they have to reach farther.
        """
        self.reach = max(spread, 1.0)
        for kind in self.kinds:
            kind.start(mean.repeat(self.n_folds))

    def forward(self, X: Tensor) -> Tensor:
        """Predictions of the members, in the order of kinds, folds and outputs.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, n_features_in)

        Returns
        -------
        torch.Tensor of shape (n_samples, n_members * n_outputs)
        """
        columns = self.heads(X).unflatten(1, (-1, self.n_outputs))
        return self.output(columns).flatten(1)

    def heads(self, X: Tensor) -> Tensor:
        """What the heads of the members compute: `forward` without `output`.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, n_features_in)

        Returns
        -------
        torch.Tensor of shape (n_samples, n_members * n_outputs)
        """
        units = zip(self.kinds, self._units(X), strict=True)
        return torch.cat([kind.head(own) for kind, own in units], dim=1)

    def features(self, X: Tensor) -> Tensor:
        """What enters the heads: the hidden units of each member.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, n_features_in)

        Returns
        -------
        torch.Tensor of shape (n_samples, n_members, width)
        """
        return torch.cat(self._units(X), dim=1).unflatten(1, (self.n_members, -1))

    def inputs(self, X: Tensor) -> list[Tensor]:
        """What the members see: features beside each of the encodings.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, n_features_in)

        Returns
        -------
        list of torch.Tensor of shape (n_samples, n_passed + n_intervals)
        """
        features = self.standardised(X)
        return [
            torch.cat([features.index_select(1, code.passed), code(X)], dim=1)
            for code in self.encodings
        ]

    def standardised(self, X: Tensor) -> Tensor:
        """Features of mean 0 and variance 1 on the training rows.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, n_features_in)

        Returns
        -------
        torch.Tensor of the same shape
        """
        return (X - self.centre) * self.gain

    def mix(self, columns: Tensor) -> Tensor:
        """Mix values of the members by their shares.

        Parameters
        ----------
        columns : torch.Tensor of shape (n_samples, n_members * n_outputs)
            In the order of `forward`.

        Returns
        -------
        torch.Tensor of shape (n_samples, n_outputs)
        """
        parts = columns.unflatten(1, (-1, self.n_folds, self.n_outputs)).mean(2)
        return (parts * self.shares.T.to(columns)).sum(1)

    def _units(self, X: Tensor) -> list[Tensor]:
        """Hidden units of each kind."""
        inputs = self.inputs(X)
        pairs = zip(self.kinds, self.sources, strict=True)
        return [self.activation(kind.hidden(inputs[source])) for kind, source in pairs]
