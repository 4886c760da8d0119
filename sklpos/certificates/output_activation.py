"""Certificates of models that end in an output activation."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import Tensor

from sklpos.certificates.bounds.crown import crown_bounds
from sklpos.certificates.bounds.network import (
    Network,
    fold_inputs,
    read_network,
    refuse_hooks,
)
from sklpos.certificates.bounds.overflow import largest_input_of, overflow_assumption
from sklpos.certificates.bounds.rounding import numerical_slack
from sklpos.certificates.certificate import Certificate
from sklpos.certificates.domains.regions import Region
from sklpos.certificates.domains.shapes import Ball, Domain
from sklpos.nets.bounded import BoundedModel
from sklpos.nets.bounds import Bounds
from sklpos.nets.output_functions import output_activation
from sklpos.nets.outputs import BoundedOutput

# Below this size of the inputs, an overflow comes from the biases.
_SMALLEST = 2.0**-64
_BISECTIONS = 20
# Points that are predicted, one by one.
_MAX_POINTS = 1000


def certify_output_activation(
    model: BoundedModel, domain: Domain, asked: tuple
) -> Certificate:
    """Certify by construction: the activation maps every number into its range.

    Parameters
    ----------
    model : BoundedModel
        Its module is a `BoundedOutput`.
    domain : Domain
    asked : pair of float, array-like of shape (n_outputs,) or None
        The lower and the upper bound; None is that of the model.

    Returns
    -------
    Certificate
        Unknown where the prediction may overflow, as far as the module is understood.
    """
    begun = time.monotonic()
    module = model.module
    # A hook could change the output after the activation.
    refuse_hooks(module)
    if model.input_range is not None:
        width = model.input_range.shape[1]
        before = model.inputs
        domain.check_features(width if before is None else before.n_features)
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
    # The centre of an infinite box is NaN, hence nan_to_num. Each row alone, because
    # a batch is rounded in another way.
    rows = np.nan_to_num(points)[:_MAX_POINTS, None]
    values = np.vstack([model.predict(row) for row in rows])
    # What overflows to NaN is no value that was attained.
    lowest = np.where(np.isnan(values), np.inf, values)
    highest = np.where(np.isnan(values), -np.inf, values)
    largest = _largest_input(model)
    if _may_overflow(model, region, largest):
        lower, upper = np.full_like(lower, -np.inf), np.full_like(upper, np.inf)
    within = Bounds(lower, upper).mirrored() >= required.mirrored()
    status = "verified" if within.all() else "unknown"
    return Certificate(
        status_=status,
        proved_min_=lower,
        proved_max_=upper,
        attained_min_=lowest.min(axis=0),
        attained_max_=highest.max(axis=0),
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


def _largest_input(model: BoundedModel) -> float:
    """Largest size of a feature for which neither sums nor the activation overflow."""
    largest = largest_input_of(model.module, model.inputs)
    if np.isinf(largest):
        return largest
    network = _inner_network(model)
    end = torch.ones((1, network.n_features), dtype=torch.float64)

    def holds(size: float) -> bool:
        return _fits(model.module, network, Region(-size * end, size * end))

    if holds(largest):
        return largest
    if not holds(_SMALLEST):
        return 0.0
    # In powers of 2, because the sizes cover hundreds of orders of magnitude.
    held, failed = math.log2(_SMALLEST), math.log2(largest)
    for _ in range(_BISECTIONS):
        middle = (held + failed) / 2
        held, failed = (middle, failed) if holds(2.0**middle) else (held, middle)
    # Down to a number that every dtype holds, so that comparisons are exact.
    mantissa, exponent = math.frexp(2.0**held)
    return math.ldexp(math.floor(256 * mantissa) / 256, exponent)


def _may_overflow(model: BoundedModel, region: Region, largest: float) -> bool:
    """Whether a prediction in a finite domain may be NaN or infinite."""
    if largest == 0:
        return True
    # It is an assumption where the module is not understood; and all real inputs are
    # meant up to the largest one.
    if np.isinf(largest) or not region.high.isfinite().all():
        return False
    reach = torch.maximum(region.low.abs(), region.high.abs()).amax()
    if reach <= largest:
        return False
    # A domain of a narrow part of the inputs may be known better.
    beyond = float(reach) > largest_input_of(model.module, model.inputs)
    return beyond or not _fits(model.module, _inner_network(model), region)


def _inner_network(model: BoundedModel) -> Network:
    network = read_network(model.module.module)
    return network if model.inputs is None else fold_inputs(network, model.inputs)


def _fits(module: BoundedOutput, network: Network, region: Region) -> bool:
    """Whether the dtype of a module can hold all its outputs over a region."""
    found = crown_bounds(network, region)
    slack = numerical_slack(network, region.low, region.high, found.hidden)
    ends = [_size(module, end) for end in (found.lower - slack, found.upper + slack)]
    # NaN is not known to fit.
    return bool((torch.maximum(*ends) <= torch.finfo(network.dtype).max).all())


def _size(module: BoundedOutput, z: Tensor) -> Tensor:
    """Size of an output where z is at an end of its range, in float64."""
    offset, scale, gain = (
        values.detach().cpu().double()
        for values in (module.offset, module.scale, module.gain)
    )
    z = gain * z
    act = output_activation(module.function)[0]
    value = torch.where(module.one_sided.cpu(), act(z), z.abs())
    value = torch.where(module.two_sided.cpu(), 1.0, value)
    return offset.abs() + scale.abs() * value
