"""The hooks of a net's callbacks, outside of batches."""

from __future__ import annotations

from skorch.callbacks import Callback
from skorch.exceptions import SkorchException

from sklpos.nets.hints import in_one_line
from sklpos.training.best import follow_best
from sklpos.training.loading import MisfitError
from sklpos.training.monitors import missing_column


def tell_callbacks(net, hook: str, **kwargs) -> KeyboardInterrupt | None:
    """Call a hook of all callbacks.

    A callback may ask to stop at the end of an epoch, by a ``KeyboardInterrupt`` as in
    skorch. The epoch is complete, so the callbacks behind it still see it.

    Parameters
    ----------
    net : ConstrainedNet
    hook : str
        Such as ``"on_epoch_end"``.
    **kwargs : object
        Arguments of the hook.

    Returns
    -------
    KeyboardInterrupt or None
        The first request to stop.

    Raises
    ------
    KeyboardInterrupt
        If the user pressed Ctrl-C, or a callback stops in the middle of an epoch.
    ValueError
        If only some of several processes are asked to stop.
    """
    stop = None
    for name, callback in net.callbacks_:
        if _is_idle(callback, hook):
            continue
        try:
            _call(net, name, callback, hook, **kwargs)
        except KeyboardInterrupt as request:
            if hook != "on_epoch_end" or net.run_.pressed:
                raise
            stop = stop or request
        follow_best(net, name, callback, hook)
    if hook == "on_epoch_end":
        _check_stop(net, stop is not None)
    return stop


def tell_callbacks_after(net, hook: str, **kwargs) -> None:
    """Call what follows a hook, such as ``after_epoch_end``, where it is defined.

    Parameters
    ----------
    net : ConstrainedNet
    hook : str
    **kwargs : object
        Arguments of the hook.
    """
    name = hook.replace("on_", "after_", 1)
    for _, callback in net.callbacks_:
        # skorch's base class has no such hooks.
        if (method := getattr(callback, name, None)) is not None:
            method(net, **kwargs)


def _is_idle(callback: Callback, hook: str) -> bool:
    """Whether a hook is the one of skorch's base class, which does nothing."""
    method = getattr(callback, hook)
    return getattr(method, "__func__", None) is getattr(Callback, hook)


def _check_stop(net, stops: bool) -> None:
    """Raise, in all processes, if only some of them end training after this epoch."""
    everyone = net.run_.world.gather(stops)
    if any(everyone) and not all(everyone):
        ranks = [rank for rank, stop in enumerate(everyone) if stop]
        raise ValueError(
            f"callbacks end training after epoch {len(net.history)} in the processes "
            f"{ranks} of {len(everyone)} only; let them look at numbers that are the "
            "same in all processes, such as train_loss and valid_loss."
        )


def _call(net, name: str, callback: Callback, hook: str, **kwargs) -> None:
    untrained = hook == "on_train_end" and not net.history
    # There is no best epoch to return to, but skorch would look at the last one.
    if untrained and getattr(callback, "load_best", False):
        return
    try:
        getattr(callback, hook)(net, **kwargs)
    except IndexError as error:
        if not untrained:
            raise
        raise ValueError(
            f"callbacks holds {name}, which reads the last epoch when training ends, "
            "but max_epochs=0 trains none; leave it out."
        ) from error
    except MisfitError as error:
        raise ValueError(
            f"callbacks holds {name}, which loads weights that do not fit the module; "
            "use the module of that checkpoint, or another checkpoint "
            f"({in_one_line(error.__cause__, 100)})"
        ) from error
    except (KeyError, SkorchException) as error:
        if hook != "on_epoch_end" or "not found in history" not in str(error):
            raise
        raise missing_column(name, error, net.history) from error
