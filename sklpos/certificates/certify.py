"""Certify a model: cheap bounds, an attack, then a complete method."""

from __future__ import annotations

import time
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
from sklpos.certificates.bounds.overflow import largest_input_of, overflow_assumption
from sklpos.certificates.certificate import Certificate
from sklpos.certificates.domains.named import make_domain
from sklpos.certificates.domains.shapes import Ball, Domain
from sklpos.certificates.methods import METHODS, run
from sklpos.certificates.proof import Goal, Proof
from sklpos.nets.arrays import naming
from sklpos.nets.bounded import BoundedModel, as_bounded_model
from sklpos.nets.bounds import Bounds
from sklpos.nets.outputs import BoundedOutput


def certify(
    model: Any,
    domain: Any = "box",
    *,
    lower_bound: ArrayLike | None = None,
    upper_bound: ArrayLike | None = None,
    X: ArrayLike | None = None,
    radius: ArrayLike | None = None,
    categorical: Any = None,
    margin: float | None = None,
    method: str = "auto",
    time_limit: float = 60.0,
) -> Certificate:
    """Prove or disprove that the predictions of a model obey bounds on a domain.

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
    lower_bound, upper_bound : float or array-like of shape (n_outputs,), optional
        Unit of y; ``-inf`` and ``inf`` leave an output free. By default the bounds that
        the model was fitted with; for a module, 0 and no upper one.
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
        If the domain, a bound or a layer of the module is not understood, or a step is
        not an affine scaler.

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
    where = make_domain(
        bounded, domain, X=X, radius=radius, categorical=categorical, margin=margin
    )
    return _certify(
        bounded, where, (lower_bound, upper_bound), method=method, time_limit=time_limit
    )


def certify_module(
    module: nn.Module,
    domain: Domain,
    *,
    lower_bound: ArrayLike | None = 0.0,
    upper_bound: ArrayLike | None = None,
    scale: ArrayLike = 1.0,
    method: str = "auto",
    time_limit: float = 60.0,
    tolerance: float | None = None,
    seed: int = 0,
) -> Certificate:
    """Prove or disprove that a module stays within its bounds.

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
    lower_bound : float, array-like of shape (n_outputs,) or None, default=0.0
        Unit of y; ``-inf`` leaves an output free, None all of them.
    upper_bound : float, array-like of shape (n_outputs,) or None, default=None
        Unit of y; ``inf`` leaves an output free, None all of them.
    scale : float or array-like of shape (n_outputs,), default=1.0
        Size of the outputs, such as the standard deviation of y.
    method : {"auto", "interval", "crown", "alpha_crown", "branch_and_bound", "milp"}
    time_limit : float, default=60.0
        Seconds. What is proved by then is reported.
    tolerance : float, optional
        On each side that has a bound, go on until the gap between what is proved and
        what is attained is this many scales. By default, stop as soon as the question
        is decided.
    seed : int, default=0
        Seed of the search for counterexamples.

    Returns
    -------
    Certificate

    Raises
    ------
    ValueError
        If the module, the domain or a bound is not understood.

    Examples
    --------
    >>> import torch
    >>> from sklpos.certificates import Box
    >>> module = torch.nn.Linear(1, 1).double()
    >>> _ = torch.nn.init.ones_(module.weight), torch.nn.init.ones_(module.bias)
    >>> certify_module(module, Box([0.0], [1.0])).status_
    'verified'
    """
    free = Bounds(np.array(-np.inf), np.array(np.inf))
    return _certify(
        BoundedModel(module, bounds=free, scale=scale),
        domain,
        (lower_bound, upper_bound),
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
    asked: tuple[ArrayLike | None, ArrayLike | None],
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
        return _certify_output_activation(model, domain, asked)
    # The clock starts before reading: a user's limit is for the whole call.
    begun = time.monotonic()
    network = network_of(model)
    domain.check_features(network.n_features)
    goal = Goal(
        bounds=model.bounds.for_outputs(network.n_outputs, *asked),
        scale=_read_scale(model.scale, network.n_outputs),
        dtype=network.dtype,
        tolerance=tolerance,
        deadline=begun + time_limit,
        seed=seed,
    )
    largest = largest_input_of(model.module, model.inputs)
    proof = Proof(model.predict, network, domain, goal, largest)
    run(proof, method)
    return proof.certificate(begun)


def _read_scale(scale: ArrayLike, n_outputs: int) -> NDArray:
    with naming("scale"):
        array = np.array(scale, dtype=np.float64)
    if array.shape not in ((), (1,), (n_outputs,)) or np.isnan(array).any():
        raise ValueError(f"scale={scale!r} must be a number or {n_outputs} of them.")
    return np.broadcast_to(array, (n_outputs,)).copy()


def _certify_output_activation(
    model: BoundedModel, domain: Domain, asked: tuple
) -> Certificate:
    """Certify by construction: the activation maps every number into its range."""
    begun = time.monotonic()
    module = model.module
    # A hook could change the output after the activation.
    refuse_hooks(module)
    if model.input_range is not None:
        domain.check_features(model.input_range.shape[1])
    # A scale that was tampered with could turn the range around.
    holds = (module.scale >= 0) & torch.isfinite(module.scale)
    ends = (
        torch.where(holds, module.lower, -torch.inf),
        torch.where(holds, module.upper, torch.inf),
    )
    lower, upper = (end.cpu().double().numpy() for end in ends)
    required = model.bounds.for_outputs(len(lower), *asked)
    region = domain.region()
    # Nothing is searched; one point of each part shows which values occur.
    points = region.candidates(torch.zeros_like(region.low))[0].numpy()
    # The centre of an infinite box is NaN, hence nan_to_num.
    values = model.predict(np.nan_to_num(points))
    within = Bounds(lower, upper).mirrored() >= required.mirrored()
    largest = largest_input_of(module, model.inputs)
    status = "verified" if within.all() else "unknown"
    return Certificate(
        status_=status,
        proved_min_=lower,
        proved_max_=upper,
        attained_min_=values.min(axis=0),
        attained_max_=values.max(axis=0),
        required_min_=required.lower,
        required_max_=required.upper,
        counterexample_=None,
        broken_side_=None,
        domain_=domain,
        method_="output activation",
        n_boxes_=0,
        time_=time.monotonic() - begun,
        numerical_slack_=np.zeros_like(lower),
        assumptions_=(overflow_assumption(largest),),
        rows_=np.full(len(region), status) if isinstance(domain, Ball) else None,
        largest_input_=largest,
    )
