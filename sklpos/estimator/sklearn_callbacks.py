"""The bridge to ``sklearn.callback``: each epoch is a task of `fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from skorch.callbacks import Callback

try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback import with_callbacks as _with_callbacks
# scikit-learn < 1.9 has no callbacks.
except ImportError:

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
    """Let a `fit` run callbacks if scikit-learn has them; keeps its type."""
    # scikit-learn's decorator is untyped, and would hide the signature of `fit`.
    return _with_callbacks(method)


class EpochBridge(Callback):
    """Reports the epochs of a skorch net to the scikit-learn callbacks of a `fit`.

    A callback that asks to stop ends training as early stopping does.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    context : sklearn.callback.CallbackContext
        That of the estimator's `fit`.
    preview : callable
        Maps a net to the attributes of an estimator as if fitted so far.
    **data : object
        ``X``, ``y`` and ``metadata``, as passed to the callbacks.
    """

    def __init__(self, estimator, context, preview, **data):
        self.estimator = estimator
        self.context = context
        self.preview = preview
        self.data = data

    def on_epoch_begin(self, net, **kwargs):
        """Open the epoch's task."""
        self.task_ = self.context.subcontext(task_name="epoch")
        self.task_.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def on_epoch_end(self, net, **kwargs):
        """Close it; stop training if a callback wants that."""
        stop = self.task_.call_on_fit_task_end(
            estimator=self.estimator,
            # A function, because most callbacks need no copy of the net.
            reconstruction_attributes=lambda: self.preview(net),
            **self.data,
        )
        # skorch's way to end training, and to keep what was trained.
        if stop:
            raise KeyboardInterrupt


@dataclass(frozen=True, eq=False)
class FitTask:
    """The `fit` of an estimator, as scikit-learn's callbacks see it.

    Attributes
    ----------
    estimator : PositiveOutputRegressor
    context : sklearn.callback.CallbackContext
    data : dict
        ``X``, ``y`` and ``metadata``.
    """

    estimator: Any
    context: Any
    data: dict[str, Any]

    def net_callbacks(self, preview: Callable) -> list[tuple[str, Callback]]:
        """Callbacks of the net that report its epochs, if anyone listens.

        Parameters
        ----------
        preview : callable
            Maps a net to the attributes of an estimator as if fitted so far.

        Returns
        -------
        list of (str, Callback)
        """
        # Without listeners, an epoch should cost nothing extra.
        if not getattr(self.estimator, "_skl_callbacks", None):
            return []
        bridge = EpochBridge(self.estimator, self.context, preview, **self.data)
        return [("sklearn", bridge)]


@contextmanager
def fit_task(estimator, context, X, y, sample_weight) -> Iterator[FitTask]:
    """Tell scikit-learn's callbacks that a `fit` begins, and that it is over.

    Parameters
    ----------
    estimator : PositiveOutputRegressor
    context : sklearn.callback.CallbackContext
        That of the estimator, new.
    X, y, sample_weight : object
        As `fit` was given them.

    Yields
    ------
    FitTask
    """
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    data = {"X": X, "y": y, "metadata": metadata}
    context.call_on_fit_task_begin(estimator=estimator, **data)
    yield FitTask(estimator, context, data)
    context.call_on_fit_task_end(
        estimator=estimator, reconstruction_attributes=lambda: vars(estimator), **data
    )
