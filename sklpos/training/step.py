"""What a training step computes: the dual step first, then the gradient."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import lru_cache

import numpy as np
import torch
from skorch.utils import to_tensor
from torch import Tensor

from sklpos.strategies import ConstraintStrategy
from sklpos.training.backprop import Backprop
from sklpos.training.callbacks import MultiplierAscent
from sklpos.training.epoch import LeanNet
from sklpos.training.randomness import borrowed_generator, derive_seed
from sklpos.training.rows import Batch
from sklpos.training.steps import Steps

# They call the closure once, and make nothing of the loss that it returns.
_BLIND_OPTIMIZERS = (
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.SGD,
)


class DivergenceError(ValueError):
    """The loss or a weight is no longer a finite number, or the multipliers explode."""


class TrainingNet(LeanNet):
    """skorch's net, with training steps that know a strategy and its rows.

    It expects ``targets``, ``strategy_``, ``seed`` and ``stochastic``, and batches of
    type `Batch`.

    Attributes
    ----------
    steps_ : Steps or None
        The steps of the epoch that is over, until `ConstraintHistory` took them.
    """

    def initialize(self):
        """Start with nothing computed."""
        self.batches_, self.losses_wait_, self.steps_ = [], False, None
        self.backprop_ = None
        return super().initialize()

    @property
    def plain_module_(self) -> torch.nn.Module:
        """The module behind ``torch.compile``."""
        return self.module_._modules.get("_orig_mod", self.module_)

    def violation(self, y_pred: Tensor) -> Tensor:
        """Return ``lower_bound - y_pred`` of the bounded outputs, in scaled units.

        Parameters
        ----------
        y_pred : torch.Tensor of shape (batch, n_outputs)

        Returns
        -------
        torch.Tensor of shape (batch, n_bounded)
        """
        bound, columns = _bound(self.targets, y_pred.dtype, y_pred.device)
        return bound - (y_pred if columns is None else y_pred[:, columns])

    def domain_violation(self) -> tuple[Tensor, Tensor] | None:
        """Return the violation over the strategy's domains, and their row numbers.

        Returns
        -------
        violation : torch.Tensor of shape (n_domains, n_bounded)
            In scaled units, differentiable in the weights.
        index : torch.Tensor of shape (n_domains,)
            -1, -2, ...: the last rows of the strategy's tensors.
        """
        domains = self._domains()
        return None if domains is None else (self.violation(domains[0]), domains[1])

    def _domains(self) -> tuple[Tensor, Tensor] | None:
        lowest = self.strategy_.lowest_outputs(self.plain_module_)
        if lowest is None:
            return None
        return lowest, -1 - torch.arange(len(lowest)).to(lowest.device)

    def largest_violation(self, own: float) -> float:
        """Return the largest violation of an epoch; others may have seen more rows.

        Parameters
        ----------
        own : float
            That of the rows of this net.

        Returns
        -------
        float
        """
        return own

    def objective(self, y_pred: Tensor, y_true: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted mean loss over rows and outputs."""
        loss = self.criterion_(y_pred, to_tensor(y_true, device=self.device))
        if loss.shape != y_pred.shape:
            raise ValueError(
                f"criterion={self.criterion!r} must return one loss for every row and "
                f"output, of shape {tuple(y_pred.shape)}; it returned one of shape "
                f"{tuple(loss.shape)}."
            )
        return (to_tensor(weight, device=self.device) * loss).mean()

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """Go through the batches once; training steps are summed up when it is over."""
        if not training:
            super().run_single_epoch(iterator, training, prefix, step_fn, **fit_params)
            return
        self.batches_, self.losses_wait_ = [], self._losses_can_wait()
        self.backprop_ = self.plain_backprop()
        super().run_single_epoch(iterator, training, prefix, step_fn, **fit_params)
        batches, self.batches_, self.backprop_ = self.batches_, [], None
        self.steps_ = self._sum_up(batches)
        if self.losses_wait_:
            self._record_losses(self.steps_.objective + self.steps_.constraint)

    def _sum_up(self, batches: list[tuple]) -> Steps:
        if self.losses_wait_:
            return Steps.from_rows(batches, self.criterion_, self.strategy_.penalty)
        return Steps.from_batches(batches)

    def plain_backprop(self) -> Backprop | None:
        """Return passes without a graph, None where one is needed."""
        plain = not self._is_watched() and not self._may_have_domains()
        return Backprop.of(self.module_) if plain else None

    def _losses_can_wait(self) -> bool:
        """Whether nobody needs the value of the loss before the epoch is over."""
        ascents = [hook.__self__ for hook in self.listeners("on_violation")]
        return (
            not self._is_watched()
            and all(type(ascent) is MultiplierAscent for ascent in ascents)
            and type(self.criterion_) is torch.nn.MSELoss
            and type(self.optimizer_) in _BLIND_OPTIMIZERS
            and self.strategy_.row_by_row
            and not self._may_have_domains()
        )

    def _may_have_domains(self) -> bool:
        own = type(self.strategy_).lowest_outputs
        return own is not ConstraintStrategy.lowest_outputs

    def _is_watched(self) -> bool:
        """Whether a callback sees the batches, and may change what it sees."""
        hooks = ("on_batch_begin", "on_batch_end", "on_grad_computed")
        return any(self.listeners(hook) for hook in hooks)

    def _record_losses(self, losses: Tensor) -> None:
        records = self.history[-1]["batches"]
        for record, loss in zip(records, losses.tolist(), strict=True):
            record["train_loss"] = loss
            self._check_loss(loss)

    def train_step(self, batch, **fit_params):
        """Make one step on the weights, reproducibly, after one dual step."""
        vars(self)["dual_step_due_"] = True  # once a batch: LBFGS calls again
        with self._randomness():
            step = super().train_step(batch, **fit_params)
        if self.losses_wait_:
            rows = batch.weight, step["y_pred"].detach(), batch[1]
            self.batches_.append((batch.index, step["violation"], *rows))
        else:
            self._check_loss(step["loss"].item())
            means = step["objective"], step["constraint"]
            self.batches_.append((batch.index, step["violation"], *means))
        return step

    def train_step_single(self, batch: Batch, **fit_params):
        """Compute predictions, violation and the gradient, and the loss.

        No graph is built behind the predictions: the gradient with respect to them is
        that of the criterion minus that of the strategy's term.

        Returns
        -------
        dict
            ``loss`` = ``objective`` + ``constraint``, unless nobody needs them before
            the epoch is over; ``y_pred``; ``violation``.
        """
        self._set_training(True)
        y_pred = self._forward(batch[0], **fit_params)
        outputs, index, weight = self._add_domains(y_pred, batch)
        violation = self.violation(outputs.detach())
        self._notify_violation(violation, index)
        slope = self.strategy_.penalty_gradient(violation, index)
        self._backward(outputs, self._gradient(y_pred, batch, weight, slope))
        step = {"loss": None, "y_pred": y_pred, "violation": violation}
        if self.losses_wait_:
            return step
        objective = self.objective(y_pred.detach(), batch[1], batch.weight).detach()
        term = weight * self.strategy_.penalty(violation, index)
        constraint = term.sum() / y_pred.numel()
        return {
            **step,
            "loss": objective + constraint,
            "violation": violation[: len(y_pred)],
            "objective": objective,
            "constraint": constraint,
        }

    def _forward(self, X: Tensor, **fit_params) -> Tensor:
        if self.backprop_ is None or fit_params:
            return self.infer(X, **fit_params)
        return self.backprop_.forward(X.to(self.device))

    def _backward(self, outputs: Tensor, gradient: Tensor) -> None:
        if outputs.requires_grad:
            outputs.backward(gradient)
        else:
            self.backprop_.backward(gradient)

    def _add_domains(self, y_pred: Tensor, batch: Batch):
        """Return outputs, row numbers and weights of the rows, then of the domains.

        A domain weighs as much as all rows of the batch.
        """
        domains = self._domains()
        if domains is None:
            return y_pred, batch.index, batch.weight
        lowest, numbers = domains
        whole = batch.weight.new_full((len(lowest), 1), len(y_pred))
        return (
            torch.cat([y_pred, lowest]),
            torch.cat([batch.index, numbers]),
            torch.cat([batch.weight, whole]),
        )

    def _gradient(self, y_pred: Tensor, batch: Batch, weight: Tensor, slope: Tensor):
        """Return the gradient of the loss with respect to the outputs.

        The slope is that of the term in the violation, the bound minus the output.
        """
        y_pred = y_pred.detach()
        columns = _bound(self.targets, y_pred.dtype, y_pred.device)[1]
        if columns is not None:
            free = slope.new_zeros(len(slope), y_pred.shape[1])
            slope = free.index_copy_(1, columns, slope)
        n_domains = len(slope) - len(y_pred)
        if type(self.criterion_) is torch.nn.MSELoss:
            residual = _pad(y_pred - batch[1], n_domains)
            half = torch.sub(residual, slope, alpha=0.5)
            return half * (weight * (2 / y_pred.numel()))
        y_pred.requires_grad_()
        self.objective(y_pred, batch[1], batch.weight).backward()
        return _pad(y_pred.grad, n_domains) - slope * (weight / y_pred.numel())

    def _notify_violation(self, violation: Tensor, index: Tensor) -> None:
        if self.dual_step_due_:
            vars(self)["dual_step_due_"] = False
            for listener in self.listeners("on_violation"):
                listener(self, violation, index)

    def _randomness(self):
        if not self.stochastic:
            return nullcontext()
        batch = len(self.history[-1]["batches"])
        seed = derive_seed(self.seed, 1, len(self.history), batch)
        return borrowed_generator(seed, self.device)

    def _check_loss(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self.divergence(f"the loss became {loss} in")

    def divergence(self, what: str, further: str = "") -> DivergenceError:
        """Return the error that ends training, with what else may be lowered."""
        return DivergenceError(
            f"{what} epoch {len(self.history)}; training diverged: lower {further}lr "
            f"(now {self.lr}) or alpha, or standardise X."
        )


@lru_cache(maxsize=16)
def _bound(targets, dtype, device) -> tuple[Tensor, Tensor | None]:
    """Return the finite bounds, and their columns; None if these are all."""
    bounded = targets.bounded
    columns = torch.as_tensor(np.flatnonzero(bounded)).to(device)
    bound = torch.as_tensor(targets.bound[bounded], dtype=dtype).to(device)
    return bound, None if bounded.all() else columns


def _pad(rows: Tensor, n: int) -> Tensor:
    """Append n rows of zeros."""
    return torch.cat([rows, rows.new_zeros(n, rows.shape[1])]) if n else rows
