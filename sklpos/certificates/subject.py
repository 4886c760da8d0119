"""The model that a promise is about, recognised as long as it is as it was."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch
from typing import Any

from sklpos.certificates.digests import digests_of_module, hexdigest
from sklpos.nets.bounded import BoundedModel, as_bounded_model

_UNREADABLE = "a step or layer that is not understood"


def _nothing() -> None:
    """Reference of a subject without a model."""


class Subject:
    """The model that a promise is about, as it is now.

    It holds digests of all that decides the predictions, and a weak reference to the
    model. A stored or copied subject has the digests alone.

    Parameters
    ----------
    model : nn.Module, BoundedModel, PositiveOutputRegressor, Pipeline or search

    Attributes
    ----------
    digests : dict of str to str
        By the part of the model, see `digests_of`.

    Examples
    --------
    >>> from torch import nn
    >>> module = nn.Linear(1, 1)
    >>> subject = Subject(module)
    >>> subject.changes()
    ()
    >>> _ = nn.init.ones_(module.weight)
    >>> subject.changes()
    ('weights',)
    """

    def __init__(self, model: Any):
        self.digests = digests_of(model)
        self._find = _reference_to(model)

    def __getstate__(self) -> dict:
        return {"digests": self.digests}

    def __setstate__(self, state: dict) -> None:
        digests = state.get("digests")
        if not isinstance(digests, dict):
            raise ValueError("the digests of the subject of a proof are a dict.")
        vars(self).update(digests=digests, _find=_nothing)

    def bound_to(self, model: Any) -> Subject:
        """Copy with the same digests, and a reference to a model.

        Parameters
        ----------
        model : nn.Module, BoundedModel, PositiveOutputRegressor, Pipeline or search

        Returns
        -------
        Subject
        """
        twin = copy.copy(self)
        twin._find = _reference_to(model)
        return twin

    @property
    def is_at_hand(self) -> bool:
        """Whether the model that it refers to still exists."""
        return self._find() is not None

    @property
    def has_steps(self) -> bool:
        """Whether it is of a whole pipeline, whose steps come before the net."""
        return self.digests.get("scalers") != hexdigest([None, []])

    @property
    def has_owner(self) -> bool:
        """Whether it refers to more than a view of a module, made for a proof."""
        return self.is_at_hand and not isinstance(self._find(), BoundedModel)

    @property
    def owner(self) -> Any:
        """The model that it refers to, if that still exists."""
        return self._find()

    def refers_to(self, model: Any) -> bool:
        """Whether this is the model that it refers to.

        Parameters
        ----------
        model : object

        Returns
        -------
        bool
        """
        return self._find() is model

    def changes(self) -> tuple[str, ...]:
        """Parts of the model that it refers to that are not as they were.

        Returns
        -------
        tuple of str
            Empty if the model predicts as it did. The model must be at hand.
        """
        return self.differences(self._find())

    def differences(self, model: Any) -> tuple[str, ...]:
        """Parts in which a model differs from the one that was recorded.

        Parameters
        ----------
        model : object

        Returns
        -------
        tuple of str
            Empty if it predicts as that one did.
        """
        try:
            now = digests_of(model)
        # Whatever keeps the model from being read is a change.
        except Exception:
            return (_UNREADABLE,)
        parts = self.digests | now
        return tuple(part for part in parts if self.digests.get(part) != now.get(part))


@singledispatch
def digests_of(model: Any) -> dict[str, str]:
    """Digests of all that decides what a model predicts, and of its bounds.

    Parameters
    ----------
    model : nn.Module, BoundedModel, PositiveOutputRegressor, Pipeline or search

    Returns
    -------
    dict of str to str
        Those of `digests_of_module`, and of the "bounds" and the "scalers".

    Raises
    ------
    ValueError
        If the model is not understood.
    """
    return digests_of(as_bounded_model(model))


@digests_of.register
def _(model: BoundedModel) -> dict[str, str]:
    return {
        **digests_of_module(model.module),
        # 0 is added because -0 is the same bound.
        "bounds": hexdigest([model.bounds.lower + 0.0, model.bounds.upper + 0.0]),
        # Names that the data have do not change a prediction, but categories do.
        "scalers": hexdigest([model.inputs, _categories(model)]),
    }


def _categories(model: BoundedModel) -> list:
    columns = () if model.columns is None else model.columns.columns
    return [column.categories for column in columns if column.categories is not None]


def _reference_to(model: Any) -> Callable[[], Any]:
    """Weak reference to a model; to the module alone where that is all there is."""
    if not isinstance(model, BoundedModel):
        return weakref.ref(model)
    # It is a view of a module, made anew each time that it is needed.
    find = weakref.ref(model.module)
    rest = replace(model, module=None)
    return lambda: None if find() is None else replace(rest, module=find())
