"""A stack of small nets on encoded inputs, whose mix is one plain net."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sklpos.nets.bounds import Bounds
from sklpos.nets.encoding import Encoding, weighted_mean
from sklpos.nets.nonnegative import NonnegativeBlocks

# Fewer intervals are hardly more than the feature itself, but the plain net is wide.
_FEWEST_INTERVALS = 4


class Stack(nn.Module):
    """Mix of small nets of several kinds, each with one hidden layer of ReLU units.

    For ``strategy="nonnegative_weights"``. Its heads have weights of one sign, which
    costs no accuracy here, because the inputs are encoded piecewise linearly first
    [1]_. There are ``len(kinds) * n_folds`` members. The members of a kind differ in
    the fold of the training rows whose targets they do not see, so the kinds are
    weighed by their errors on unseen rows [2]_. The product of a fit is a plain
    ``nn.Sequential`` of ``nn.Linear`` and ``nn.ReLU`` that ends in its ``head``, and
    one factor makes its mean on the training rows exact.

    Pass the class, not an instance: the estimator makes it from the rows of `fit`.
    Standardise X, and use ``lr=0.02``, and as many ``max_epochs`` as make 400 steps, 40
    at least.

    Parameters
    ----------
    n_features_in : int
        Number of inputs.
    n_outputs : int
        Number of outputs. They share the hidden units.
    X : array-like of shape (n_samples, n_features_in)
        Training rows, for the quantiles of the encoding.
    sample_weight : array-like of shape (n_samples,), optional
        Positive.
    width : int, default=32
        Hidden units of each member.
    n_folds : int, default=4
        Members of each kind; 1 hides no targets, and all kinds count the same.
    kinds : sequence of (int, float), default=((0, 5.0), (16, 0.1), (16, 4.0))
        Intervals per feature and weight decay of each kind. Beside the features
        themselves, members without intervals see the distances from the lowest and the
        highest value of each feature.
    max_intervals : int, default=1024
        Largest number of intervals of all features, which bounds the time of a fit:
        many features have fewer each, and none where that would be less than 4.

    Attributes
    ----------
    shares : torch.Tensor of shape (n_outputs, n_kinds)
        Weights of the kinds in the mix, with sum 1; equal before the end of a fit.

    References
    ----------
    .. [1] Y. Gorishniy, I. Rubachev, A. Babenko (2022), "On embeddings for numerical
       features in tabular deep learning", arXiv:2203.05556.
    .. [2] L. Breiman (1996), "Stacked regressions", doi:10.1007/BF00117832.

    Examples
    --------
    >>> import numpy as np
    >>> from sklpos import PositiveOutputRegressor
    >>> X = np.linspace(-1, 1, 50).reshape(-1, 1)
    >>> y = np.maximum(X.ravel(), 0)
    >>> model = PositiveOutputRegressor(
    ...     Stack, strategy="nonnegative_weights", lr=0.02, random_state=0
    ... ).fit(X, y)
    >>> bool(model.predict(1000 * X).min() >= 0)
    True
    >>> model.module_.head
    Linear(in_features=384, out_features=1, bias=True)
    """

    def __init__(
        self,
        n_features_in: int,
        n_outputs: int,
        X: ArrayLike,
        sample_weight: ArrayLike | None = None,
        width: int = 32,
        n_folds: int = 4,
        kinds: Sequence[tuple[int, float]] = ((0, 5.0), (16, 0.1), (16, 4.0)),
        max_intervals: int = 1024,
    ):
        super().__init__()
        _check_positive(width=width, n_folds=n_folds, n_kinds=len(kinds))
        X = torch.as_tensor(np.asarray(X, dtype=np.float64))
        weight = X.new_ones(len(X))
        if sample_weight is not None:
            weight = torch.as_tensor(sample_weight).to(X)
        self.register_buffer("lowest", X.amin(0))
        self.n_outputs = n_outputs
        self.n_folds = n_folds
        self.decays = [float(decay) for _, decay in kinds]
        most = max_intervals // n_features_in
        most = most if most >= _FEWEST_INTERVALS else 0
        numbers = [min(number, most) for number, _ in kinds]
        # Kinds of the same number of intervals share an encoding.
        distinct = sorted(set(numbers))
        self.sources = [distinct.index(number) for number in numbers]
        self.encodings = nn.ModuleList(_encoding(X, weight, n) for n in distinct)
        self.kinds = nn.ModuleList(
            Members(X.shape[1] + len(self.encodings[source]), width, n_folds, n_outputs)
            for source in self.sources
        )
        self.double()
        mean = weighted_mean(lambda rows: torch.cat(self._units(rows), 1), X, weight)
        for kind, own in zip(self.kinds, mean.chunk(len(kinds)), strict=True):
            kind.mean.copy_(own)
        equal = torch.full((n_outputs, len(kinds)), 1 / len(kinds), dtype=X.dtype)
        self.register_buffer("shares", equal)

    @property
    def n_members(self) -> int:
        """Number of members of all kinds."""
        return len(self.kinds) * self.n_folds

    @property
    def param_groups(self) -> list[tuple[str, dict[str, Any]]]:
        """Parameter groups of an optimizer: weight decay per kind, none for biases."""
        groups = [("*bias", {"weight_decay": 0.0})]
        for number, decay in enumerate(self.decays):
            groups.append((f"kinds.{number}.*", {"weight_decay": decay}))
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
        if bounds.two_sided.any():
            raise ValueError(
                "module=Stack takes a lower or an upper bound for an output, not both; "
                "use module=MLP with "
                "module__activation=functools.partial(nn.Hardtanh, 0, 1)."
            )
        for kind in self.kinds:
            kind.hold(bounds.repeated(self.n_folds))
        return self

    def forward(self, X: Tensor) -> Tensor:
        """Predictions of the members, in the order of kinds, folds and outputs.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, n_features_in)

        Returns
        -------
        torch.Tensor of shape (n_samples, n_members * n_outputs)
        """
        units = zip(self.kinds, self._units(X), strict=True)
        return torch.cat([kind.head(own) for kind, own in units], dim=1)

    def _units(self, X: Tensor) -> list[Tensor]:
        """Hidden units of each kind."""
        inputs = [torch.cat([X, encoding(X)], dim=1) for encoding in self.encodings]
        pairs = zip(self.kinds, self.sources, strict=True)
        return [kind.hidden(inputs[source]).relu() for kind, source in pairs]


class Members(nn.Module):
    """The members of one kind: one hidden layer and one head each.

    Parameters
    ----------
    n_inputs : int
        Features and their encoding.
    width : int
        Hidden units of each member.
    n_members, n_outputs : int

    Attributes
    ----------
    mean : torch.Tensor of shape (n_members * width,)
        Mean of the hidden units on the training rows, before training.

    Examples
    --------
    >>> Members(3, width=4, n_members=2, n_outputs=1).hidden
    Linear(in_features=3, out_features=8, bias=True)
    """

    def __init__(self, n_inputs: int, width: int, n_members: int, n_outputs: int):
        super().__init__()
        self.hidden = nn.Linear(n_inputs, n_members * width)
        linear = nn.Linear(width, n_members * n_outputs)
        free = np.full(linear.out_features, np.inf)
        self.head = NonnegativeBlocks(linear, Bounds(-free, free), n_members)
        self.register_buffer("mean", torch.zeros(n_members * width))

    @torch.no_grad()
    def hold(self, bounds: Bounds) -> None:
        """Replace the heads by ones within bounds, as near to a mean of 0 as possible.

        Parameters
        ----------
        bounds : Bounds
            Of the outputs of all members.
        """
        head, n_members = self.head, self.head.n_blocks
        self.head = NonnegativeBlocks(head, bounds, n_members)
        # Weights of one sign add up. Training would spend its first steps on it.
        head.bias.zero_()
        head.weight.copy_(self.head.effective()[0])
        head.bias.sub_(head(self.mean[None])[0])
        self.head = NonnegativeBlocks(head, bounds, n_members)


def _encoding(X: Tensor, weight: Tensor, n_intervals: int) -> Encoding:
    if n_intervals:
        encoding = Encoding.of_intervals(X, weight, n_intervals)
        # Constant features have none.
        if len(encoding):
            return encoding
    return Encoding.of_ends(X, weight)


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if not (isinstance(number, Integral) and number > 0):
            raise ValueError(f"{name}={number!r} of Stack must be a positive integer.")
