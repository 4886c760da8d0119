"""One training step: the dual step first, then the gradient."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from skorch.utils import to_tensor
from torch import Tensor

from sklpos.nets.precision import full_precision
from sklpos.strategies.gathering import once_per_row
from sklpos.training.backprop import accumulate
from sklpos.training.rows import Batch


class DivergenceError(ValueError):
    """The loss or a weight is no longer a finite number, or the multipliers explode."""


def compute_step(net, batch: Batch, **fit_params) -> dict[str, Any]:
    """Compute predictions, violations and the gradient of a batch, and its loss.

    No graph is built behind the predictions: their gradient is that of the criterion
    plus that of the constraint's term, and goes back through the module.

    Parameters
    ----------
    net : ConstrainedNet
        In training mode, without gradients.
    batch : Batch
        On the device of the net.
    **fit_params : object
        Passed to the module.

    Returns
    -------
    dict
        ``y_pred``; ``violation``; ``losses`` of shape (batch, n_outputs) and ``term``
        of shape (batch, n_columns), not averaged; ``domain_violation`` and
        ``domain_term``, None if the strategy has no domain; ``loss``, None if it is
        not needed before the end of the epoch.
    """
    constraint = net.constraint_
    y_pred = _forward(net, batch, **fit_params)
    outputs = y_pred.detach()
    violation = constraint.columns.violation(outputs)
    domain_violation = None
    if net.domain_constraint_ is not None:
        domain_violation = _domain_violation(net)
    # Before the term, so that the weights feel the multipliers of this violation.
    _make_dual_step(net, batch.index, violation, domain_violation)
    # One of several processes may have no row in the batch.
    share = batch.weight * (1 / max(outputs.numel(), 1))
    term, slope = constraint.strategy.term_and_slope(violation, batch.index)
    slope = constraint.columns.slope_in_outputs(slope)
    losses, gradient = _losses_and_gradient(net, outputs, batch, slope, share)
    step = {
        "loss": None,
        "y_pred": y_pred,
        "violation": violation,
        "losses": losses,
        "term": term,
        "domain_violation": None,
        "domain_term": None,
    }
    if domain_violation is None:
        _backward(net, y_pred, gradient)
    else:
        known = domain_violation.detach()
        term, slope = net.domain_constraint_.term_and_slope(known)
        # One pass for both, where both have a graph.
        if y_pred.requires_grad:
            torch.autograd.backward([y_pred, domain_violation], [gradient, slope])
        else:
            _backward(net, y_pred, gradient)
            domain_violation.backward(slope)
        step |= {"domain_violation": known, "domain_term": term}
    # A callback that looks at batches may keep the gradients of one.
    fresh = net.steps_.need_losses
    net.run_.world.average_gradients(net.module_, net.criterion_, fresh=fresh)
    if net.steps_.need_losses:
        step["loss"] = net.run_.world.mean(_loss(step, share))
    return step


def loss_per_output(net, y_pred: Tensor, y_true: Tensor) -> Tensor:
    """Loss of each prediction.

    The criterion may couple the outputs, so it sees those of one member of a `Stack`
    at a time: as a row of their own.

    Parameters
    ----------
    net : ConstrainedNet
    y_pred, y_true : torch.Tensor of shape (batch, n_members * n_outputs)

    Returns
    -------
    torch.Tensor of shape (batch, n_members * n_outputs)

    Raises
    ------
    ValueError
        If the criterion returns something of another shape.
    """
    y_true = to_tensor(y_true, device=net.device)
    rows = y_pred.reshape(-1, len(net.targets.scale))
    loss = net.criterion_(rows, y_true.reshape(rows.shape))
    if loss.shape != rows.shape:
        raise ValueError(
            f"criterion={net.criterion!r} must return one loss per row and "
            f"output, of shape {tuple(rows.shape)}; it returned one of shape "
            f"{tuple(loss.shape)}."
        )
    return loss.reshape(y_pred.shape)


def _forward(net, batch: Batch, **fit_params) -> Tensor:
    if net.steps_.passes is None or fit_params:
        return _forward_with_graph(net, batch, **fit_params)
    X, index = batch.X.to(net.device), batch.index.to(net.device)
    return net.steps_.passes.forward(X, index)


def _forward_with_graph(net, batch: Batch, **fit_params) -> Tensor:
    with _precision(net):
        y_pred = net.infer(batch.X, **fit_params)
    # The loss and the multipliers need the digits of the weights.
    return y_pred.to(batch.y.dtype)


def _precision(net) -> AbstractContextManager:
    """Autocast, if the net is asked for it or the caller uses it."""
    kind = torch.device(net.device).type
    if net.autocast is not None:
        dtype = getattr(torch, net.autocast)
    elif torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    else:
        return nullcontext()
    # The autocast of a caller would keep its first copies of the weights, which the
    # optimizer changes, for the whole of the training.
    return torch.autocast(kind, dtype=dtype, cache_enabled=False)


@full_precision()
def _domain_violation(net) -> Tensor:
    return net.domain_constraint_.violation(net.plain_module_)


def _make_dual_step(net, index: Tensor, violation: Tensor, domain: Tensor | None):
    """Let the callbacks move the multipliers, once per batch."""
    if not net.steps_.dual_step_due:
        return
    net.steps_.dual_step_due = False
    # The mean of its violations moves a row that a sampler drew several times.
    if net.steps_.may_repeat:
        violation, index = once_per_row(violation, index)
    for listener in net.listeners("on_violation"):
        listener(net, violation, index)
    if domain is not None:
        for listener in net.listeners("on_domain_violation"):
            listener(net, domain.detach())


def _losses_and_gradient(
    net, outputs: Tensor, batch: Batch, slope: Tensor, share: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss of each prediction, and the gradient of loss and term in the outputs.

    `slope` is that of the term in the outputs, `share` the part of each row in the
    mean.
    """
    # The closed form saves a pass of autograd. A subclass may compute something else.
    if type(net.criterion_) is torch.nn.MSELoss:
        residual = outputs - batch.y
        pull = residual if batch.factor is None else batch.factor * residual
        return residual * pull, torch.add(slope, pull, alpha=2) * share
    outputs.requires_grad_()
    losses = loss_per_output(net, outputs, batch.y)
    if batch.factor is not None:
        losses = batch.factor * losses
    # A criterion may have weights of its own, which train as well.
    weights = [weight for weight in net.criterion_.parameters() if weight.requires_grad]
    gradient, *others = torch.autograd.grad((share * losses).sum(), [outputs, *weights])
    for weight, own in zip(weights, others, strict=True):
        accumulate(weight, own)
    return losses.detach(), gradient + slope * share


def _loss(step: dict[str, Any], share: Tensor) -> Tensor:
    loss = (share * step["losses"]).sum() + (share * step["term"]).sum()
    return loss if step["domain_term"] is None else loss + step["domain_term"]


def _backward(net, y_pred: Tensor, gradient: Tensor) -> None:
    if y_pred.requires_grad:
        y_pred.backward(gradient)
    elif net.steps_.passes is not None:
        net.steps_.passes.backward(gradient)
    else:
        raise ValueError(
            "module returns predictions without a gradient in any weight; leave out "
            "detach(), .data and torch.no_grad() in its forward, and let some weight "
            "train."
        )
