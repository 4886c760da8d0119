"""What a `Stack` is made of, and how it is trained, by the number of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sklpos.nets.hints import shown
from sklpos.nets.modules import TrainingDefaults
from sklpos.nets.rules import Count, Number, check_rules

# From this number of rows on, one large member predicts better than many small ones.
_MANY_ROWS = 10_000


@dataclass(frozen=True)
class Recipe:
    """Defaults of a `Stack`.

    Attributes
    ----------
    kinds : tuple of (int, float)
        Intervals per feature and weight decay of each kind of members.
    n_folds, width : int
        Members of each kind, and hidden units of each member.
    shrinks : bool
        Whether features of two values count less if one of them is rare.
    training : TrainingDefaults
    max_intervals : int, default=1024
        Largest number of intervals of all features.

    Examples
    --------
    >>> Recipe.of(100).n_folds, Recipe.of(40_000).n_folds
    (4, 1)
    """

    kinds: tuple[tuple[int, float], ...]
    n_folds: int
    width: int
    shrinks: bool
    training: TrainingDefaults
    max_intervals: int = 1024

    @classmethod
    def of(cls, n_samples: int) -> Recipe:
        """Choose by the number of training rows.

        Parameters
        ----------
        n_samples : int

        Returns
        -------
        Recipe
        """
        return _of_few() if n_samples < _MANY_ROWS else _of_many(n_samples)

    def changed(
        self,
        *,
        width: int | None,
        n_folds: int | None,
        kinds: Sequence[tuple[int, float]] | None,
        max_intervals: int,
    ) -> Recipe:
        """Replace what is not None.

        Parameters
        ----------
        width, n_folds : int or None
        kinds : sequence of (int, float), or None
        max_intervals : int

        Returns
        -------
        Recipe

        Raises
        ------
        ValueError
            If a size is not a positive integer, or kinds are not such pairs.
        """
        sizes = {"width": width, "n_folds": n_folds, "max_intervals": max_intervals}
        sizes = {name: size for name, size in sizes.items() if size is not None}
        check_rules(sizes, dict.fromkeys(sizes, Count()), "Stack")
        if kinds is None:
            return replace(self, **sizes)
        _check_kinds(kinds)
        return replace(self, kinds=kinds, **sizes)


def _check_kinds(kinds: object) -> None:
    is_filled = isinstance(kinds, Sequence) and len(kinds) > 0
    if not (is_filled and all(map(_is_kind, kinds))):
        raise ValueError(
            f"kinds={shown(kinds)} of Stack must be pairs of a number of intervals and "
            "a weight decay, neither negative, such as ((16, 0.1), (16, 4.0))."
        )


def _is_kind(kind: object) -> bool:
    match kind:
        case [n_intervals, decay]:
            return Count(0).allows(n_intervals) and Number().allows(decay)
    return False


def _of_few() -> Recipe:
    training = TrainingDefaults("nonnegative_weights", lr=0.02, epochs=40, steps=400)
    kinds = ((0, 2.5), (16, 0.1), (16, 4.0))
    return Recipe(kinds, n_folds=4, width=32, shrinks=False, training=training)


def _of_many(n_samples: int) -> Recipe:
    # About as many steps whatever the number of rows: batches grow, epochs get fewer.
    growth = math.sqrt(n_samples / _MANY_ROWS)
    training = TrainingDefaults(
        "nonnegative_weights",
        lr=0.02,
        batch_size=round(128 * growth),
        epochs=max(2, round(30 / growth)),
    )
    # A prior on the weights fades as the rows become more.
    kinds = ((32, 1000 / n_samples),)
    return Recipe(kinds, n_folds=1, width=256, shrinks=True, training=training)
