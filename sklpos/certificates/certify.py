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
)
from sklpos.certificates.bounds.overflow import largest_input_of
from sklpos.certificates.certificate import Certificate
from sklpos.certificates.domains.named import make_domain
from sklpos.certificates.domains.shapes import Domain
from sklpos.certificates.methods import METHODS, run
from sklpos.certificates.output_activation import certify_output_activation
from sklpos.certificates.proof import Goal, Proof
from sklpos.certificates.search.seen import extreme_rows
from sklpos.certificates.subject import Subject
from sklpos.nets.arrays import naming
from sklpos.nets.bounded import BoundedModel, as_bounded_model
from sklpos.nets.bounds import Bounds
from sklpos.nets.hints import shown
from sklpos.nets.outputs import BoundedOutput
from sklpos.nets.process import leaves_no_trace
from sklpos.nets.rules import Number, OneOf, check_rules

_NO_ROWS = np.empty((0, 0))
_RULES = {"method": OneOf(METHODS), "time_limit": Number(infinite=True)}


@leaves_no_trace
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
    time_limit: float = 10.0,
) -> Certificate:
    """Prove or disprove that the predictions of a model obey bounds on a domain.

    The domain, the counterexample and every number are in the unit of the data that
    the model takes. For a pipeline, this is the unit before its steps, which are folded
    into the first layer of the net: scalers, linear projections such as PCA, selections
    of columns, a SimpleImputer (for rows in which nothing is missing), and, at the
    beginning, encoders of categories or a ColumnTransformer of all these. A column of
    categories stands for one feature per category, of which exactly one is 1; those of
    an encoder that takes unknown categories have one more feature, for all of these.

    Parameters
    ----------
    model : PositiveOutputRegressor, Pipeline, search or nn.Module
        Fitted; a module is in eval mode, with outputs in the unit of y. A search stands
        for its best estimator.
    domain : {"box", "hull", "ball", "all"}, (low, high) or Domain, default="box"
        The range of the training data, the convex hull of the rows of `X`, a ball
        around each row of `X`, every real input, or a given box. Unit of X. The corners
        of a box are two vectors, or two rows with the columns of the data: a dict, a
        Series or a frame, in which a category is the same in both or left out.
    lower_bound, upper_bound : float or array-like of shape (n_outputs,), optional
        Unit of y; ``-inf`` and ``inf`` leave an output free. By default the bounds that
        the model was fitted with; for a module, 0 and no upper one.
    X : array-like of shape (n_samples, n_features), optional
        Rows for "hull" and "ball", and for the "box" of a model that does not know the
        range of its data: a bare module, or a Pipeline with a projection.
    radius : float or array-like of shape (n_features,), optional
        Largest change of each number in a "ball", in which categories stay. Unit of X.
    categorical : sequence of int or str, or of sequences of these, optional
        Columns of integers, and groups of one-hot columns, of a box, by position or
        name. Columns that an encoder of the pipeline reads are known.
    margin : float, optional
        Share of the width by which the "box" or the "hull" is widened on both sides.
    method : str, default="auto"
        Or "interval", "crown", "alpha_crown", "branch_and_bound", "relu_splits",
        "milp"; see `certify_module`.
    time_limit : float, default=10.0
        Seconds.

    Returns
    -------
    Certificate
        Truthy only if verified.

    Raises
    ------
    ValueError
        If the domain, a bound, a layer of the module or a step is not understood.

    Examples
    --------
    >>> module = nn.Linear(2, 1).double()
    >>> _ = nn.init.ones_(module.weight), nn.init.ones_(module.bias)
    >>> certify(module, ([0.0, 0.0], [1.0, 1.0])).status_
    'verified'
    >>> certify(module, X=[[-3.0, 0.0], [1.0, 1.0]]).counterexample_
    array([-3.,  0.])
    """
    bounded, subject = _read(model)
    where = make_domain(
        bounded, domain, X=X, radius=radius, categorical=categorical, margin=margin
    )
    found = _certify(
        bounded,
        where,
        (lower_bound, upper_bound),
        method=method,
        time_limit=time_limit,
        rows=_known_rows(bounded, X),
    )
    example, columns = found.counterexample_, bounded.columns
    if example is not None and columns is not None:
        # The row that was predicted, with whole categories.
        example = columns.snap(example)
    return replace(found, counterexample_=example, columns_=columns, subject_=subject)


@leaves_no_trace
def certify_module(
    module: nn.Module,
    domain: Domain,
    *,
    lower_bound: ArrayLike | None = 0.0,
    upper_bound: ArrayLike | None = None,
    scale: ArrayLike = 1.0,
    method: str = "auto",
    time_limit: float = 10.0,
    tolerance: float | None = None,
    seed: int = 0,
) -> Certificate:
    """Prove or disprove that a module stays within its bounds.

    `method` "auto" tries interval bounds, then CROWN, then projected gradient descent
    to find a counterexample, then alpha-CROWN, for at most a fifth of the time. What is
    still undecided goes to one complete method. Up to 8 features, and for activations
    that are smooth, it is branch and bound. For ReLU networks of more features, it is

    - integer programming ("milp"), if the network has at most 32 units for a box, or 24
      for a hull of fewer than 20 features;
    - "relu_splits", for other hulls, and for boxes of 20 features and more;
    - branch and bound in all other cases.

    The other methods stop at their own step.

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
    method : str, default="auto"
        Or "interval", "crown", "alpha_crown", "branch_and_bound", "relu_splits",
        "milp".
    time_limit : float, default=10.0
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
    subject = Subject(module)
    found = _certify(
        BoundedModel(module, bounds=free, scale=scale),
        domain,
        (lower_bound, upper_bound),
        method=method,
        time_limit=time_limit,
        tolerance=tolerance,
        seed=seed,
    )
    return replace(found, subject_=subject)


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
    rows: NDArray = _NO_ROWS,
) -> Certificate:
    check_rules({"method": method, "time_limit": time_limit}, _RULES)
    # Bounded by its own formula, over any domain: there is nothing to search for.
    if type(model.module) is BoundedOutput:
        return certify_output_activation(model, domain, asked)
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
    if model.inputs is not None:
        proof.assumptions += model.inputs.assumptions
    run(proof, method)
    # The attained values are no better than those of rows that are known.
    if len(proof.region) == 1:
        seen = extreme_rows(model.predict, domain, rows)
        if len(seen):
            proof.see(torch.as_tensor(seen)[None], [0])
    return proof.certificate(begun)


def _read(model: Any) -> tuple[BoundedModel, Subject]:
    """Read a model, and record it as it is at this moment."""
    while True:
        bounded, subject = as_bounded_model(model), Subject(model)
        # Another thread may have put another one in its place between the two.
        if as_bounded_model(model).module is bounded.module:
            return bounded, subject


def _known_rows(model: BoundedModel, X: ArrayLike | None) -> NDArray:
    """Rows of X, or else the training rows that the model remembers."""
    if X is not None:
        return model.check_rows(X)
    # They are those of the module, behind the scalers.
    known = model.extreme_rows if model.inputs is None else None
    return _NO_ROWS if known is None else known


def _read_scale(scale: ArrayLike, n_outputs: int) -> NDArray:
    with naming("scale"):
        array = np.array(scale, dtype=np.float64)
    if array.shape not in ((), (1,), (n_outputs,)) or np.isnan(array).any():
        raise ValueError(
            f"scale={shown(scale)} must be a number or {n_outputs} of them."
        )
    return np.broadcast_to(array, (n_outputs,)).copy()
