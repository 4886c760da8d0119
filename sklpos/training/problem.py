"""What must stay the same when a training resumes, told by digests."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from sklpos.certificates.digests import hexdigest
from sklpos.nets.any_rows import stored_arrays
from sklpos.training.contents import content_digest
from sklpos.training.schedule import NAME

# Parameters of a net that may differ, or that are described in another way.
_LEFT_OUT = {
    "callbacks",
    "compile",
    "constraint",
    "criterion",
    "cuda_graph",
    "device",
    "domain_constraint",
    "head",
    "max_epochs",
    "module",
    "optimizer",
    "seed",
    "stochastic",
    "targets",
    "train_split",
    "verbose",
    "warm_start",
}


def describe_problem(net, rows) -> dict[str, str]:
    """Describe what a net is about to train, by digests that every process computes.

    Parameters
    ----------
    net : ConstrainedNet
        With its initial weights.
    rows : Dataset
        The rows to train on.

    Returns
    -------
    dict of str to str
        By the names of parameters; ``"data"`` are the rows, targets, weights and
        bounds.
    """
    params = net.get_params(deep=False)
    names = {name for name in params if not name.startswith("_")} - _LEFT_OUT
    strategy, optimizer = net.strategy_, net.optimizer_
    parts: dict[str, Any] = {
        **{name: params[name] for name in names},
        "criterion": net.criterion_,
        "module": net.plain_module_,
        # What a callback changed in ``on_train_begin``, it will change again.
        "optimizer": [type(optimizer), optimizer_settings(optimizer)],
        "random_state": net.seed,
        "strategy": [type(strategy), strategy.get_params()],
    }
    # The learning rates of a schedule depend on the number of epochs.
    if NAME in dict(net.callbacks_):
        parts["max_epochs"] = net.max_epochs
    described = {name: content_digest(part) for name, part in parts.items()}
    return {**described, "data": hexdigest(_data(net, rows))}


def optimizer_settings(optimizer: Optimizer) -> list[dict]:
    """Settings of each parameter group of an optimizer, without the weights.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer

    Returns
    -------
    list of dict
    """
    return [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


def _data(net, rows) -> list:
    targets = net.targets
    parts = [targets.shift, targets.scale, *targets.bounds.arrays]
    for split in net.get_split_datasets(rows):
        if split is not None:
            X = split.X.cpu() if isinstance(split.X, Tensor) else split.X
            parts += [*stored_arrays(X.numpy()), split.y, split.weight]
    return parts
