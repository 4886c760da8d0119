"""A fit by several processes on a device, here the imitated one, in a group of one."""

import sys

import numpy as np
import pytest
import torch.distributed as dist
from fake_device import runs_on_fake_device
from problems import make_data
from skorch.callbacks import Callback

from sklpos import MLP, PositiveOutputRegressor
from sklpos.distributed import fit_data_parallel
from sklpos.training import collectives


class Forgets(Callback):
    """Drops the gradients: the imitated device cannot copy a part of a tensor."""

    def on_train_end(self, net, **kwargs):
        net.optimizer_.zero_grad()


@runs_on_fake_device
def test_a_fit_on_a_device_is_that_on_the_cpu(device):
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux":
            patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        # gloo does not know the device, and has nothing to do for a single process.
        for name in ("average", "share"):
            patch.setattr(collectives, name, lambda own: own)
        X, y = make_data(50, np.eye(3, 2), noise=0.3)
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        models = []
        for place in (device, "cpu"):
            model = PositiveOutputRegressor(
                MLP,
                max_epochs=3,
                batch_size=8,
                device=place,
                dtype="float64",
                callbacks=[Forgets()],
                optimizer__fused=True,
                random_state=0,
            )
            models.append(fit_data_parallel(model, X, y))
        dist.destroy_process_group()
    there, here = models
    # The CPU may have kernels of its own, which round in another way.
    for one, other in (
        (there.predict(X), here.predict(X)),
        (there.multipliers_, here.multipliers_),
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)
