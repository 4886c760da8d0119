"""Deployment: a fitted model as one ``nn.Sequential``, or as one ONNX file.

Both take the data in its own unit and predict in the unit of y: scalers before the net
are folded into its first layer. Another runtime rounds differently, so a prediction on
a bound may end up beyond it by that rounding. Inputs are not checked: rows that
`predict` refuses, because sums could overflow, may be predicted as NaN.
"""

from __future__ import annotations

import copy
from importlib import import_module
from itertools import dropwhile
from os import PathLike
from typing import Any

import numpy as np
import torch
from sklearn.pipeline import make_pipeline
from torch import Tensor, nn

from sklpos.estimator.affine_steps import is_affine
from sklpos.estimator.pipelines import split_model
from sklpos.export.onnx_graph import INPUT, OUTPUT, Graph, write_graph
from sklpos.nets.bounded import BoundedModel, as_bounded_model
from sklpos.nets.input_map import InputMap
from sklpos.nets.modules import has_own_forward, layers_of
from sklpos.nets.outputs import BoundedOutput
from sklpos.version import __version__

# The first set of operators with Gelu.
_OPSET = 20
# The file format that came with it: runtimes refuse formats newer than they are.
_IR_VERSION = 9
_IDLE = (nn.Identity, nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout)


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


def to_onnx(model: Any, path: str | PathLike[str]) -> Any:
    """Write a model, with what comes before it, as one ONNX file.

    The input is ``X`` (n_samples, n_features), the output ``y`` (n_samples, n_outputs),
    both in the dtype of the net; the number of samples is free. Affine steps right
    before the net are folded into its first layer, so that the graph of a scaled net is
    ``Gemm`` and activations and ends in ``Gemm``; other steps are converted by
    skl2onnx. With ``strategy="activation"`` it ends in that activation.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline, search or nn.Module
        Fitted. The module is ``MLP`` or ``nn.Sequential`` of Linear, BatchNorm1d,
        Dropout, Identity, ReLU, LeakyReLU, ELU, Sigmoid, Tanh, Softplus, SiLU and GELU.
    path : str or PathLike

    Returns
    -------
    onnx.ModelProto
        The model that was written.

    Raises
    ------
    ImportError
        If the package onnx is missing, or skl2onnx if a step needs it.
    ValueError
        If a layer is not understood; the message names it.

    Notes
    -----
    In float64, activations that onnxruntime has in float32 only (LeakyReLU, ELU,
    Softplus) are written by their formulas, and the error function of GELU is computed
    in float32.
    """
    before, bounded = _without_other_steps(model)
    net = _sequential(bounded)
    graph = write_graph(net)
    made = _as_proto(graph, *_widths(net))
    if before:
        made = _behind(before, made, graph.dtype)
    _import("onnx").save_model(made, path)
    return made


def _without_other_steps(model: Any) -> tuple[list, BoundedModel]:
    """Split off the steps that come before the last affine scalers."""
    if isinstance(model, nn.Module | BoundedModel):
        return [], as_bounded_model(model)
    steps, regressor = split_model(model)
    # Counted from the end: a scaler before another kind of step cannot be folded.
    before = list(dropwhile(is_affine, reversed(steps)))[::-1]
    scalers = steps[len(before) :]
    return before, as_bounded_model(make_pipeline(*scalers, regressor))


def _sequential(model: BoundedModel) -> nn.Sequential:
    """Chain the layers of a module behind its affine scalers."""
    layers = _plain_layers(copy.deepcopy(model.module))
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


@torch.no_grad()
def _widths(net: nn.Sequential) -> tuple[int, int]:
    """Numbers of inputs and outputs of a chain that `write_graph` understands."""
    widths = (
        getattr(layer, "in_features", None) or getattr(layer, "num_features", None)
        for layer in net
    )
    n_features = next(filter(None, widths))
    row = next(net.parameters()).new_zeros(1, n_features)
    return n_features, net(row).shape[1]


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
    flat = type(layer) is nn.Flatten and layer.start_dim == 1
    return (flat or type(layer) in _IDLE) and not has_own_forward(layer)


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


def _as_proto(graph: Graph, n_features: int, n_outputs: int) -> Any:
    onnx = _import("onnx")
    kind = onnx.helper.np_dtype_to_tensor_dtype(graph.dtype)
    X, y = (
        onnx.helper.make_tensor_value_info(name, kind, ["n_samples", width])
        for name, width in ((INPUT, n_features), (OUTPUT, n_outputs))
    )
    nodes = [
        onnx.helper.make_node(node.op_type, node.inputs, [node.output], **node.options)
        for node in graph.nodes
    ]
    constants = [
        onnx.numpy_helper.from_array(value, name)
        for name, value in graph.constants.items()
    ]
    made = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "sklpos", [X], [y], constants),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="sklpos",
        producer_version=__version__,
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def _behind(steps: list, net: Any, dtype: np.dtype) -> Any:
    """Put a net behind steps that are not affine scalers, as one model."""
    onnx = _import("onnx")
    names = ", ".join(type(step).__name__ for step in steps)
    convert = _import("skl2onnx", f"to convert {names}").to_onnx
    rows = np.zeros((1, steps[0].n_features_in_), dtype=dtype)
    opsets = {"": _OPSET, "ai.onnx.ml": 3}
    try:
        first = convert(make_pipeline(*steps), rows, target_opset=opsets)
        # Only models of the same format version can be merged.
        first.ir_version = _IR_VERSION
        # A prefix, as both graphs may use the same names inside.
        second = onnx.compose.add_prefix(net, "net_", rename_outputs=False)
        ends = first.graph.output[0].name, second.graph.input[0].name
        merged = onnx.compose.merge_models(first, second, io_map=[ends])
        onnx.checker.check_model(merged, full_check=True)
    # skl2onnx has many kinds of errors of its own.
    except Exception as error:
        raise ValueError(
            f"skl2onnx cannot convert {names} in {dtype}, the dtype of the net: {error}"
        ) from error
    return merged


def _import(name: str, purpose: str = "") -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ImportError(
            f"to_onnx needs the package {name}{f' {purpose}' if purpose else ''}: "
            "pip install 'sklpos[onnx]'."
        ) from None
