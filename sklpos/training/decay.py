"""Weight decay in proportion to the noise of the data."""

from __future__ import annotations

import numpy as np
import torch
from skorch.callbacks import Callback
from torch import nn

from sklpos.nets.any_rows import row_ranks

_NEIGHBOURS = 3
# The search for neighbours takes time in proportion to rows**2 * n_features, so it sees
# some of the rows only, and fewer if X is wide.
_MAX_ROWS = 1024
_MAX_VALUES = 2**20
_MIN_ROWS = 64


class NoiseScaledDecay(Callback):
    """Decoupled weight decay in proportion to the noise of the data.

    With Gaussian noise on y and a Gaussian prior on the weights, the most probable net
    minimises the mean squared error plus a penalty on the squared weights that is
    proportional to the variance of the noise: the noisier the data, the stronger the
    decay [2]_. That variance, in units of the variance of y and at most 1, is the
    smaller of two estimates: `neighbour_loss` and the mean loss of the last epoch. The
    first does not depend on the net, so that a decay which is too strong, or a
    constraint that holds the net back, is not mistaken for noise.

    ``AdamW`` only [1]_; other optimizers are left alone, as are groups of weights whose
    decay is 0: by default, the biases. Images, sequences and the numbers of tokens that
    enter an ``nn.Embedding`` have no neighbours that would tell the noise, so that the
    optimizer keeps its decay there.

    Parameters
    ----------
    strength : float, default=4.0
        The decay of the optimizer if the noise has the variance of y.

    Attributes
    ----------
    noise_ : float or None
        `neighbour_loss` of the rows that training began with, in variances of y; None
        where the optimizer keeps its decay.

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

    state_attributes_ = ("noise_",)

    def __init__(self, strength: float = 4.0):
        self.strength = strength

    def initialize(self):
        """Forget the last run.

        Returns
        -------
        NoiseScaledDecay
        """
        self.noise_ = None
        return self

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        """Set the decay of the first epoch of this call.

        Parameters
        ----------
        net : ConstrainedNet
        X, y : array-like or Dataset
            Training rows, as skorch passes them.
        **kwargs : dict
            What skorch passes on; not used.
        """
        if not _decays(net.optimizer_):
            return
        if self.noise_ is None:
            rows = net.get_dataset(X, y)
            if not _tell_noise(rows, net.module_):
                return
            number = min(_MAX_ROWS, max(_MIN_ROWS, _MAX_VALUES // rows.X[:1].numel()))
            noise = neighbour_loss(*net.run_.world.some_rows(rows, number))
            self.noise_ = noise / _variance(net)
        self._scale(net)

    def on_epoch_end(self, net, **kwargs):
        """Set the decay of the next epoch.

        Parameters
        ----------
        net : ConstrainedNet
        **kwargs : dict
            What skorch passes on; not used.
        """
        if _decays(net.optimizer_) and self.noise_ is not None:
            self._scale(net)

    def _scale(self, net) -> None:
        # There cannot be more noise than the variance of y.
        loss = 1.0
        last = net.history[-1] if net.history else {}
        if "objective" in last:
            loss = last["objective"] / _variance(net)
        # Decay limits the size of weights, so it is less where they have to reach far.
        strength = self.strength / max(float(net.targets.spread.max()), 1.0)
        for group in net.optimizer_.param_groups:
            if group["weight_decay"] > 0:
                group["weight_decay"] = strength * min(loss, self.noise_, 1.0)


def _variance(net) -> float:
    """Variance of the targets, which is 1 unless they keep their own unit."""
    return float((net.targets.spread**2).mean())


def _tell_noise(rows, module: nn.Module) -> bool:
    """Whether rows that are near to each other have similar targets."""
    tokens = (nn.Embedding, nn.EmbeddingBag)
    embeds = any(isinstance(layer, tokens) for layer in module.modules())
    return rows.X[:1].ndim == 2 and not embeds


def _decays(optimizer) -> bool:
    return isinstance(optimizer, torch.optim.AdamW)


def neighbour_loss(X: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """Estimate the noise of y, without a model, from the nearest neighbours of rows.

    The estimate is 3/4 of the mean squared difference to the mean of the 3 nearest
    neighbours, which has a third of the noise itself. It is too large where neighbours
    are far away. A row that occurs twice counts as one of twice the weight.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features) or (n_samples, ...)
        Columns are divided by their standard deviations.
    y : ndarray of shape (n_samples, n_outputs)
    weight : ndarray of shape (n_samples,)

    Returns
    -------
    float
        In squared units of y; infinite for a single row.

    References
    ----------
    .. [1] L. Devroye, L. Gyorfi, G. Lugosi, H. Walk (2018), "A nearest neighbor
       estimate of the residual variance", doi:10.1214/18-EJS1438.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(400.0).reshape(-1, 1)
    >>> y = np.sin(X / 50) + np.where(X % 2 == 0, 0.1, -0.1)
    >>> round(neighbour_loss(X, y, np.ones(400)), 2)
    0.01
    """
    # Imported by the first fit that needs it: it takes a fifth as long as the package.
    from sklearn.neighbors import NearestNeighbors

    X = X.reshape(len(X), -1)
    # A repeated row would be its own neighbour, and the noise would look like 0.
    rows = np.hstack([X, y]).astype(np.float64)
    which = row_ranks(rows)
    distinct = np.empty((which.max() + 1, rows.shape[1]))
    distinct[which] = rows
    if len(distinct) == 1:
        return np.inf
    X, y = distinct[:, : X.shape[1]], distinct[:, X.shape[1] :]
    # Brought to unit size first, as the squares of huge columns overflow in `std`.
    size = np.abs(X).max(axis=0)
    X = X / np.where(size > 0, size, 1.0)
    spread = X.std(axis=0)
    X = X / np.where(spread > 0, spread, 1.0)
    n_neighbours = min(_NEIGHBOURS, len(distinct) - 1)
    search = NearestNeighbors(n_neighbors=n_neighbours, algorithm="brute").fit(X)
    near = y[search.kneighbors(return_distance=False)].mean(axis=1)
    # An estimate that overflows to infinity is fine: the decay is capped at noise 1.
    with np.errstate(over="ignore"):
        loss = ((y - near) ** 2).mean(axis=1)
        loss = np.average(loss, weights=np.bincount(which, weight))
    return float(loss * n_neighbours / (n_neighbours + 1))
