"""The learning rate of a `fit`: from its start to 0 on half a cosine."""

from __future__ import annotations

from skorch.callbacks import Callback, LRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR

#: Name of the callback.
NAME = "lr_schedule"


class CosineSchedule(LRScheduler):
    """Anneals the learning rate from its start to 0, over the epochs of one `fit`.

    With a constant learning rate the last iterate of a stochastic method keeps moving
    around the optimum; annealed, it settles there [1]_. Afterwards the learning rate is
    what it was before, so that `partial_fit` continues with it.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter (2017), "SGDR: stochastic gradient descent with warm
       restarts", doi:10.48550/arXiv.1608.03983.

    Examples
    --------
    >>> CosineSchedule.over(100).T_max
    100
    """

    @classmethod
    def over(cls, n_epochs: int) -> CosineSchedule:
        """Make a schedule for a number of epochs.

        Parameters
        ----------
        n_epochs : int
            Positive.

        Returns
        -------
        CosineSchedule
        """
        # Without `last_epoch`, skorch would continue where the history ends, beyond the
        # horizon, where a cosine rises again.
        made = cls(CosineAnnealingLR, event_name="lr", T_max=n_epochs, last_epoch=-1)
        return made.initialize()

    # That of skorch waits for schedules that step in every batch: a net with a callback
    # that listens to batches cannot take the fast way through them.
    on_batch_end = Callback.on_batch_end

    def on_train_end(self, net, *args, **kwargs):
        """Put the learning rates back to where the schedule found them."""
        super().on_train_end(net, *args, **kwargs)
        # Removed as well, or a later schedule would start from this value.
        for group in net.optimizer_.param_groups:
            group["lr"] = group.pop("initial_lr", group["lr"])


def schedule_callbacks(
    lr_schedule: str | None, callbacks: list | None, n_epochs: int
) -> list[tuple[str, Callback]]:
    """Callback for the schedule of a `fit`, unless the user passes one.

    Parameters
    ----------
    lr_schedule : {"cosine", None}
    callbacks : list of skorch callbacks or (str, callback), or None
        Callbacks of the user.
    n_epochs : int

    Returns
    -------
    list of (str, Callback)
    """
    given = [item[-1] if isinstance(item, tuple) else item for item in callbacks or []]
    kinds = [item if isinstance(item, type) else type(item) for item in given]
    if lr_schedule is None or not n_epochs:
        return []
    if any(issubclass(kind, LRScheduler) for kind in kinds):
        return []
    return [(NAME, CosineSchedule.over(n_epochs))]
