"""skorch's training loop, without what nobody listens to."""

from __future__ import annotations

import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback

from sklpos.training.adam import step_optimizer

# A step takes less than a millisecond, and each of these is called in every one.
_EACH_BATCH = ("on_batch_begin", "on_batch_end", "on_grad_computed")
_IMPLEMENTATION = {"fused", "foreach", "differentiable"}


class LeanNet(NeuralNetRegressor):
    """skorch's net, whose loop pays only for the hooks that a callback defines.

    Weights, history and what the callbacks see are the same, bit for bit.

    Adam and AdamW run torch's fused kernel on the CPU and on CUDA, unless
    ``optimizer__fused``, ``optimizer__foreach`` or ``optimizer__differentiable`` is
    given; it differs from the others by rounding only.

    Parameters
    ----------
    *args, **kwargs : object
        Those of ``skorch.NeuralNetRegressor``.
    """

    def get_params_for_optimizer(self, prefix, named_parameters):
        """Take the fused kernel where torch has one and nothing else is asked for."""
        args, kwargs = super().get_params_for_optimizer(prefix, named_parameters)
        has_fused = self.optimizer in (torch.optim.Adam, torch.optim.AdamW)
        on_device = torch.device(self.device).type in ("cpu", "cuda")
        if (
            has_fused
            and on_device
            and not any(name in kwargs for name in _IMPLEMENTATION)
        ):
            kwargs["fused"] = True
        return args, kwargs

    def listeners(self, hook: str) -> list:
        """Return what is called in every batch: methods of the net, then of callbacks.

        Parameters
        ----------
        hook : str
            Those that do nothing are left out. Looked up once an epoch.

        Returns
        -------
        list of callable
        """
        known = vars(self).setdefault("listeners_", {})
        if hook not in known:
            owners = [self, *(callback for _, callback in self.callbacks_)]
            methods = [getattr(owner, hook, None) for owner in owners]
            idle = [getattr(cls, hook, None) for cls in (LeanNet, Callback)]
            known[hook] = [m for m in methods if getattr(m, "__func__", m) not in idle]
        return known[hook]

    def notify(self, method_name, **cb_kwargs):
        """Tell the net and the callbacks; in a batch, only those that want to know.

        Outside of batches ``after_*`` follows, such as ``after_epoch_end``, for those
        who must see what the others made of it.
        """
        if method_name in _EACH_BATCH:
            for listener in self.listeners(method_name):
                listener(self, **cb_kwargs)
            return
        self.listeners_ = {}
        getattr(self, method_name)(self, **cb_kwargs)
        for name, callback in self.callbacks_:
            self.tell(name, callback, method_name, **cb_kwargs)
        for listener in self.listeners(method_name.replace("on_", "after_", 1)):
            listener(self, **cb_kwargs)

    def tell(self, name, callback, method_name, **cb_kwargs):
        """Tell one callback what happens outside of batches."""
        getattr(callback, method_name)(self, **cb_kwargs)

    def on_batch_begin(self, net, **kwargs):
        """Leave the batch's record to the loop."""

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """Go through the batches once.

        Parameters
        ----------
        iterator : iterable or None
        training : bool
        prefix : {"train", "valid"}
        step_fn : callable
        **fit_params : object
        """
        if iterator is None:
            return
        super()._set_training(training)
        records = self.history[-1]["batches"]
        before = len(records)
        for batch in iterator:
            record = {}
            records.append(record)
            self.notify("on_batch_begin", batch=batch, training=training)
            step = step_fn(batch, **fit_params)
            if step["loss"] is not None:
                record[f"{prefix}_loss"] = step["loss"].item()
            record[f"{prefix}_batch_size"] = len(batch[0])
            self.notify("on_batch_end", batch=batch, training=training, **step)
        self.history.record(f"{prefix}_batch_count", len(records) - before)

    def _set_training(self, training=True):
        """Switch all modes where a callback has switched them since the epoch began."""
        if self.module_.training != training:
            super()._set_training(training)

    def _zero_grad_optimizer(self, set_to_none=None):
        """Drop the gradients as torch does, without a record for its profiler."""
        plain = torch.optim.Optimizer.zero_grad
        for optimizer in [getattr(self, f"{name}_") for name in self._optimizers]:
            if type(optimizer).zero_grad is not plain:
                optimizer.zero_grad()
                continue
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    weight.grad = None

    def _step_optimizer(self, step_fn):
        """Make the step of each optimizer."""
        for name in self._optimizers:
            step_optimizer(getattr(self, f"{name}_"), step_fn)
