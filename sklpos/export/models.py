"""Deployment: a fitted model as one ``nn.Sequential``, or as one ONNX file.

Both take the data in its own unit and predict in the unit of y: scalers before the net
are folded into its first layer. Another runtime rounds differently, so a prediction on
a bound may end up beyond it by that rounding. Inputs are not checked: rows that
`predict` refuses, because sums could overflow, may be predicted as NaN.
"""

from __future__ import annotations

import copy
from itertools import dropwhile
from os import PathLike
from typing import Any

import numpy as np
import torch
from sklearn.pipeline import make_pipeline
from torch import Tensor, nn

from sklpos.estimator.affine_steps import is_affine
from sklpos.export.flow import Flow
from sklpos.export.graph import Block, Graph
from sklpos.export.inputs import Inputs
from sklpos.export.layers import is_flatten, write_layers
from sklpos.export.proto import as_proto, check_model, compare, import_or_explain
from sklpos.export.steps import write_steps
from sklpos.export.subject import Subject
from sklpos.export.targets import write_targets
from sklpos.nets.bounded import BoundedModel, as_bounded_model
from sklpos.nets.input_map import InputMap
from sklpos.nets.modules import has_own_forward, layers_of
from sklpos.nets.outputs import BoundedOutput
from sklpos.nets.process import leaves_no_trace

_IDLE = (nn.Identity, nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout)


@leaves_no_trace
def to_torch(model: Any) -> nn.Sequential:
    """Turn a model into a plain ``nn.Sequential`` in the unit of y.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline, search or nn.Module
        Fitted; see `certify` for the steps that a Pipeline may have. A search stands
        for its best estimator. Of a Pipeline with encoders, the chain takes what
        `Certificate.counterexample_` is made of: one feature per category.

    Returns
    -------
    nn.Sequential
        A copy in eval mode, in the dtype and on the device of the net; maps
        (n_samples, n_features) to (n_samples, n_outputs). Nested containers are
        flattened, and dropout is left out. It ends in ``nn.Linear``, or, for
        ``strategy="activation"``, in that activation.

    Raises
    ------
    ValueError
        If a step is not affine; the message names it.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklpos import MLP, PositiveOutputRegressor
    >>> X = torch.arange(20.0).reshape(-1, 1).numpy()
    >>> net = PositiveOutputRegressor(
    ...     MLP, module__hidden_layer_sizes=4, max_epochs=20, random_state=0
    ... )
    >>> to_torch(make_pipeline(StandardScaler(), net).fit(X, X.ravel()))
    Sequential(
      (0): Linear(in_features=1, out_features=4, bias=True)
      (1): ReLU()
      (2): Linear(in_features=4, out_features=1, bias=True)
    )
    """
    return _sequential(as_bounded_model(model))


@leaves_no_trace
def to_onnx(model: Any, path: str | PathLike[str], X: Any = None) -> Any:
    """Write a model, with what comes before it, as one ONNX file.

    The output ``y`` (n_samples, n_outputs) has the dtype of the net; the number of
    samples is free. Affine steps right before the net are folded into its first layer
    if the data have the dtype of the net, so that the graph of a scaled net is ``Gemm``
    and activations and ends in ``Gemm``. With ``strategy="activation"`` it ends in that
    activation.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline, search or nn.Module
        Fitted. The module is ``Stack``, ``MLP`` or ``nn.Sequential`` of Linear,
        BatchNorm1d, Dropout, Identity, ReLU, LeakyReLU, ELU, Sigmoid, Tanh, Softplus,
        SiLU and GELU. A ``TransformedTargetRegressor`` around any of these is
        understood as well.
    path : str or PathLike
    X : array-like or data frame of shape (n_samples, n_features), optional
        Some rows of the data, which decide the inputs of the file: of a data frame,
        each column becomes an input of its own, (n_samples, 1), with its name and
        dtype; text is a tensor of strings. Of an array, one input ``X`` has its dtype.
        By default, there is one input ``X`` in the dtype of the net, or, if a step
        encodes columns of a data frame or selects them by name, one input for each
        column: text where categories are text, and float64 elsewhere. If onnxruntime is
        installed, predictions of these rows are compared with `predict`.

    Returns
    -------
    onnx.ModelProto
        The model that was written.

    Raises
    ------
    ImportError
        If the package onnx is missing, or skl2onnx if a step needs it.
    ValueError
        If a layer or a step cannot be converted; the message names it, and the columns
        of a step. If onnxruntime is installed and does not run the file, or predicts
        something else than `predict`. Nothing is written.

    Notes
    -----
    In float64, activations that onnxruntime has in float32 only (LeakyReLU, ELU,
    Softplus) are written by their formulas, and the error function of GELU is computed
    in float32. Categories that an encoder refuses are predicted as NaN.
    """
    onnx = import_or_explain("onnx")
    subject = Subject.of(model)
    whole = as_bounded_model(subject.regressor)
    _check_rows(whole)
    dtype = next(whole.module.parameters()).detach().cpu().numpy().dtype
    width = subject.n_features or _n_features(_sequential(whole))
    inputs = Inputs.of(subject, X, dtype, width)
    before, bounded = _unfolded(subject, folds=inputs.dtype == dtype)
    net = _sequential(bounded)
    graph = Graph(dtype)
    flow = write_steps(before, inputs.declare(graph), subject.names)
    value = write_layers(graph, _as_net_takes(flow, dtype), net)
    n_outputs = _n_outputs(net, flow.width)
    write_targets(
        subject.targets, Flow(graph, (Block(value, n_outputs, dtype),), dtype)
    )
    made = as_proto(graph, n_outputs)
    check_model(made, graph)
    if X is not None:
        compare(made, inputs.feed(X), np.asarray(model.predict(X)))
    onnx.save_model(made, path)
    return made


