"""Certified training: the bound over a whole domain as one more constraint."""

from __future__ import annotations

from math import inf
from numbers import Integral

import torch
from torch import Tensor, nn

from sklpos.certificates.bounds.crown import image
from sklpos.certificates.bounds.network import Network, read_network
from sklpos.strategies.base import ConstraintStrategy
from sklpos.strategies.lagrangian import AugmentedLagrangian


class Certified(AugmentedLagrangian):
    """The augmented Lagrangian, of the interval bound over a domain too.

    The lowest outputs over a domain around the inputs, bounded by interval
    arithmetic, are kept above the bound like those of a row. Their multiplier moves
    once a batch. ``c = 2 * alpha`` is constant here, and for the domain it is
    ``domain_curvature * c``. A net that obeys its interval bound is proved positive
    over the domain, in milliseconds.

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
        Distance kept from the bound, in standard deviations of y, since the last
        steps on the weights go back and forth.
    domain_curvature : float, default=0.1
        Curvature of the domain's term, as a share of that of the rows.
    dual_lr : float, default=0.1
        Step of the ascent in units of the curvature.

    Notes
    -----
    The bound is computed in the precision of the net and without a rounding margin:
    it guides, and a certificate proves. Dropout is read as it predicts. An early
    stopping that returns to an epoch of the warm-up returns to a smaller domain.

    References
    ----------
    .. [1] S. Gowal et al. (2018), "On the effectiveness of interval bound propagation
       for training verifiably robust models", doi:10.48550/arXiv.1810.12715.

    Examples
    --------
    >>> import torch
    >>> strategy = Certified()
    >>> strategy.see_inputs(torch.tensor([[0.0, 0.0], [2.0, 1.0]]))
    >>> strategy.setup(torch.zeros(2, 1), lower_bound=torch.zeros(1), alpha=1.0)
    >>> module = torch.nn.Linear(2, 1).eval()
    >>> _ = torch.nn.init.ones_(module.weight), torch.nn.init.ones_(module.bias)
    >>> strategy.lowest_outputs(module).item()  # at the corner (0, 0)
    1.0
    """

    guarantee = "domain"
    wraps_module = False  # `wrap` only looks at it

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
        super().__init__(dual_lr, max_curvature=0.0)  # the schedule may not raise c
        self.domain = domain
        self.margin = margin
        self.warm_up = warm_up
        self.safety = safety
        self.domain_curvature = domain_curvature

    def wrap(
        self, module: nn.Module, head: str | None, *, X: Tensor, lower_bound: Tensor
    ) -> nn.Module:
        """Refuse a module with layers that have no bounds; return it as it is."""
        _read(module)
        return module

    def see_inputs(self, X: Tensor) -> None:
        """Remember the domain that the inputs span, for `setup`."""
        self._check_parameters()
        self._points = self._outline(X)

    def setup(self, y: Tensor, *, lower_bound: Tensor, alpha: float) -> None:
        """Allocate one more row of multipliers, the domain and its age."""
        rows = torch.cat([y, torch.zeros_like(y[:1])])
        super().setup(rows, lower_bound=lower_bound, alpha=alpha)
        self.state_.register_buffer("points", self._points)
        self.state_.register_buffer("n_epochs", torch.tensor(0))
        del self._points

    def take_over(self, previous: ConstraintStrategy) -> None:
        """Grow the domain by that of earlier calls; go on with its multiplier."""
        if not isinstance(previous, Certified) or previous.domain != self.domain:
            return
        old, own = previous.state_, self.state_
        own.points = self._outline(torch.cat([old.points.to(own.points), own.points]))
        own.n_epochs.copy_(old.n_epochs)
        if old.multiplier.shape[1] == own.multiplier.shape[1]:
            own.multiplier[-1].copy_(old.multiplier[-1])

    def lowest_outputs(self, module: nn.Module) -> Tensor:
        """Return the interval bound over the domain; less the safety in training."""
        first, *others = _read(module).layers
        points = self._domain_points(warming_up=module.training)
        if self.domain == "box":
            low, high = image(first, points[:1], points[1:])
        else:  # a linear function is smallest in one of the points
            hidden = first(points)  # aminmax has no gradient in older versions of torch
            low, high = hidden.amin(0, keepdim=True), hidden.amax(0, keepdim=True)
        for layer in others:
            low, high = image(layer, low, high)
        return low - self.safety if module.training else low

    def on_epoch_end(self, max_violation: float) -> None:
        """Let the domain grow."""
        self.state_.n_epochs.add_(1)

    def _alpha(self, index: Tensor) -> Tensor:
        rows = super()._alpha(index)
        return torch.where(index[:, None] < 0, self.domain_curvature * rows, rows)

    def _outline(self, X: Tensor) -> Tensor:
        """Return both corners of a box, or the points of a hull."""
        if self.domain == "box":
            return torch.stack(torch.aminmax(X, dim=0))
        return torch.unique(X, dim=0)

    def _domain_points(self, *, warming_up: bool) -> Tensor:
        points, share = self.state_.points, 1 + 2 * self.margin
        if warming_up:
            age = (self.state_.n_epochs + 1) / max(self.warm_up, 1)
            share = share * age.clamp(max=1)
        centre = points.mean(0)
        return centre + share * (points - centre)

    def _check_parameters(self) -> None:
        whole = isinstance(self.warm_up, Integral) and self.warm_up >= 0
        rules = {
            "domain": (self.domain in ("box", "hull"), "'box' or 'hull'"),
            "margin": (0 <= self.margin < inf, "a finite number, at least 0"),
            "warm_up": (whole, "a whole number of epochs, at least 0"),
            "safety": (0 <= self.safety < inf, "a finite number, at least 0"),
            "domain_curvature": (
                0 < self.domain_curvature < inf,
                "a finite number above 0",
            ),
        }
        for name, (obeyed, rule) in rules.items():
            if not obeyed:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} of strategy='certified' must be "
                    f"{rule}."
                )


def _read(module: nn.Module) -> Network:
    try:
        return read_network(module, differentiable=True)
    except ValueError as error:
        raise ValueError(
            f"strategy='certified' needs a module that can be certified: {error}"
        ) from error
