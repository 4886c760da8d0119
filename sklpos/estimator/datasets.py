"""Data sets and loaders of torch, in place of X and y."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_array, validate_data
from skorch.helper import SliceDataset
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from sklpos.estimator.first_pass import read_dataset
from sklpos.estimator.parameters import net_params_for, stand_in
from sklpos.nets.arrays import naming
from sklpos.nets.items import ItemRows
from sklpos.training.fetching import FETCHING

Estimator = TypeVar("Estimator")
#: What `fit` takes as X.
Rows = ArrayLike | Dataset | DataLoader
#: What it takes as y and as weights; a data set brings its own.
Targets = ArrayLike | None


def is_dataset(X: Any) -> bool:
    """Whether X is a data set or a loader of torch.

    Parameters
    ----------
    X : object

    Returns
    -------
    bool
    """
    return isinstance(X, Dataset | DataLoader)


def with_loader(estimator: Estimator, X: Any) -> Estimator:
    """Copy an estimator, with the parameters of a loader where it has none.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    X : object
        A ``DataLoader``; anything else brings no parameters.

    Returns
    -------
    PositiveOutputRegressor

    Raises
    ------
    ValueError
        If the loader joins items in a way of its own.
    """
    copied = stand_in(estimator)
    if not isinstance(X, DataLoader):
        return copied
    if X.batch_sampler is None or X.collate_fn is not default_collate:
        raise ValueError(
            "X is a DataLoader with a collate_fn, or with batch_size=None, but rows "
            "need numbers; change rows in the __getitem__ of the data set instead."
        )
    found, batch_size = _order_of(X)
    if X.num_workers:
        # Earlier versions of torch do not know all of them.
        found |= {name: getattr(X, name) for name in FETCHING if hasattr(X, name)}
    found = {f"iterator_train__{name}": value for name, value in found.items()}
    own = copied.get_params(deep=False)
    copied.set_params(**{k: v for k, v in found.items() if k not in own})
    if copied.batch_size == "auto" and batch_size is not None:
        copied.batch_size = batch_size
    return copied


def _order_of(loader: DataLoader) -> tuple[dict[str, Any], int | None]:
    """Parameters for the order of a loader's items, and its batch size."""
    # A loader knows no batch size if it was given a sampler of batches.
    if loader.batch_size is None:
        return {"batch_sampler": loader.batch_sampler}, None
    found: dict[str, Any] = {}
    if type(loader.sampler) in (SequentialSampler, RandomSampler):
        # random_state decides the order of a loader that shuffles.
        found["shuffle"] = type(loader.sampler) is RandomSampler
    else:
        found["sampler"] = loader.sampler
    if loader.drop_last:
        found["drop_last"] = True
    return found, loader.batch_size


def unpacked(estimator, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """Take X, y and weights out of a data set or loader; others stay as they are.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
        Says how many workers read the items.
    X, y, sample_weight
        As `fit` was given them.

    Returns
    -------
    X : array-like or ItemRows
    y, sample_weight : array-like or None

    Raises
    ------
    ValueError, TypeError
    """
    if not is_dataset(X):
        return X, y, sample_weight
    beside = {"y": y, "sample_weight": sample_weight}
    given = [name for name, value in beside.items() if value is not None]
    if given:
        raise ValueError(
            f"{given[0]} must be None if X is a {type(X).__name__}, whose items are "
            "(x, y) or (x, y, weight)."
        )
    found = read_dataset(X, _fetching(estimator), targets=True)
    return found.X, found.y, found.weight


def inputs_of(estimator, X: Any) -> Any:
    """Take the inputs out of a data set or loader, in the order of its items.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    X : object
        Anything else stays as it is.

    Returns
    -------
    array-like or ItemRows
    """
    if not is_dataset(X):
        # Its shape is that of its items, in which scikit-learn sees no features.
        return np.asarray(X) if isinstance(X, SliceDataset) else X
    return read_dataset(X, _fetching(estimator), targets=False).X


def check_items(estimator, X: ItemRows, y: NDArray, reset: bool) -> NDArray:
    """Validate rows that are read item by item, by the first of them.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
        Its attributes of scikit-learn's validation are set.
    X : ItemRows
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    reset : bool
        Whether this is the first data the estimator sees.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_outputs)
        float64.
    """
    validate_data(estimator, X[:1], reset=reset, allow_nd=True)
    with naming("y"):
        return check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")


def _fetching(estimator) -> dict[str, Any]:
    params = net_params_for(estimator, "iterator_train")
    # Arrays are not pinned, but tensors of the batches are.
    wanted = FETCHING - {"pin_memory"}
    return {name: value for name, value in params.items() if name in wanted}
