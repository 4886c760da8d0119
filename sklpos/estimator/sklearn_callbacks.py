"""The bridge to ``sklearn.callback``: each epoch is a task of `fit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from skorch.callbacks import Callback

try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback import with_callbacks as _with_callbacks
except ImportError:  # scikit-learn < 1.9 has no callbacks

    class _NoContext:
        def call_on_fit_task_begin(self, **kwargs):
            return self

        def call_on_fit_task_end(self, **kwargs):
            return False

    class CallbackSupportMixin:
        """Stand-in without `set_callbacks`."""

        def _init_callback_context(self, **kwargs):
            return _NoContext()

    def _with_callbacks(method):
        return method


_Method = TypeVar("_Method", bound=Callable)


def with_callbacks(method: _Method) -> _Method:
    """Let a `fit` run callbacks, where scikit-learn has them; its type is kept."""
    return _with_callbacks(method)


class EpochBridge(Callback):
    """Reports the epochs of a skorch net to the scikit-learn callbacks of a `fit`.

    A callback that asks to stop ends training as early stopping does.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    context : sklearn.callback.CallbackContext
        That of the estimator's `fit`.
    snapshot : callable
        Returns the attributes of an estimator as if fitted so far.
    **data : object
        ``X``, ``y`` and ``metadata`` as the callbacks shall see them.
    """

    def __init__(self, estimator, context, snapshot, **data):
        self.estimator = estimator
        self.context = context
        self.snapshot = snapshot
        self.data = data

    def on_epoch_begin(self, net, **kwargs):
        """Open the epoch's task."""
        self.task_ = self.context.subcontext(task_name="epoch")
        self.task_.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def on_epoch_end(self, net, **kwargs):
        """Close it; stop training if a callback wants that."""
        stop = self.task_.call_on_fit_task_end(
            estimator=self.estimator,
            reconstruction_attributes=self.snapshot,
            **self.data,
        )
        if stop:
            raise KeyboardInterrupt
