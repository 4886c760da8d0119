"""A `ConstrainedNet` around a module as it is, in the unit of y."""

import numpy as np
import torch

from sklpos.nets.bounds import Bounds
from sklpos.nets.units import TargetScale
from sklpos.strategies import DomainConstraint, OutputConstraint
from sklpos.training.net import ConstrainedNet
from sklpos.training.rows import RowDataset


def make_rows(X, y, weight=None):
    weight = np.ones(len(X)) if weight is None else weight
    return RowDataset(*map(torch.as_tensor, (X, y, weight)))


def make_net(
    module,
    y,
    *,
    strategy,
    lower_bound=0.0,
    upper_bound=None,
    alpha=1.0,
    domain=None,
    head="",
    kind=ConstrainedNet,
    **params,
):
    """An initialised net; `domain` gives the bounds and the number of domains."""
    n_outputs = y.shape[1]
    bounds = Bounds.read(lower_bound, upper_bound, n_outputs)
    targets = TargetScale(np.zeros(n_outputs), np.ones(n_outputs), bounds)
    y = torch.as_tensor(y)
    constraint = OutputConstraint(
        y,
        scale=1.0,
        lower_bound=lower_bound,
        upper_bound=upper_bound,
        strategy=strategy,
        alpha=alpha,
    )
    if domain is not None:
        reach, n_domains = domain
        domain = DomainConstraint(
            reach, like=constraint, alpha=alpha, n_domains=n_domains
        )
    defaults = {"criterion__reduction": "none", "train_split": None, "verbose": 0}
    net = kind(
        module.double(),
        constraint=constraint,
        domain_constraint=domain,
        alpha=alpha,
        targets=targets,
        head=head,
        **{**defaults, **params},
    )
    return net.initialize()
