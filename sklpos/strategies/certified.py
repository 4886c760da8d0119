"""Certified training: bounds over a whole domain as an additional constraint."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sklpos.certificates.bounds.crown import finite_image
from sklpos.certificates.bounds.layers import Affine
from sklpos.certificates.bounds.network import Network, trainable_network
from sklpos.nets.any_rows import TensorRows, dense_rows
from sklpos.nets.items import ItemTensor
from sklpos.nets.rules import Count, Number, OneOf, Rule, check_rules
from sklpos.nets.sparse import SparseTensor
from sklpos.strategies.domain_term import DomainTerm
from sklpos.strategies.inputs import as_tensor
from sklpos.strategies.lagrangian import AugmentedLagrangian

_RULES: dict[str, Rule] = {
    "domain": OneOf(("box", "hull")),
    "margin": Number(most=1e6),
    "warm_up": Count(0),
    "safety": Number(most=1e6),
}


class IntervalBounds(nn.Module):
    """Lowest and highest outputs of a module over a domain, by interval arithmetic.

    Parameters
    ----------
    X : array-like or torch.Tensor of shape (n_samples, n_features)
        Inputs that span the domain.
    domain : {"box", "hull"}, default="box"
        The range of each feature, or the convex hull of the inputs.
    margin : float, default=0.0
        Widens the domain by this share of its width, on both sides.
    warm_up : int, default=0
        Epochs in which the domain grows from its centre while the module trains.
    safety : float, default=0.0
        Distance to keep from a bound while the module trains, unit of the outputs.

    Raises
    ------
    ValueError
        For input that is not valid.

    References
    ----------
    .. [1] S. Gowal et al. (2018), "On the effectiveness of interval bound propagation
       for training verifiably robust models", doi:10.48550/arXiv.1810.12715.

    Examples
    --------
    >>> module = nn.Linear(2, 1).eval()
    >>> _ = nn.init.ones_(module.weight), nn.init.ones_(module.bias)
    >>> lowest, highest = IntervalBounds(torch.tensor([[0.0, 0.0], [2.0, 1.0]]))(module)
    >>> lowest.item(), highest.item()  # at the corners (0, 0) and (2, 1)
    (1.0, 4.0)
    """

    def __init__(
        self,
        X: ArrayLike | Tensor,
        domain: str = "box",
        *,
        margin: float = 0.0,
        warm_up: int = 0,
        safety: float = 0.0,
    ):
        super().__init__()
        self.domain = domain
        self.margin = margin
        self.warm_up = warm_up
        self.safety = safety
        check_rules(vars(self), _RULES, "IntervalBounds")
        self.register_buffer("points", self._outline(_points(X, domain)))
        # A buffer, so that training that is stored and resumed has the same domain.
        self.register_buffer("n_epochs", torch.tensor(0))

    def forward(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Bound the outputs, differentiably in the weights.

        Parameters
        ----------
        module : nn.Module
            Read as it predicts; in training mode the domain is that of the warm-up,
            and `safety` widens the bounds.

        Returns
        -------
        lowest, highest : torch.Tensor of shape (1, n_outputs)

        Raises
        ------
        ValueError
            If a layer cannot be bounded; the message names it.
        """
        first, *others = _read(module).layers
        points = self._domain_points(warming_up=module.training)
        if self.domain == "box":
            low, high = finite_image(first, points[:1], points[1:])
        else:
            # A linear function attains its extremes over a hull at some of its points.
            # `aminmax` has no gradient in older versions of torch.
            hidden = first(points)
            low, high = hidden.amin(0, keepdim=True), hidden.amax(0, keepdim=True)
        for layer in others:
            affine = isinstance(layer, Affine)
            image = partial(finite_image, layer) if affine else layer.image
            low, high = image(low, high)
        # The last steps on the weights go back and forth, so training keeps a distance.
        safety = self.safety if module.training else 0.0
        return low - safety, high + safety

    def end_epoch(self) -> None:
        """Count an epoch, which lets the domain grow."""
        self.n_epochs.add_(1)

    def take_over(self, previous: IntervalBounds) -> None:
        """Continue from an earlier domain: include its points, and keep its age.

        Parameters
        ----------
        previous : IntervalBounds
        """
        if not isinstance(previous, IntervalBounds) or previous.domain != self.domain:
            return
        earlier = previous.points.to(self.points)
        self.points = self._outline(torch.cat([earlier, self.points]))
        self.n_epochs.copy_(previous.n_epochs)

    def _outline(self, X: Tensor) -> Tensor:
        """Both corners of a box, or the points of a hull."""
        if self.domain == "box":
            return torch.stack(torch.aminmax(X, dim=0))
        return torch.unique(X, dim=0)

    def _domain_points(self, *, warming_up: bool) -> Tensor:
        points, share = self.points, 1 + 2 * self.margin
        centre = points.mean(0)
        if not warming_up:
            return centre + share * (points - centre)
        # Over the whole domain, the interval bounds of an untrained net are far too
        # low, and their term would outweigh the loss.
        grown = ((self.n_epochs + 1) * (share / max(self.warm_up, 1))).clamp(max=share)
        return torch.addcmul(centre, grown.to(points), points - centre)


