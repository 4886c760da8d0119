"""What must be the same in all processes that fit one model."""

from __future__ import annotations

from typing import Any

from sklpos.estimator.checks import TrainingData
from sklpos.estimator.parameters import PARAMETERS
from sklpos.nets.placement import check_device
from sklpos.nets.sparse import SparseRows
from sklpos.training.agreement import Described
from sklpos.training.net import ConstrainedNet
from sklpos.training.problem import optimizer_settings

# Where the callbacks of skorch are defined that print or log and do nothing else.
_REPORTS = "skorch.callbacks.logging"


def shared_settings(estimator, data: TrainingData, given: dict) -> dict[str, Any]:
    """Parameters, the form of the data and what follows from both, by name.

    Processes may differ in ``verbose``, in the number of their device and in callbacks
    of skorch that print or log; all but the first may leave out ``random_state``.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    data : TrainingData
    given : dict
        Optional arguments by name, of which it only counts whether they are None.

    Returns
    -------
    dict
    """
    # A subclass may have fewer parameters, but it has all attributes.
    params = {name: getattr(estimator, name) for name in PARAMETERS}
    params |= estimator.get_params(deep=True)
    del params["verbose"]
    if params["random_state"] is None:
        del params["random_state"]
    targets = data.y.shape[1]
    return {
        "the class of estimator": type(estimator),
        **params,
        "callbacks": _steering(estimator.callbacks),
        "device": check_device(estimator.device).type,
        "X": Described(_form_of(data)),
        "y": Described("a vector" if data.y_ndim == 1 else f"{targets} columns"),
        **{
            name: Described("some")
            for name, value in given.items()
            if value is not None
        },
    }


def _form_of(data: TrainingData) -> str:
    names = data.seen.get("feature_names_in_")
    shape = "x".join(map(str, data.X.shape[1:]))
    columns = f"{shape} columns" if names is None else f"columns {list(names)}"
    kind = "sparse " if isinstance(data.X, SparseRows) else ""
    return f"{kind}{columns} of {data.X.dtype}"


def built_parts(net: ConstrainedNet) -> dict[str, Any]:
    """Parts of a new net that each process has built for itself, by name.

    Parameters
    ----------
    net : ConstrainedNet

    Returns
    -------
    dict
    """
    parts = {"module": net.plain_module_, "criterion": net.criterion_}
    return {
        "optimizer": optimizer_settings(net.optimizer_),
        **{
            name: Described(type(part).__name__, dict(part.state_dict()))
            for name, part in parts.items()
        },
    }


def _steering(callbacks: Any) -> list:
    """Callbacks without those that only report."""
    found = []
    for item in callbacks or []:
        callback = item[-1] if isinstance(item, tuple) else item
        kind = callback if isinstance(callback, type) else type(callback)
        if all(base.__module__ != _REPORTS for base in kind.__mro__):
            found.append(item)
    return found
