"""Certify a model: cheap bounds, an attack, then a complete method."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from sklpos.certificates.bounds.network import (
    Network,
    fold_inputs,
    read_network,
    refuse_hooks,
)
from sklpos.certificates.certificate import Certificate
from sklpos.certificates.domains.named import make_domain
from sklpos.certificates.domains.shapes import Ball, Domain
from sklpos.certificates.methods import METHODS, run
from sklpos.certificates.proof import Goal, Proof
from sklpos.nets.arrays import naming
from sklpos.nets.bounded import BoundedModel, as_bounded_model
from sklpos.nets.outputs import BoundedOutput


def certify(
    model: Any,
    domain: Any = "box",
    *,
    lower_bound: ArrayLike | None = None,
    X: ArrayLike | None = None,
    radius: ArrayLike | None = None,
    categorical: Any = None,
    margin: float | None = None,
    method: str = "auto",
    time_limit: float = 60.0,
) -> Certificate:
    """Prove or disprove that the predictions of a model obey a bound on a domain.

    The domain, the counterexample and every number are in the unit of the data that
    the model takes. For a pipeline, this is the unit before its scalers, which are
    folded into the first layer of the net.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline, search or nn.Module
        Fitted; a module is in eval mode, with outputs in the unit of y. In a Pipeline,
        StandardScaler, MinMaxScaler, RobustScaler and MaxAbsScaler may come before the
        regressor. A search stands for its best estimator.
    domain : {"box", "hull", "ball", "all"}, (low, high) or Domain, default="box"
        The range of the training data, the convex hull of the rows of `X`, a ball
        around each row of `X`, every real input, or a given box. Unit of X.
    lower_bound : float or array-like of shape (n_outputs,), optional
        Unit of y; ``-inf`` leaves an output free. By default the bound that the model
        was fitted with, or 0 for a module.
    X : array-like of shape (n_samples, n_features), optional
        Rows for "hull" and "ball", and for the "box" of a bare module, which does not
        know its training data.
    radius : float or array-like of shape (n_features,), optional
        Largest change of each feature in a "ball". Unit of X.
    categorical : sequence of int or of sequences of int, optional
        Integer features, and groups of one-hot features, of a box.
    margin : float, optional
        Share of the width by which the "box" or the "hull" is widened on both sides.
    method : str, default="auto"
        Or "interval", "crown", "alpha_crown", "branch_and_bound", "milp"; see
        `certify_module`.
    time_limit : float, default=60.0
        Seconds.

    Returns
    -------
    Certificate
        Truthy only if verified.

    Raises
    ------
    ValueError
        If the domain or a layer of the module is not understood, or a step is not an
        affine scaler.

    Examples
    --------
    >>> module = nn.Linear(2, 1).double()
    >>> _ = nn.init.ones_(module.weight), nn.init.ones_(module.bias)
    >>> certify(module, ([0.0, 0.0], [1.0, 1.0])).status_
    'verified'
    >>> certify(module, X=[[-3.0, 0.0], [1.0, 1.0]]).counterexample_
    array([-3.,  0.])
    """
    bounded = as_bounded_model(model)
    if lower_bound is not None:
        bounded = replace(bounded, lower_bound=lower_bound)
    where = make_domain(
        bounded, domain, X=X, radius=radius, categorical=categorical, margin=margin
    )
    return _certify(bounded, where, method=method, time_limit=time_limit)


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

    `method` "auto" tries interval bounds, then CROWN, then projected gradient descent
    to find a counterexample. What is still undecided goes to branch and bound, or, if
    the network has only ReLUs and more than 8 features, to integer programming (see
    `milp_minimum`). The other methods stop at their own step. "alpha_crown" is not
    part of "auto", because it saved less time than it took before the complete methods:
    it is tighter than CROWN, in a time that is known beforehand.

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
        Seed of the search for counterexamples.

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
    model = BoundedModel(module, lower_bound=lower_bound, scale=scale)
    return _certify(
        model,
        domain,
        method=method,
        time_limit=time_limit,
        tolerance=tolerance,
        seed=seed,
    )


def network_of(model: BoundedModel) -> Network:
    """Read the module of a model, with its scalers folded into the first layer.

    Parameters
    ----------
    model : BoundedModel

    Returns
    -------
    Network
    """
    network = read_network(model.module)
    return network if model.inputs is None else fold_inputs(network, model.inputs)


def _certify(
    model: BoundedModel,
    domain: Domain,
    *,
    method: str,
    time_limit: float,
    tolerance: float | None = None,
    seed: int = 0,
) -> Certificate:
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; choose one of {METHODS}.")
    # Bounded by its own formula, over any domain: there is nothing to search for.
    if type(model.module) is BoundedOutput:
        return _certify_output_activation(model, domain)
    # The clock starts before reading: a user's limit is for the whole call.
    begun = time.monotonic()
    network = network_of(model)
    domain.check_features(network.n_features)
    goal = Goal(
        required=_as_outputs(model.lower_bound, "lower_bound", network.n_outputs),
        scale=_as_outputs(model.scale, "scale", network.n_outputs),
        tolerance=tolerance,
        deadline=begun + time_limit,
        seed=seed,
    )
    proof = Proof(model.predict, network, domain, goal)
    run(proof, method)
    return proof.certificate(begun)


def _as_outputs(values: ArrayLike, name: str, n_outputs: int) -> NDArray:
    with naming(name):
        array = np.array(values, dtype=np.float64)
    if array.shape not in ((), (1,), (n_outputs,)) or np.isnan(array).any():
        raise ValueError(f"{name}={values!r} must be a number or {n_outputs} of them.")
    return np.broadcast_to(array, (n_outputs,)).copy()


def _certify_output_activation(model: BoundedModel, domain: Domain) -> Certificate:
    """Certify by construction: ``offset + scale * act`` with ``act >= 0``."""
    begun = time.monotonic()
    module = model.module
    # A hook could change the output after the activation.
    refuse_hooks(module)
    if model.input_range is not None:
        domain.check_features(model.input_range.shape[1])
    holds = module.bounded & (module.scale >= 0) & torch.isfinite(module.scale)
    lower = torch.where(holds, module.offset, -torch.inf).cpu().double().numpy()
    required = _as_outputs(model.lower_bound, "lower_bound", len(lower))
    region = domain.region()
    # Nothing is searched; one point of each part gives an upper bound.
    points = region.candidates(torch.zeros_like(region.low))[0].numpy()
    status = "verified" if (lower >= required).all() else "unknown"
    # The centre of an infinite box is NaN, hence nan_to_num.
    return Certificate(
        status_=status,
        lower_bound_=lower,
        upper_bound_=model.predict(np.nan_to_num(points)).min(axis=0),
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
