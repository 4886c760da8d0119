"""An estimator as if its fit ended now, for callbacks that look at it."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklpos.estimator.checks import TrainingData
from sklpos.estimator.endings import Ending
from sklpos.estimator.fit import Fit, trained_model
from sklpos.nets.bounded import data_range
from sklpos.training.net import ConstrainedNet


def preview(data: TrainingData, net: ConstrainedNet) -> dict[str, Any]:
    """Attributes of an estimator as if its fit ended now, without a repair.

    The members of a `Stack` are weighed, and its mean is made exact, at the end of a
    fit only. Until then, the kinds of members count the same, or as they did at the
    end of the fit that a warm start continues.

    Parameters
    ----------
    data : TrainingData
    net : ConstrainedNet
        In the middle of its training.

    Returns
    -------
    dict
    """
    input_range = data_range(data.X)
    fit = Fit(
        net=net,
        y_ndim=data.y_ndim,
        n_iter=len(net.history),
        multipliers=np.zeros((data.n_samples, data.y.shape[1])),
        key=data.key,
        built_in={},
        loss=np.nan,
        input_range=input_range,
        # Made at once, since the net trains on.
        finished=Ending(trained_model(net, input_range)),
        seen=data.seen,
    )
    return {"fitted_": fit}
