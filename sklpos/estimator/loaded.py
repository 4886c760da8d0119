"""Checks of an estimator that was loaded: its parts must fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklpos.certificates.certificate import Certificate
from sklpos.certificates.subject import Subject
from sklpos.estimator.fit import Fit
from sklpos.estimator.row_summary import RowSummary
from sklpos.nets.bounded import BoundedModel
from sklpos.nets.bounds import Bounds
from sklpos.nets.units import TargetScale
from sklpos.training.names import is_usual
from sklpos.training.net import ConstrainedNet
from sklpos.training.schema import brief, check_value

# Attributes of a `TargetScale` that have one number per output.
_PER_OUTPUT = ("shift", "scale", "mean", "deviation")


def check_loaded(estimator) -> None:
    """Raise unless an estimator can be used: its parameters, and what it has learned.

    A file may come from anywhere. What is wrong in it must be found when it is loaded,
    and not in a prediction.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
        With all its attributes.

    Raises
    ------
    ValueError
    """
    attributes = vars(estimator)
    for name in (*type(estimator)._get_param_names(), "_net_params"):
        if name not in attributes:
            raise ValueError(f"parameter {name!r} is missing.")
    check_value("_net_params", attributes["_net_params"], dict)
    for name in attributes["_net_params"]:
        check_value("a name in _net_params", name, str)
    if "fitted_" in attributes:
        check_value("fitted_", attributes["fitted_"], Fit)
        _check_fit(attributes["fitted_"])
        _check_features(estimator)


def _check_fit(fit: Fit) -> None:
    if not fit.net.initialized_:
        raise ValueError("the net is not initialised.")
    n_outputs = len(np.atleast_1d(fit.net.targets.scale))
    _check_targets(fit.net.targets, n_outputs)
    _check_numbers("multipliers", fit.multipliers, (None, n_outputs))
    _check_numbers("input_range", fit.input_range, (2, *fit.input_range.shape[1:]))
    if fit.y_ndim not in (1, 2) or (fit.y_ndim == 1) > (n_outputs == 1):
        raise ValueError(f"'y_ndim' is {fit.y_ndim}, with {n_outputs} outputs.")
    # An earlier module that only predicts, see `upgraded`.
    if fit.built_in.get("module", fit) is not None:
        _check_net(fit.net, fit.input_range, n_outputs)
    for summary in fit.training or ():
        _check_summary(summary, n_outputs)
    if fit.finished is not None:
        check_value("subject", fit.finished.subject, Subject)
        check_value("digests", vars(fit.finished.subject).get("digests"), dict)
        _check_model(fit.finished.model, fit, n_outputs)
        if fit.finished.certificate is not None:
            _check_certificate(fit.finished.certificate, n_outputs)


def _check_features(estimator) -> None:
    shape = estimator.fitted_.input_range.shape
    if len(shape) != 2:
        return
    number = getattr(estimator, "n_features_in_", None)
    check_value("n_features_in_", number, int)
    if number != shape[1]:
        raise ValueError(
            f"'n_features_in_' is {number}, with {shape[1]} features in 'input_range'."
        )
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None and np.shape(names) != (shape[1],):
        raise ValueError(f"'feature_names_in_' is {brief(names)}.")


def _check_targets(targets: TargetScale, n_outputs: int) -> None:
    for name in _PER_OUTPUT:
        value = getattr(targets, name)
        if value is not None:
            _check_numbers(name, value, (n_outputs,))
    if not (targets.scale > 0).all():
        raise ValueError("'scale' is not positive.")
    _check_bounds(targets.bounds, n_outputs)


def _check_bounds(bounds: Bounds, n_outputs: int) -> None:
    for side in (bounds.lower, bounds.upper):
        _check_numbers("a bound", side, (n_outputs,), finite=False)
    Bounds.read(bounds.lower, bounds.upper, n_outputs)
    if not 1 <= bounds.n_ordered <= n_outputs:
        raise ValueError(f"'n_ordered' is {bounds.n_ordered}.")


def _check_summary(summary: RowSummary | None, n_outputs: int) -> None:
    if summary is None:
        return
    for name in ("violation_rate", "below_rate", "above_rate"):
        rate = getattr(summary, name)
        # NaN where nothing was counted.
        if rate < 0 or rate > 1:
            raise ValueError(f"{name!r} is {brief(rate)}, not a share.")
    for name in ("max_violation", "rmse"):
        value = getattr(summary, name)
        if value is not None:
            _check_shape(name, value, (n_outputs,))


def _check_certificate(found: Certificate, n_outputs: int) -> None:
    for name in ("proved", "attained", "required"):
        for side in ("min", "max"):
            value = getattr(found, f"{name}_{side}_")
            _check_numbers(f"{name}_{side}_", value, (n_outputs,), finite=False)


def _check_numbers(name: str, values: Any, shape: tuple, *, finite=True) -> None:
    """Check that an array has a shape, and real numbers, perhaps infinite ones."""
    _check_shape(name, values, shape)
    if np.isnan(values).any() or (finite and np.isinf(values).any()):
        raise ValueError(f"{name!r} holds NaN or infinity.")


def _check_shape(name: str, values: Any, shape: tuple) -> None:
    fits = len(values.shape) == len(shape) and all(
        wanted in (None, n) for n, wanted in zip(values.shape, shape, strict=True)
    )
    if not fits or values.dtype.kind != "f":
        wanted = tuple("any" if n is None else n for n in shape)
        raise ValueError(f"{name!r} is {brief(values)}, not of floats of {wanted}.")


def _check_model(model: BoundedModel, fit: Fit, n_outputs: int) -> None:
    _check_bounds(model.bounds, n_outputs)
    if not np.array_equal(model.bounds.sides, fit.net.targets.bounds.sides):
        raise ValueError("the model has other bounds than the net.")
    _check_numbers("scale", model.scale, (n_outputs,))
    if model.extreme_rows is not None:
        shape = (None, *fit.input_range.shape[1:])
        _check_numbers("extreme_rows", model.extreme_rows, shape)
    if fit.net.strategy_.needs_head:
        _check_head(model.module, model.head, n_outputs)
    columns = _try(model.module, fit.input_range)
    if columns not in (None, n_outputs):
        raise ValueError(f"the model has {columns} outputs, not {n_outputs}.")


def _check_net(net: ConstrainedNet, input_range: np.ndarray, n_outputs: int) -> None:
    module, constraint = net.plain_module_, net.constraint_
    if net.strategy_.needs_head:
        _check_head(module, net.head, None)
    columns = _try(module, input_range)
    n_columns = constraint.columns.n_outputs
    if columns not in (None, n_columns) or n_columns % n_outputs:
        raise ValueError(f"the net has {columns} outputs, its constraint {n_columns}.")


def _check_head(module: nn.Module, head: str | None, n_outputs: int | None) -> None:
    if head is None:
        return
    layer = module.get_submodule(head)
    if not hasattr(layer, "weight") or n_outputs not in (None, len(layer.weight)):
        raise ValueError(f"'head' is {brief(head)}, which is no such layer.")


@torch.no_grad()
def _try(module: nn.Module, input_range: np.ndarray) -> int | None:
    """Number of outputs of a module, or None for one of the user's own.

    Its code may need what is not there when a file is loaded.
    """
    if not all(is_usual(type(layer)) for layer in module.modules()):
        return None
    weight = next(module.parameters())
    rows = torch.as_tensor(input_range, dtype=weight.dtype, device=weight.device)
    modes = [(layer, layer.training) for layer in module.modules()]
    try:
        outputs = module.eval()(rows)
    finally:
        for layer, mode in modes:
            layer.training = mode
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        raise ValueError("the module does not return floating-point numbers.")
    if outputs.ndim == 1:
        return 1
    if outputs.ndim != 2 or len(outputs) != len(rows):
        raise ValueError(f"the module returns shape {tuple(outputs.shape)} for 2 rows.")
    return outputs.shape[1]