def _unfolded(subject: Subject, folds: bool) -> tuple[list, BoundedModel]:
    """Split off the steps that come before the last affine scalers."""
    if not subject.steps:
        return [], as_bounded_model(subject.regressor)
    # Counted from the end: a scaler before another kind of step cannot be folded.
    rest = dropwhile(is_affine, reversed(subject.steps)) if folds else subject.steps
    before = list(rest)[::-1] if folds else list(rest)
    scalers = subject.steps[len(before) :]
    return before, as_bounded_model(make_pipeline(*scalers, subject.regressor))


def _as_net_takes(flow: Flow, dtype: np.dtype) -> str:
    try:
        rows = flow.numbers()
    except ValueError as error:
        raise ValueError(
            f"to_onnx cannot pass all columns to the net: {error}."
        ) from None
    return rows if flow.dtype == dtype else flow.graph.cast(rows, dtype)


def _sequential(model: BoundedModel) -> nn.Sequential:
    """Chain the layers of a module behind its affine scalers."""
    layers = _plain_layers(copy.deepcopy(model.module))
    if _has_features(model):
        layers = list(dropwhile(is_flatten, layers))
    if model.inputs is not None:
        first = layers[0]
        # A hook must still see the scaled inputs, so the scalers get their own layer.
        if type(first) is nn.Linear and not has_own_forward(first):
            layers[0] = _folded(model.inputs, first.weight, first.bias)
        else:
            unit = torch.eye(len(model.inputs.offset))
            unit = unit.to(next(model.module.parameters()))
            layers.insert(0, _folded(model.inputs, unit))
    return nn.Sequential(*layers).eval()


def _n_features(net: nn.Sequential) -> int:
    """Number of inputs of a chain, by its first layer that tells it."""
    widths = (
        getattr(layer, "in_features", None) or getattr(layer, "num_features", None)
        for layer in net
    )
    return next(filter(None, widths))


@torch.no_grad()
def _n_outputs(net: nn.Sequential, n_features: int) -> int:
    return net(next(net.parameters()).new_zeros(1, n_features)).shape[1]


def _plain_layers(module: nn.Module) -> list[nn.Module]:
    layers = [layer for layer, _ in layers_of(module) if not _is_idle(layer)]
    if type(layers[-1]) is BoundedOutput and not has_own_forward(layers[-1]):
        *first, tail = layers
        # The inner module becomes part of the chain; only the activation is left here.
        inner = tail.module
        tail.module = nn.Identity()
        return [*first, *_plain_layers(inner), tail]
    return layers


def _is_idle(layer: nn.Module) -> bool:
    """Whether a layer passes its rows on unchanged."""
    return type(layer) in _IDLE and not has_own_forward(layer)


def _has_features(model: BoundedModel) -> bool:
    """Whether the rows of a model are known to be vectors of features."""
    known = model.input_range is not None and model.input_range.ndim == 2
    return known or model.inputs is not None


def _check_rows(model: BoundedModel) -> None:
    if model.input_range is not None and model.input_range.ndim > 2:
        raise ValueError(
            "to_onnx needs X of shape (n_samples, n_features), but the model was "
            f"trained on rows of shape {model.input_range.shape[1:]}; use "
            "torch.onnx.export on what to_torch returns."
        )


@torch.no_grad()
def _folded(scale: InputMap, weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Make a layer with the scalers inside: computed in float64, rounded once."""
    # To the CPU before float64, which some devices do not have.
    exact = weight.cpu().double()
    start = exact.new_zeros(len(exact)) if bias is None else bias.cpu().double()
    parts = scale.fold(exact, start)
    n_out, n_in = parts[0].shape
    # No initialisation, which would use the global random state for nothing.
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out).to(weight)
    layer.weight.copy_(parts[0])
    layer.bias.copy_(parts[1])
    return layer
