"""The mean loss of an epoch, over its batches."""

from __future__ import annotations

from typing import Any

import numpy as np
from skorch.callbacks import PassthroughScoring


class EpochLoss(PassthroughScoring):
    """Averages a column of the batches, weighted by their sizes.

    skorch's own class looks the batches up several times, and copies the whole history
    each time, which takes a noticeable part of a short epoch.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from skorch.history import History
    >>> net = SimpleNamespace(history=History())
    >>> net.history.new_epoch()
    >>> batch = {"train_loss": 0.5, "train_batch_size": 8}
    >>> net.history[-1]["batches"].append(batch)
    >>> EpochLoss("train_loss", on_train=True).initialize().on_epoch_end(net)
    >>> float(net.history[-1, "train_loss"])
    0.5
    """

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Record the mean, and whether it is the best one; nothing without batches.

        Parameters
        ----------
        net : ConstrainedNet
        **kwargs : object
            What skorch passes on; not used.
        """
        epoch = net.history[-1]
        kind = "train" if self.on_train else "valid"
        batches = [batch for batch in epoch["batches"] if self.name in batch]
        if not batches:
            return
        losses = [batch[self.name] for batch in batches]
        sizes = [batch[f"{kind}_batch_size"] for batch in batches]
        mean = np.average(losses, weights=sizes)
        best = self._is_best_score(mean)
        if best:
            self.best_score_ = mean
        epoch[self.name] = mean
        if best is not None:
            epoch[f"{self.name}_best"] = bool(best)
