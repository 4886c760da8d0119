"""Certify a module: cheap bounds, an attack, then a complete method."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from sklpos.certificates.bounds.network import Network, read_network, refuse_hooks
from sklpos.certificates.certificate import Certificate
from sklpos.certificates.domains.shapes import All, Ball, Domain
from sklpos.certificates.goal import Goal
from sklpos.certificates.proof import Predict, Proof
from sklpos.nets.outputs import BoundedOutput

METHODS = ("auto", "interval", "crown", "alpha_crown", "branch_and_bound", "milp")


def certify_module(
    module: nn.Module,
    domain: Domain,
    *,
    lower_bound: ArrayLike = 0.0,
    scale: ArrayLike = 1.0,
    method: str = "auto",
    time_limit: float = 60.0,
    tolerance: float | None = None,
    seed: int = 0,
) -> Certificate:
    """Prove or disprove that a module stays above its bound.

    `method` "auto" takes interval bounds, CROWN, projected gradient descent to find a
    counterexample, and then, where still undecided, branch and bound; integer
    programming (see `milp_minimum`) on networks of ReLU alone with more than 8
    features. The other methods stop at their own step. Before the complete methods,
    "alpha_crown" saved less time than it took, so it is a method of its own: tighter
    than CROWN, in a time that is known beforehand.

    Parameters
    ----------
    module : nn.Module
        In eval mode, with outputs in the unit of y; see `read_network` for what is
        understood. A module behind an output activation of this package is certified
        as such, over any domain.
    domain : Domain
    lower_bound : float or array-like of shape (n_outputs,), default=0.0
        Unit of y; ``-inf`` leaves an output free.
    scale : float or array-like of shape (n_outputs,), default=1.0
        Size of the outputs, such as the standard deviation of y.
    method : {"auto", "interval", "crown", "alpha_crown", "branch_and_bound", "milp"}
    time_limit : float, default=60.0
        Seconds. What is proved by then is reported.
    tolerance : float, optional
        Go on until the gap between `lower_bound_` and `upper_bound_` is this many
        scales. By default, stop as soon as the question is decided.
    seed : int, default=0
        Of the attack.

    Returns
    -------
    Certificate

    Raises
    ------
    ValueError
        If the module or the domain is not understood.

    Examples
    --------
    >>> import torch
    >>> from sklpos.certificates import Box
    >>> module = torch.nn.Linear(1, 1).double()
    >>> _ = torch.nn.init.ones_(module.weight), torch.nn.init.ones_(module.bias)
    >>> certify_module(module, Box([0.0], [1.0])).status_
    'verified'
    """
    _check_method(method)
    predict = partial(predict_exactly, module)
    if type(module) is BoundedOutput:
        return certify_bounded(module, domain, lower_bound, predict)
    return certify_network(
        read_network(module),
        domain,
        predict,
        lower_bound=lower_bound,
        scale=scale,
        method=method,
        time_limit=time_limit,
        tolerance=tolerance,
        seed=seed,
    )


def certify_network(
    network: Network,
    domain: Domain,
    predict: Predict,
    *,
    lower_bound: ArrayLike = 0.0,
    scale: ArrayLike = 1.0,
    method: str = "auto",
    time_limit: float = 60.0,
    tolerance: float | None = None,
    seed: int = 0,
) -> Certificate:
    """Prove or disprove that what computes a network stays above its bound.

    Parameters
    ----------
    network : Network
    domain : Domain
    predict : callable
        Maps (n_samples, n_features) to (n_samples, n_outputs) as the model does,
        rounding and all.
    lower_bound, scale, method, time_limit, tolerance, seed
        As in `certify_module`.

    Returns
    -------
    Certificate
    """
    _check_method(method)
    begun = time.monotonic()
    domain.check_features(network.n_features)
    goal = Goal(
        required=_as_outputs(lower_bound, "lower_bound", network.n_outputs),
        scale=_as_outputs(scale, "scale", network.n_outputs),
        tolerance=tolerance,
        deadline=begun + time_limit,
        seed=seed,
    )
    proof = Proof(predict, network, domain, goal)
    if isinstance(domain, All):
        proof.everywhere()
    else:
        proof.run(method)
    return proof.certificate(begun)


@torch.no_grad()
def predict_exactly(module: nn.Module, X: NDArray) -> NDArray:
    """Return outputs in the module's own dtype, as float64.

    Parameters
    ----------
    module : nn.Module
    X : ndarray of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)
    """
    weight = next(module.parameters())
    rows = torch.as_tensor(X, dtype=torch.float64).to(weight.dtype)
    return module(rows.to(weight.device)).cpu().double().numpy()


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; choose one of {METHODS}.")


def _as_outputs(values: ArrayLike, name: str, n_outputs: int) -> NDArray:
    array = np.array(values, dtype=np.float64)
    if array.shape not in ((), (1,), (n_outputs,)) or np.isnan(array).any():
        raise ValueError(f"{name}={values!r} must be a number or {n_outputs} of them.")
    return np.broadcast_to(array, (n_outputs,)).copy()


def certify_bounded(
    module: BoundedOutput, domain: Domain, lower_bound: ArrayLike, predict: Predict
) -> Certificate:
    """Certify by construction: ``offset + scale * act`` with ``act >= 0``.

    Parameters
    ----------
    module : BoundedOutput
    domain : Domain
    lower_bound : float or array-like of shape (n_outputs,)
    predict : callable
        As in `certify_network`.

    Returns
    -------
    Certificate
    """
    begun = time.monotonic()
    refuse_hooks(module)
    holds = module.bounded & (module.scale >= 0) & torch.isfinite(module.scale)
    lower = torch.where(holds, module.offset, -torch.inf).cpu().double().numpy()
    required = _as_outputs(lower_bound, "lower_bound", len(lower))
    region = domain.region()
    points = region.candidates(torch.zeros_like(region.low))[0].numpy()
    status = "verified" if (lower >= required).all() else "unknown"
    return Certificate(
        status_=status,
        lower_bound_=lower,
        upper_bound_=predict(np.nan_to_num(points)).min(axis=0),
        counterexample_=None,
        required_=required,
        domain_=domain,
        method_="output activation",
        n_boxes_=0,
        time_=time.monotonic() - begun,
        numerical_slack_=np.zeros_like(lower),
        assumptions_=("no overflow",),
        rows_=np.full(len(region), status) if isinstance(domain, Ball) else None,
    )
