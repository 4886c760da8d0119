"""How well a trained net satisfies the Karush-Kuhn-Tucker conditions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls

from sklpos.nets.any_rows import row_ranks, rows_per_pass, take_rows
from sklpos.nets.head import head_input
from sklpos.nets.precision import full_precision
from sklpos.nets.stack import Stack
from sklpos.training.loaders import BatchLoader
from sklpos.training.step import DivergenceError


@dataclass(frozen=True)
class KKTResiduals:
    """Residuals of the optimality conditions of the training state, in scaled units.

    A domain of the strategy counts like a further row, with the weight of all rows.

    Attributes
    ----------
    stationarity : float
        Norm of the gradient of ``mean(loss + lambda * g)`` over all weights.
    max_violation : float
        Largest ``g`` on the training rows (and domains), at least 0.
    min_multiplier : float
        Smallest multiplier, at most 0; negative entries occur with slack only.
    complementarity : float
        Largest ``|lambda * g|``.

    Examples
    --------
    >>> KKTResiduals(1e-6, 0.0, 0.0, 1e-7).stationarity
    1e-06
    """

    stationarity: float
    max_violation: float
    min_multiplier: float
    complementarity: float


@full_precision()
def evaluate_training_state(net, rows, *, residuals: bool = True):
    """Multipliers of all training rows, the objective and the KKT residuals.

    Parameters
    ----------
    net : ConstrainedNet
    rows : RowDataset
        The rows that it was trained on.
    residuals : bool, default=True

    Returns
    -------
    multipliers : ndarray of shape (n_samples, n_outputs)
        Signed: positive where a lower bound pushes up, negative where an upper one
        pushes down. Mean convention, scaled units; 0 for free outputs.
    objective : float
        Weighted mean loss, in eval mode.
    kkt : KKTResiduals or None
        None without `residuals`.

    Raises
    ------
    DivergenceError
        If the objective is not a finite number.
    """
    net.module_.eval()
    violation, multiplier, objective = _pass(net, rows)
    if not np.isfinite(objective):
        raise DivergenceError(
            f"training diverged: the loss ends at {objective}; lower lr (now {net.lr}) "
            "or alpha, or standardise X."
        )
    if net.strategy_.estimates_multipliers:
        multiplier = torch.as_tensor(_least_squares_multipliers(net, rows, violation))
    kkt = None
    if residuals:
        kkt = _residuals(net, rows, violation, multiplier.to(violation))
    signed = net.constraint_.columns.signed(multiplier.to(violation))
    return signed.cpu().double().numpy(), objective, kkt


def _residuals(net, rows, violation, multiplier) -> KKTResiduals:
    stationarity = _lagrangian_gradient(net, rows, multiplier)
    if net.domain_constraint_ is not None:
        violation = torch.cat([violation, _domains(net)[0].detach()])
        multiplier = torch.cat([multiplier, _domains(net)[1]])
    return KKTResiduals(
        stationarity=stationarity,
        max_violation=_extreme(violation, max),
        min_multiplier=_extreme(multiplier, min),
        complementarity=_extreme((violation * multiplier).abs(), max),
    )


def _extreme(values: torch.Tensor, which) -> float:
    if values.numel() == 0:
        return 0.0
    return which(0.0, float(values.amax() if which is max else values.amin()))


@torch.no_grad()
def _pass(net, rows):
    """Violations and multipliers of all rows, and the objective."""
    # Filled in place, because joining the batches would leave holes in the memory.
    shape = len(rows), len(net.constraint_.columns)
    violations = rows.y.new_empty(shape, device=net.device)
    multipliers, objective = torch.empty_like(violations), 0.0
    for batch in BatchLoader(rows, rows_per_pass(rows.X)):
        y_pred = net.infer(batch.X)
        index = batch.index.to(y_pred.device)
        violations[index] = net.constraint_.columns.violation(y_pred)
        multipliers[index] = net.strategy_.multipliers(violations[index], index)
        mean = float(net.objective(y_pred, batch.y, batch.loss_weight))
        objective += mean * len(y_pred) / len(rows)
    return violations, multipliers, objective


def _lagrangian_gradient(net, rows, multiplier: torch.Tensor) -> float:
    weights = [p for p in net.module_.parameters() if p.requires_grad]
    total = [torch.zeros_like(weight) for weight in weights]
    # Part by part, so that only one graph is in memory at a time.
    for part in _lagrangian(net, rows, multiplier):
        gradient = torch.autograd.grad(part, weights, allow_unused=True)
        for sum_, own in zip(total, gradient, strict=True):
            # A part need not depend on every weight.
            if own is not None:
                sum_ += own
    return float(torch.sqrt(sum((part.cpu().double() ** 2).sum() for part in total)))


def _lagrangian(net, rows, multiplier: torch.Tensor):
    """Yield the parts of ``mean(loss + lambda * g)``: the batches, then the domains."""
    for batch in BatchLoader(rows, rows_per_pass(rows.X)):
        y_pred = net.infer(batch.X)
        violation = net.constraint_.columns.violation(y_pred)
        own = multiplier[batch.index.to(multiplier.device)]
        term = (batch.weight.to(violation.device) * own * violation).sum()
        loss = net.objective(y_pred, batch.y, batch.loss_weight) + term / y_pred.numel()
        yield loss * len(y_pred) / len(rows)
    if net.domain_constraint_ is not None:
        violation, own = _domains(net)
        # The mean is over all outputs, free ones included, as it is for the rows.
        yield (own * violation).sum() / len(net.targets.scale)


def _domains(net) -> tuple[torch.Tensor, torch.Tensor]:
    """Violations of the domains, differentiable, and their multipliers."""
    domain = net.domain_constraint_
    violation = domain.violation(net.plain_module_)
    return violation, domain.strategy.multipliers(violation, domain.index)


def _least_squares_multipliers(net, rows, violation, tolerance=1e-2) -> np.ndarray:
    """Estimate multipliers >= 0 of the active rows from stationarity in the head.

    Minimises ``|| sum_i w_i (dloss_i/df - lambda_i) Phi_i ||`` for each output.
    """
    features, slope = _features_and_slope(net, rows)
    weight = rows.weight.cpu().double().numpy().ravel()
    weighted = features * weight[:, None, None]
    n_outputs = slope.shape[1] // features.shape[1]
    # Training ends near the bound, not on it: rows just inside count as active.
    active = (violation > -tolerance).cpu().numpy()
    estimate = np.zeros(violation.shape)
    for output, row, column, sign in net.constraint_.columns.by_output(active):
        own = weighted[:, output // n_outputs]
        pull = own.T @ slope[:, output]
        estimate[row, column], _ = nnls((sign * own[row]).T, pull)
    for column in np.flatnonzero(active.any(axis=0)):
        near = active[:, column]
        found = estimate[near, column]
        X = take_rows(rows.X, near)
        estimate[near, column] = _shared(found, X, weight[near])
    return estimate


def _shared(multiplier, X, weight) -> np.ndarray:
    """Share multipliers among equal rows, of which only the weighted sum is known."""
    # Least squares may give all of the sum to any one of them.
    group = row_ranks(X.numpy())
    return (np.bincount(group, weight * multiplier) / np.bincount(group, weight))[group]


def _features_and_slope(net, rows):
    """Features of each head of the module, and the slope of the loss in its outputs."""
    features, slopes = [], []
    for batch in BatchLoader(rows, rows_per_pass(rows.X)):
        entering, y_pred = _features_and_outputs(net, batch.X.to(net.device))
        y_pred.requires_grad_()
        # The caller applies the sample weights.
        weight = torch.ones_like(y_pred) if batch.factor is None else batch.factor
        with torch.enable_grad():
            # A sum instead of a mean, so that each gradient is that of its own loss.
            loss = net.objective(y_pred, batch.y, weight) * y_pred.numel()
        slopes.append(torch.autograd.grad(loss, y_pred)[0].cpu().double().numpy())
        features.append(entering.cpu().double().numpy())
    return np.concatenate(features), np.concatenate(slopes)


@torch.no_grad()
def _features_and_outputs(net, X):
    """Features of each head, with a column of ones for a bias, and the outputs."""
    module = net.plain_module_
    if isinstance(module, Stack):
        features, outputs = module.features(X), module(X)
        return _with_ones(features), outputs
    # The plain module, because hooks do not reach compiled code.
    with head_input(module, net.head) as seen:
        outputs = module(X)
    features = seen[0][:, None]
    has_bias = module.get_submodule(net.head).bias is not None
    return _with_ones(features) if has_bias else features, outputs


def _with_ones(features: torch.Tensor) -> torch.Tensor:
    return torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