class Certified(AugmentedLagrangian):
    """The augmented Lagrangian, with interval bounds over a domain as a further row.

    The lowest and the highest outputs over a domain around the inputs, bounded by
    interval arithmetic, are kept within the bounds like those of a row. Their
    multipliers move once per batch. ``c = 2 * alpha`` is constant here, and for the
    domain it is ``domain_curvature * c``. A net whose interval bounds are within its
    own bounds is proved to obey them over the domain, in milliseconds.

    Parameters
    ----------
    domain : {"box", "hull"}, default="box"
        The range of each feature, or the convex hull of the inputs: smaller, but each
        step then sends all inputs through the first layer. Held-out inputs and those
        of earlier calls are inside; weights of 0 leave a row out.
    margin : float, default=0.0
        Widens the domain by this share of its width, on both sides.
    warm_up : int, default=20
        Epochs in which the domain grows from its centre.
    safety : float, default=0.01
        Distance kept from each bound, in standard deviations of y, because the last
        steps on the weights go back and forth.
    domain_curvature : float, default=0.1
        Curvature of the domain's term, as a share of that of the rows.
    dual_lr : float, default=0.1
        Step of the ascent in units of the curvature.

    Notes
    -----
    The interval is computed in the precision of the net and without a rounding margin:
    it guides training, and only a certificate proves. Dropout is read as in
    prediction. Early stopping that returns to an epoch of the warm-up returns to a
    smaller domain.

    References
    ----------
    .. [1] S. Gowal et al. (2018), "On the effectiveness of interval bound propagation
       for training verifiably robust models", doi:10.48550/arXiv.1810.12715.

    Examples
    --------
    >>> strategy = Certified()
    >>> strategy.domain_term(torch.tensor([[0.0, 0.0], [2.0, 1.0]])).alpha_share
    0.1
    """

    guarantee = "domain"
    rules: ClassVar = {
        **_RULES,
        "domain_curvature": Number(above=True),
        "dual_lr": Number(),
    }

    def __init__(
        self,
        domain: str = "box",
        *,
        margin: float = 0.0,
        warm_up: int = 20,
        safety: float = 0.01,
        domain_curvature: float = 0.1,
        dual_lr: float = 0.1,
    ):
        # A maximum of 0 keeps the schedule from raising c.
        super().__init__(dual_lr, max_curvature=0.0)
        self.domain = domain
        self.margin = margin
        self.warm_up = warm_up
        self.safety = safety
        self.domain_curvature = domain_curvature

    def domain_term(self, X: Tensor) -> DomainTerm:
        """Requirement that the domain around the inputs stays within the bounds."""
        self.check_params()
        if isinstance(X, ItemTensor):
            raise ValueError(
                "strategy='certified' needs all rows in memory; pass arrays, or a "
                "smaller data set."
            )
        if X.ndim > 2:
            raise ValueError(
                "strategy='certified' needs X of shape (n_samples, n_features), but "
                f"its rows have the shape {tuple(X.shape[1:])}."
            )
        bounds = IntervalBounds(
            X,
            self.domain,
            margin=self.margin,
            warm_up=self.warm_up,
            safety=self.safety,
        )
        # A strategy holds the multipliers of one set of rows; the domain needs its own.
        own = AugmentedLagrangian(self.dual_lr, max_curvature=0.0)
        return DomainTerm(bounds, own, self.domain_curvature)


def _points(X: ArrayLike | TensorRows, domain: str) -> Tensor:
    if isinstance(X, SparseTensor) and domain == "box":
        # The corners say all of a box, and are few.
        X = torch.stack([X.amin(0), X.amax(0)])
    points = as_tensor("X", dense_rows(X, "X"))
    if points.ndim != 2 or points.numel() == 0:
        raise ValueError(
            f"X has shape {tuple(points.shape)}; pass (n_samples, n_features)."
        )
    if not points.isfinite().all():
        raise ValueError("X contains NaN or infinity, which span no domain.")
    return points


def _read(module: nn.Module) -> Network:
    try:
        return trainable_network(module)
    except ValueError as error:
        raise ValueError(f"strategy='certified': {error}") from error
