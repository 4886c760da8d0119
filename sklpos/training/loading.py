"""Weights, multipliers and optimizers loaded from files: all that fits, or nothing."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from sklearn.exceptions import NotFittedError
from skorch import NeuralNetRegressor
from torch import Tensor, nn
from torch.optim import Optimizer

from sklpos.nets.hints import in_one_line
from sklpos.training.optimizer_state import check_optimizer_state
from sklpos.training.schema import check_history, check_weight
from sklpos.training.state import load_state, trained_parts
from sklpos.training.trees import copied

# Not about what a file holds: it is not there, for instance.
_OTHER_ERRORS = (OSError, Warning, NotFittedError)
# Where skorch refuses the arguments of a call.
_CALLS = ("skorch.net", "skorch.utils")


class MisfitError(ValueError):
    """A file that is loaded into a net does not fit it; the net stays as it was."""


class LoadingNet(NeuralNetRegressor):
    """skorch net whose parts stay as they were if a file does not fit them."""

    def load_params(self, *args: Any, checkpoint=None, **kwargs: Any) -> None:
        """Load parts of the net from files, see ``skorch.NeuralNet.load_params``.

        Parameters
        ----------
        *args, **kwargs : object
            ``f_params``, ``f_optimizer``, ``f_criterion``, ``f_history``,
            ``f_constraint`` and the other parameters of skorch's method.
        checkpoint : skorch.callbacks.Checkpoint, optional

        Raises
        ------
        MisfitError
            If a file does not fit: names, shapes or dtypes are others, a weight is NaN,
            infinite or not floating-point, or it is no such file. The net is then as it
            was before.
        """
        if checkpoint is not None and not self.initialized_:
            self.initialize()
        with _all_or_nothing(self):
            super().load_params(*args, checkpoint=checkpoint, **kwargs)


@contextmanager
def _all_or_nothing(net) -> Iterator[None]:
    if not net.initialized_:
        # What skorch says of it is clear.
        yield
        return
    parts = trained_parts(net)
    before = {name: copied(part.state_dict()) for name, part in parts.items()}
    history = net.history
    try:
        with ExitStack() as hooks:
            for part in parts.values():
                hooks.callback(_watched(part).remove)
            yield
        check_history(net.history)
    except BaseException as error:
        for name, part in parts.items():
            load_state(part, before[name])
        net.history = history
        if not isinstance(error, Exception) or _is_about_call(error):
            raise
        raise MisfitError(
            f"the file does not fit the net, which stays as it was: "
            f"{in_one_line(error, 200)}"
        ) from error


def _is_about_call(error: Exception) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    of_skorch = frame.f_globals.get("__name__") in _CALLS
    wrong_call = of_skorch and isinstance(error, (TypeError, AttributeError))
    return wrong_call or isinstance(error, _OTHER_ERRORS)


def _watched(part: nn.Module | Optimizer):
    """Check what a part loads before it does; the handle of the hook."""
    if isinstance(part, Optimizer):
        return part.register_load_state_dict_pre_hook(check_optimizer_state)

    def check(module, state, *args):
        live = module.state_dict(keep_vars=True)
        for name, value in state.items():
            _check_tensor(name, value, live.get(name))

    return part.register_load_state_dict_pre_hook(check)


def _check_tensor(name: str, value: Any, live: Any) -> None:
    """Check the numbers of a tensor; torch compares names and shapes."""
    if not isinstance(value, Tensor) or not isinstance(live, Tensor):
        return
    if isinstance(live, nn.Parameter):
        check_weight(name, value)
    if value.is_floating_point() != live.is_floating_point() or value.is_complex():
        kinds = (str(one.dtype).removeprefix("torch.") for one in (value, live))
        raise ValueError("{!r} is {}, not {}.".format(name, *kinds))
    if value.is_floating_point() and torch.isnan(value).any():
        raise ValueError(f"{name!r} holds NaN.")
