"""Which nets can train together."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Adam, AdamW

from sklpos.certificates.digests import digests_of_module
from sklpos.nets.batch_norm import norm_over_rows
from sklpos.nets.stack import Stack
from sklpos.training.contents import content_digest
from sklpos.training.rows import RowDataset

# Settings of an optimizer that may differ from net to net.
_OWN_SETTINGS = {"params", "lr", "initial_lr", "weight_decay"}
# Settings that choose another arithmetic.
_MUST_BE_OFF = ("amsgrad", "maximize", "differentiable", "capturable")


def why_alone(net: Any, rows: RowDataset) -> tuple[str, str] | None:
    """Why a net can only train alone.

    Parameters
    ----------
    net : ConstrainedNet
        New.
    rows : RowDataset
        Its training rows.

    Returns
    -------
    (str, str) or None
        The name of a parameter of the estimator, and a reason.
    """
    module = net.plain_module_
    if isinstance(module, Stack):
        return "module", "a Stack is batched by itself, and two are no faster together"
    if not isinstance(rows.X, Tensor):
        return "X", "its rows are sparse, or read item by item"
    if net.domain_constraint_ is not None:
        return "strategy", "it needs the bounds of one net on a whole domain"
    if type(net.optimizer_) not in (Adam, AdamW):
        return "optimizer", "only Adam and AdamW step several nets at once"
    for name in _MUST_BE_OFF:
        if any(group.get(name) for group in net.optimizer_.param_groups):
            return f"optimizer__{name}", "the joint step of Adam has no such option"
    if net.stochastic:
        return "module", "it draws random numbers, such as those of dropout"
    layer = norm_over_rows(module, rows[[0]].X)
    if layer is not None:
        return "module", f"{layer} takes its statistics from the batches of one net"
    if net.may_be_infeasible:
        return "lower_bound", "a head without bias may be unable to obey it"
    if any(weight.requires_grad for weight in net.criterion_.parameters()):
        return "criterion", "it has weights of its own to train"
    return None


def kind_of(net: Any, rows: RowDataset) -> str:
    """What nets must have in common to train together.

    Parameters
    ----------
    net : ConstrainedNet
        New.
    rows : RowDataset
        Its training rows.

    Returns
    -------
    str
        Equal for nets that differ in numbers only: in their weights, rows and bounds,
        in ``alpha``, and in the learning rate and the decay of the optimizer.
    """
    strategy, columns = net.strategy_, net.constraint_.columns
    tensors = _tensors(net.plain_module_)
    digests = digests_of_module(net.plain_module_)
    state = net.constraint_.state.named_buffers()
    parts = {
        "layers": [digests["layers"], digests["hooks"]],
        "tensors": [(name, *_form(tensor)) for name, tensor in tensors],
        "optimizer": [type(net.optimizer_), _settings(net)],
        "criterion": net.criterion_,
        "strategy": [type(strategy), strategy.get_params()],
        "columns": [digests_of_module(columns)["layers"], columns.output],
        "state": [(name, value.ndim) for name, value in state],
        "steps": [net.batch_size, net.max_epochs],
        "rows": [rows.X.shape[1:], *_form(rows.y[:0])],
    }
    return content_digest(parts)


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _form(tensor: Tensor) -> tuple:
    return tuple(tensor.shape), str(tensor.dtype), tensor.requires_grad


def _settings(net: Any) -> list:
    names = {weight: name for name, weight in net.plain_module_.named_parameters()}
    return [
        [
            [names[weight] for weight in group["params"]],
            {k: v for k, v in group.items() if k not in _OWN_SETTINGS},
        ]
        for group in net.optimizer_.param_groups
    ]
