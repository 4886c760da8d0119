"""Weight decay by the noise of the data."""

from __future__ import annotations

import inspect

import torch
from skorch.callbacks import Callback
from torch import nn


class NoiseScaledDecay(Callback):
    """Decoupled weight decay in proportion to what the net leaves unexplained.

    With Gaussian noise on y and a Gaussian prior on the weights, the most probable net
    minimises the mean squared error plus a penalty on the squared weights that is
    proportional to the variance of the noise: the noisier the data, the stronger the
    decay [2]_. The estimate of that variance is the share of the variance of y that the
    last epoch left unexplained, its mean loss in scaled units; it counts as 1 if it is
    larger, and before the first epoch. ``AdamW`` only [1]_; other optimizers are left
    alone, as are groups of weights whose decay is 0: by default, the biases.

    Parameters
    ----------
    strength : float, default=4.0
        The decay of the optimizer for a share of 1.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter (2019), "Decoupled weight decay regularization",
       arXiv:1711.05101.
    .. [2] D. J. C. MacKay (1992), "A practical Bayesian framework for backpropagation
       networks", doi:10.1162/neco.1992.4.3.448.

    Examples
    --------
    >>> NoiseScaledDecay(strength=2.0).strength
    2.0
    """

    def __init__(self, strength=4.0):
        self.strength = strength

    def on_train_begin(self, net, **kwargs):
        """Set the decay of the first epoch, or that of one more."""
        self._scale(net)

    def on_epoch_end(self, net, **kwargs):
        """Set the decay of the next epoch."""
        self._scale(net)

    def _scale(self, net) -> None:
        if not isinstance(net.optimizer_, torch.optim.AdamW):
            return
        unexplained = net.history[-1].get("objective", 1.0) if net.history else 1.0
        for group in net.optimizer_.param_groups:
            if group["weight_decay"] > 0:
                group["weight_decay"] = self.strength * min(unexplained, 1.0)


def decay_callbacks(estimator) -> list:
    """Return the callback of ``weight_decay="auto"``, where it is ours to choose.

    Parameters
    ----------
    estimator : PositiveOutputRegressor

    Returns
    -------
    list of (str, NoiseScaledDecay)
    """
    return [("weight_decay", NoiseScaledDecay())] if _by_noise(estimator) else []


def decay_params(estimator) -> dict:
    """Return the net's parameters for the weight decay of an estimator.

    Parameters
    ----------
    estimator : PositiveOutputRegressor

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If a weight decay is given twice, or to an optimizer that has none.
    """
    if _by_noise(estimator):
        return {"optimizer__param_groups": [("*bias", {"weight_decay": 0.0})]}
    if estimator.weight_decay == "auto":
        return {}
    shown = f"weight_decay={estimator.weight_decay!r}"
    if "weight_decay" in estimator._net_params_for("optimizer"):
        raise ValueError(
            f"{shown} and optimizer__weight_decay are the same thing; give one of them."
        )
    if "weight_decay" not in inspect.signature(estimator.optimizer).parameters:
        if estimator.weight_decay == 0:
            return {}
        name = getattr(estimator.optimizer, "__name__", estimator.optimizer)
        raise ValueError(
            f"{shown} must be 'auto' or 0 for {name}, which has no such term."
        )
    return {"optimizer__weight_decay": estimator.weight_decay}


def _by_noise(estimator) -> bool:
    given = estimator._net_params_for("optimizer")
    return (
        estimator.weight_decay == "auto"
        and estimator.optimizer is torch.optim.AdamW
        and estimator.criterion is nn.MSELoss
        and not isinstance(estimator.module, nn.Module)
        and not given.keys() & {"weight_decay", "param_groups"}
    )
