"""Files of earlier states of the package: what they call otherwise, or do not know.

The table is by name, since the classes lie in rooms above this one, too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from sklpos.certificates.subject import Subject
from sklpos.nets.bounds import Bounds
from sklpos.nets.stack import Stack
from sklpos.strategies.columns import OutputColumns

#: Full names of classes that have moved: earlier -> present.
MOVED = {
    "sklpos.strategies.architecture.NonnegativeLinear": (
        "sklpos.nets.nonnegative.NonnegativeLinear"
    ),
    "sklpos.repair.nearest.HeadObjective": "sklpos.repair.objective.HeadObjective",
    "sklpos.nets.stack.Members": "sklpos.nets.members.Members",
    "sklpos.training.rows.BatchLoader": "sklpos.training.loaders.BatchLoader",
}


def upgraded(cls: type, state: dict[str, Any]) -> dict[str, Any]:
    """Bring the attributes of a stored object up to date.

    Parameters
    ----------
    cls : type
        Class of the object.
    state : dict
        Its attributes, unpacked; those of the present package stay as they are.

    Returns
    -------
    dict
    """
    for base in cls.__mro__:
        upgrade = _UPGRADES.get(f"{base.__module__}.{base.__qualname__}")
        if upgrade is not None:
            return upgrade(state)
    return state


def _both_bounds(state: dict) -> dict:
    if "bounds" in state:
        return state
    lower = np.asarray(state["lower_bound"])
    bounds = Bounds(lower, np.full_like(lower, np.inf))
    others = {name: value for name, value in state.items() if name != "lower_bound"}
    return {**others, "bounds": bounds}


def _columns(state: dict) -> dict:
    if "unit_scale" not in state:
        return state
    output, bound, scale = (
        state["_buffers"][name] for name in ("output", "bound", "scale")
    )
    lower = np.full(state["n_outputs"], -np.inf)
    lower[output.numpy()] = bound.numpy()
    # The scale of a free output has no column.
    whole = torch.ones(len(lower), dtype=scale.dtype)
    whole[output] = scale
    return vars(OutputColumns(Bounds.read(lower, None, len(lower)), whole))


def _bounded_output(state: dict) -> dict:
    if "has_free" not in state:
        return state
    buffers = dict(state["_buffers"])
    bounded = buffers.pop("bounded")
    one_sided = {"one_sided": bounded, **_only_below(bounded, buffers["scale"])}
    one_sided["gain"] = one_sided["sign"]
    mark = "one_sided" if state["has_free"] else ""
    return {
        **{name: value for name, value in state.items() if name != "has_free"},
        "has_gain": False,
        "pieces": ((state["function"], mark),) if bounded.any() else (),
        "_buffers": buffers | one_sided,
    }


def _nonnegative_linear(state: dict) -> dict:
    buffers = state["_buffers"]
    if "sign" in buffers:
        return state
    ones = torch.ones_like(buffers["offset"])
    added = _only_below(buffers["bounded"], ones) | {"width": ones}
    flags = {"has_two_sided": False, "only_rises": True}
    return state | flags | {"_buffers": buffers | added}


def _only_below(bounded: torch.Tensor, like: torch.Tensor) -> dict:
    """Buffers of a layer that has no upper bounds."""
    return {"two_sided": torch.zeros_like(bounded), "sign": torch.ones_like(like)}


def _row_summary(state: dict) -> dict:
    return {"below_rate": state["violation_rate"], **state}


def _estimator(state: dict) -> dict:
    # Parameters that are new, with their defaults.
    state = {"upper_bound": None, "on_interrupt": "warn", **state}
    names = state.keys() & {"n_features_in_", "feature_names_in_"}
    if names:
        seen = {name: state.pop(name) for name in names}
        state["fitted_"] = replace(state["fitted_"], seen=seen)
    if "on_violated_y" in state:
        return state
    renamed = {"on_violated_y": state["on_negative_y"], "on_negative_y": "deprecated"}
    return {**state, **renamed}


def _fit(state: dict) -> dict:
    state = {"seen": {}, **state}
    if "input_range" not in state:
        made = state["ending"]
        others = {name: value for name, value in state.items() if name != "ending"}
        state = {**others, "finished": made, "input_range": made.model.input_range}
    module = state["net"].plain_module_
    if not isinstance(module, Stack) or hasattr(module, "gain"):
        return state
    # Its members see other inputs, so what they learned is of no use for more epochs.
    # A warm start refuses a module that differs from the one that was given.
    return {**state, "built_in": {**state["built_in"], "module": None}}


def _ending(state: dict) -> dict:
    if "subject" in state:
        return state
    # Its model was not recorded, so it is taken as it comes.
    subject = Subject(state["model"])
    certificate = state["certificate"]
    if certificate is not None:
        certificate = replace(certificate, subject_=subject)
    return {**state, "certificate": certificate, "subject": subject}


def _constrained_net(state: dict) -> dict:
    return {"autocast": None, "cuda_graph": False, **state}


_UPGRADES = {
    "sklpos.estimator.endings.Ending": _ending,
    "sklpos.estimator.fit.Fit": _fit,
    "sklpos.nets.units.TargetScale": _both_bounds,
    "sklpos.nets.bounded.BoundedModel": _both_bounds,
    "sklpos.nets.outputs.BoundedOutput": _bounded_output,
    "sklpos.nets.nonnegative.NonnegativeLinear": _nonnegative_linear,
    "sklpos.strategies.columns.OutputColumns": _columns,
    "sklpos.training.net.ConstrainedNet": _constrained_net,
    "sklpos.estimator.row_summary.RowSummary": _row_summary,
    "sklpos.estimator.regressor.PositiveOutputRegressor": _estimator,
}
