"""State as plain containers and arrays, for pickle, joblib and skops.

A tensor becomes an array, a module or a callback its class and its attributes; classes
of torch and of this package are stored by name. Loading runs no constructor that
the file chooses but that of the optimizer, and no code that it brings with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sklearn.exceptions import InconsistentVersionWarning
from skorch.exceptions import DeviceWarning
from skorch.history import History

from sklpos.nets.copies import copy_module, copy_optimizer
from sklpos.nets.hints import in_one_line
from sklpos.nets.modules import uncompiled
from sklpos.nets.placement import check_device
from sklpos.nets.process import leaves_no_trace
from sklpos.nets.warnings import warn_user
from sklpos.training.copies import copy_callbacks
from sklpos.training.earlier import upgraded
from sklpos.training.net_schema import check_net
from sklpos.training.optimizer_state import check_optimizer_state
from sklpos.training.packing import Packer
from sklpos.training.schema import check_attribute_names, check_value
from sklpos.training.state import load_state
from sklpos.training.state_digest import state_digest
from sklpos.training.trees import copied
from sklpos.training.unpacking import Unpacker
from sklpos.version import __version__

# State of a run, and lists of methods, which are made again when they are needed.
_NOT_STORED = ("virtual_params_", "listeners_", "run_", "steps_", "epoch_")
# Parameters that hold the trained modules themselves.
_GIVEN = ("module", "constraint", "domain_constraint")
_MODULES = ("module", "criterion", "constraint", "domain_constraint")


class VersionWarning(InconsistentVersionWarning):
    """The object that is loaded was stored by another version of the package."""

    def __str__(self) -> str:
        return (
            f"this {self.estimator_name} was stored by sklpos "
            f"{self.original_sklearn_version} and is loaded by sklpos "
            f"{self.current_sklearn_version}: it may not predict or train as before. "
            "Load it with the version that stored it, or fit it again."
        )


class PlainState:
    """Mixin for objects stored as plain containers, arrays and class references.

    Subclasses with other attributes define ``plain_vars()``, which returns the
    attributes to store, and ``take_vars(state)``, which sets them from tensors on the
    CPU.
    """

    @leaves_no_trace
    def __getstate__(self) -> dict:
        state = self.plain_vars() if hasattr(self, "plain_vars") else vars(self)
        packed = Packer().pack_items(state)
        return {
            "sklpos_version": __version__,
            "digest": state_digest(packed),
            "vars": packed,
        }

    @leaves_no_trace
    def __setstate__(self, state: dict) -> None:
        unpacker = Unpacker()
        with _loading(self, unpacker):
            stored_by = _read_version(state)
        if stored_by != __version__:
            warn_user(
                VersionWarning(
                    estimator_name=type(self).__name__,
                    current_sklearn_version=__version__,
                    original_sklearn_version=stored_by,
                )
            )
        with _loading(self, unpacker):
            found = upgraded(type(self), unpacker.unpack_items(state["vars"]))
            check_attribute_names(type(self), found)
            # Last, because what else is wrong tells more.
            _check_digest(state)
            if hasattr(self, "take_vars"):
                self.take_vars(found)
            else:
                vars(self).update(found)
            self._check_loaded()

    def _check_loaded(self) -> None:
        """Check that what was loaded fits together; ValueError if it does not."""


@contextmanager
def _loading(thing: PlainState, unpacker: Unpacker) -> Iterator[None]:
    """Say in one sentence what is wrong with a file, whatever fails."""
    try:
        yield
    # Warnings that a filter turns into errors are not about the file.
    except Warning:
        raise
    except Exception as error:
        place = unpacker.place
        # The end of a place and the beginning of a message tell most.
        place = place if len(place) <= 50 else f"...{place[-47:]}"
        raise ValueError(
            f"this {type(thing).__name__} cannot be loaded, because its file is "
            "damaged, was changed or is of another version: "
            f"{f'in {place}, ' if place else ''}{in_one_line(error, 130)}"
        ) from error


def _read_version(state: Any) -> str:
    """The version that stored a state, or words that say that it is not known."""
    check_value("state", state, dict)
    check_value("vars", state.get("vars"), dict)
    stored_by = state.get("sklpos_version", "of unknown version")
    check_value("sklpos_version", stored_by, str)
    return stored_by


def _check_digest(state: dict) -> None:
    """Find what was damaged or changed; files of earlier versions have no digest."""
    digest = state.get("digest")
    if digest is not None and digest != state_digest(state["vars"]):
        raise ValueError("the content does not match the digest stored with it.")


def net_vars(net) -> dict[str, Any]:
    """Attributes of a net to store; of the optimizer its ``state_dict``.

    Parameters
    ----------
    net : ConstrainedNet

    Returns
    -------
    dict
        The modules are the ones behind ``torch.compile``, and attributes that hold
        functions are left out.
    """
    state = {k: v for k, v in vars(net).items() if k not in _NOT_STORED}
    if net.initialized_:
        state["module_"] = net.plain_module_
        state["criterion_"] = uncompiled(net.criterion_)
        state["optimizer_"] = net.optimizer_.state_dict()
    return state


def take_net_vars(net, state: dict[str, Any]) -> None:
    """Set the attributes of a net, move them to the device, and make an optimizer.

    Parameters
    ----------
    net : ConstrainedNet
    state : dict
        From `net_vars`.
    """
    check_net(state)
    vars(net).update(state, virtual_params_={}, listeners_=None)
    net.forget_run()
    if not net.initialized_:
        return
    net.device = _usable_device(net.device)
    for name in _MODULES:
        part = state.get(f"{name}_")
        if isinstance(part, torch.nn.Module):
            part = net.torch_compile(part.to(net.device), name)
            vars(net)[f"{name}_"] = part
    net.initialize_virtual_params()
    # Otherwise skorch prints that it initialises the optimizer again.
    net.initialized_ = False
    net.renew_optimizer(net.optimizer)
    net.initialized_ = True
    check_optimizer_state(net.optimizer_, state["optimizer_"])
    load_state(net.optimizer_, state["optimizer_"])


def fork(net, *, constraints: bool = True):
    """Copy a net, so that training the copy leaves the original as it is.

    Parameters
    ----------
    net : ConstrainedNet
    constraints : bool, default=True
        False shares the constraints, which are to be replaced before the copy trains.

    Returns
    -------
    ConstrainedNet
        With its own modules, optimizer and history, and shallow copies of the
        callbacks, which may hold open files.
    """
    state = {k: v for k, v in vars(net).items() if k not in _NOT_STORED}
    copied_names = _MODULES if constraints else _MODULES[:2]
    # One memo, so that modules that share a tensor still share it in the copy.
    memo: dict[int, Any] = {}
    plain = {"module": net.plain_module_, "criterion": uncompiled(net.criterion_)}
    for name in copied_names:
        part = plain.get(name, state[f"{name}_"])
        if part is not None:
            state[f"{name}_"] = copy_module(part, memo)
    state |= {name: state[f"{name}_"] for name in _GIVEN}
    callbacks = copy_callbacks(net.callbacks_)
    state |= {"history_": History(net.history), "callbacks_": callbacks}
    twin = object.__new__(type(net))
    optimizer = None if net.compile else copy_optimizer(net.optimizer_, memo)
    if optimizer is None:
        # An optimizer goes on to change the tensors that it loaded.
        state["optimizer_"] = copied(net.optimizer_.state_dict())
        take_net_vars(twin, state)
        return twin
    parameters = dict(net.virtual_params_)
    vars(twin).update(state, optimizer_=optimizer, listeners_=None)
    vars(twin).update(virtual_params_=parameters)
    twin.forget_run()
    return twin


def _usable_device(device: str) -> str:
    """The device if this machine has it, or else the CPU, with a warning."""
    try:
        check_device(device)
    except ValueError:
        warn_user(
            f"the model was stored on device={device!r}, which cannot be used on this "
            "machine; it is loaded on the CPU.",
            DeviceWarning,
        )
        return "cpu"
    return device
