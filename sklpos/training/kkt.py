"""How well a trained net satisfies the Karush-Kuhn-Tucker conditions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from sklpos.nets.any_rows import row_ranks, take_rows
from sklpos.nets.head import head_input
from sklpos.nets.placement import fetched, has_float64
from sklpos.nets.precision import full_precision
from sklpos.nets.rows import rows_per_forward
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
    estimated = net.strategy_.estimates_multipliers
    # One pass does it all, unless the multipliers follow from the violations of all.
    weights = _weights(net) if residuals and not estimated else []
    violation, multiplier, objective, gradient = _pass(net, rows, weights)
    if not np.isfinite(objective):
        raise DivergenceError(
            f"training diverged: the loss ends at {objective}; lower lr (now {net.lr}) "
            "or alpha, or standardise X."
        )
    if estimated:
        found = _least_squares_multipliers(net, rows, violation)
        multiplier = torch.as_tensor(found).to(violation)
        if residuals:
            gradient = _pass(net, rows, _weights(net), multiplier)[-1]
    kkt = _residuals(net, violation, multiplier, gradient) if residuals else None
    signed = net.constraint_.columns.signed(multiplier)
    # All of them are as long as the data.
    del violation, multiplier
    return signed.cpu().double().numpy(), objective, kkt


def _weights(net) -> list[Tensor]:
    return [weight for weight in net.module_.parameters() if weight.requires_grad]


def _residuals(net, violation, multiplier, gradient) -> KKTResiduals:
    if net.domain_constraint_ is not None:
        found, own = _domains(net)
        # The mean is over all outputs, free ones included, as it is for the rows.
        _add_gradient((own * found).sum() / len(net.targets.scale), gradient)
        violation = torch.cat([violation, found.detach()])
        multiplier = torch.cat([multiplier, own])
    # Zeros count as well: there may be no columns.
    zero = violation.new_zeros(1)
    violation, multiplier = (
        torch.cat([zero, part.ravel()]) for part in (violation, multiplier)
    )
    slack = (violation * multiplier).abs()
    extremes = violation.amax(), multiplier.amin(), slack.amax()
    largest, smallest, slack, *sums = fetched(*extremes, *gradient.values())
    # In float64, which not every device has.
    squares = [(part.double() ** 2).sum() for part in sums]
    return KKTResiduals(
        stationarity=float(torch.sqrt(sum(squares))),
        max_violation=float(largest),
        min_multiplier=float(smallest),
        complementarity=float(slack),
    )


def _pass(net, rows, weights: list[Tensor], multiplier: Tensor | None = None):
    """Violations and multipliers of all rows, the objective, and a gradient.

    That of ``mean(loss + lambda * g)`` with respect to weights, whose multipliers are
    those of the strategy, unless others are given.
    """
    # Filled in place, because joining the batches would leave holes in the memory.
    shape = len(rows), len(net.constraint_.columns)
    violations = rows.y.new_empty(shape, device=net.device)
    multipliers = torch.empty_like(violations)
    loader = BatchLoader(rows, rows_per_forward(net.module_, rows.X))
    means = violations.new_empty(len(loader))
    shares = []
    gradient = {weight: torch.zeros_like(weight) for weight in weights}
    for number, batch in enumerate(loader):
        with torch.set_grad_enabled(bool(weights)):
            y_pred = net.infer(batch.X)
            violation = net.constraint_.columns.violation(y_pred)
            loss = net.objective(y_pred, batch.y, batch.loss_weight)
        index = batch.index.to(y_pred.device)
        violations[index] = violation.detach()
        if multiplier is None:
            own = net.strategy_.multipliers(violation.detach(), index)
        else:
            own = multiplier[index]
        multipliers[index] = own
        means[number] = loss.detach()
        shares.append(len(y_pred) / len(rows))
        # Batch by batch, so that only one graph is in memory at a time.
        if weights:
            factor = batch.weight.to(violation.device) * own
            term = (factor * violation).sum() / y_pred.numel()
            _add_gradient((loss + term) * len(y_pred) / len(rows), gradient)
    (means,) = fetched(means)
    objective = sum(m * share for m, share in zip(means.tolist(), shares, strict=True))
    return violations, multipliers, objective, gradient


def _add_gradient(part: Tensor, gradient: dict[Tensor, Tensor]) -> None:
    found = torch.autograd.grad(part, list(gradient), allow_unused=True)
    for total, own in zip(gradient.values(), found, strict=True):
        # A part need not depend on every weight.
        if own is not None:
            total += own


def _domains(net) -> tuple[torch.Tensor, torch.Tensor]:
    """Violations of the domains, differentiable, and their multipliers."""
    domain = net.domain_constraint_
    violation = domain.violation(net.plain_module_)
    return violation, domain.strategy.multipliers(violation, domain.index)


def _least_squares_multipliers(net, rows, violation, tolerance=1e-2) -> np.ndarray:
    """Estimate multipliers >= 0 of the active rows from stationarity in the head.

    Minimises ``|| sum_i w_i (dloss_i/df - lambda_i) Phi_i ||`` for each output.
    """
    # Training ends near the bound, not on it: rows just inside count as active.
    active = violation > -tolerance
    near = active.any(1)
    found = fetched(active, near, rows.weight, *_pulls_and_features(net, rows, near))
    active, near, weight, pulls, features = (part.numpy() for part in found)
    weight = weight.astype(np.float64).ravel()
    # Of each row, among those near a bound.
    place = np.cumsum(near) - 1
    estimate = np.zeros(violation.shape)
    for output, row, column, sign in net.constraint_.columns.by_output(active):
        head, own = divmod(output, pulls.shape[1])
        system = sign * features[place[row], head]
        estimate[row, column], _ = nnls(system.T, pulls[head, own])
    for column in np.flatnonzero(active.any(axis=0)):
        near = active[:, column]
        found = estimate[near, column]
        X = take_rows(rows.X, near)
        estimate[near, column] = _shared(found, X, weight[near])
    return estimate


def _shared(multiplier, X, weight) -> np.ndarray:
    """Share multipliers among equal rows, of which only the weighted sum is known."""
    # Least squares may give all of the sum to any one of them.
    # Sparse rows are never on a device.
    group = row_ranks(X.cpu().numpy() if isinstance(X, Tensor) else X.numpy())
    return (np.bincount(group, weight * multiplier) / np.bincount(group, weight))[group]


def _pulls_and_features(net, rows, near: Tensor) -> tuple[Tensor, Tensor]:
    """Pull of the loss on each head, and weighted features of the rows that are near.

    Of shapes (n_heads, n_outputs, d1) and (n_near, n_heads, d1), in float64.
    """
    # Where the features are, unless that has no float64.
    place = near.device if has_float64(near.device) else torch.device("cpu")
    pulls, features = [], []
    for batch in BatchLoader(rows, rows_per_forward(net.module_, rows.X)):
        entering, y_pred = _features_and_outputs(net, batch.X.to(net.device))
        y_pred.requires_grad_()
        # The caller applies the sample weights.
        weight = torch.ones_like(y_pred) if batch.factor is None else batch.factor
        with torch.enable_grad():
            # A sum instead of a mean, so that each gradient is that of its own loss.
            loss = net.objective(y_pred, batch.y, weight) * y_pred.numel()
        slope = torch.autograd.grad(loss, y_pred)[0]
        parts = (part.to(place).double() for part in (entering, slope, batch.weight))
        entering, slope, weight = parts
        weighted = entering * weight[..., None]
        slope = slope.unflatten(1, (weighted.shape[1], -1))
        pulls.append(torch.einsum("rhd,rho->hod", weighted, slope))
        features.append(weighted[near[batch.index].to(place)])
    return sum(pulls), torch.cat(features)


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
