"""Multipliers that return to their best epoch together with the weights."""

from __future__ import annotations

from skorch.callbacks import Callback, Checkpoint, EarlyStopping
from torch import nn

from sklpos.training.trees import copied


def follow_best(net, name: str, callback: Callback, method_name: str) -> None:
    """Keep and rewind the multipliers where a callback does so with the weights.

    Parameters
    ----------
    net : ConstrainedNet
    name : str
        Name of the callback.
    callback : Callback
    method_name : str
        The hook of the callback that was just called.
    """
    if not getattr(callback, "load_best", False):
        return
    constraints = constraints_of(net)
    if method_name == "on_epoch_end" and _keeps_this_epoch(net, callback):
        states = [copied(constraint.state_dict()) for constraint in constraints]
        # A new dict, because the undo state of the last epoch may hold the old one.
        net.constraint_best_ = net.constraint_best_ | {name: states}
    elif method_name == "on_train_end" and name in net.constraint_best_:
        # The callback has just restored the weights of its best epoch, which would not
        # fit the multipliers of the last one.
        best = net.constraint_best_[name]
        for constraint, state in zip(constraints, best, strict=True):
            constraint.load_state_dict(state)


def constraints_of(net) -> list[nn.Module]:
    """The constraints of a net: on its rows and, if there is one, on a domain.

    Parameters
    ----------
    net : ConstrainedNet

    Returns
    -------
    list of nn.Module
    """
    both = (net.constraint_, net.domain_constraint_)
    return [constraint for constraint in both if constraint is not None]


def _keeps_this_epoch(net, callback: Callback) -> bool:
    epoch = net.history[-1]
    if isinstance(callback, EarlyStopping):
        return callback.best_epoch_ == epoch["epoch"]
    # skorch's Checkpoint records in the history whether it saved this epoch.
    return isinstance(callback, Checkpoint) and bool(epoch.get(callback.event_name))
