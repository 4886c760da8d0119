"""A multilayer perceptron, and how modules are taken apart."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral, Real

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from sklpos.nets.as_matrix import AsMatrix
from sklpos.nets.hints import did_you_mean, shown

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


@dataclass(frozen=True)
class TrainingDefaults:
    """What ``"auto"`` means: ``training_defaults(n_samples)`` of a module, or these.

    Attributes
    ----------
    strategy : str, default="augmented_lagrangian"
        A name in ``sklpos.STRATEGIES``.
    lr : float, default=0.004
        Learning rate.
    batch_size : int, default=128
        Rows per step.
    epochs, steps : int, default=100 and 0
        Smallest number of epochs, and of steps on the weights.

    Examples
    --------
    >>> TrainingDefaults(epochs=40, steps=400).max_epochs(n_batches=3)
    134
    """

    strategy: str = "augmented_lagrangian"
    lr: float = 0.004
    batch_size: int = 128
    epochs: int = 100
    steps: int = 0

    @classmethod
    def of(cls, module: object, n_samples: int) -> TrainingDefaults:
        """Defaults that a module, or what makes one, asks for.

        Parameters
        ----------
        module : type, callable or nn.Module
        n_samples : int
            Training rows.

        Returns
        -------
        TrainingDefaults
        """
        while isinstance(module, functools.partial):
            module = module.func
        own = getattr(module, "training_defaults", None)
        return cls() if own is None else own(n_samples)

    def max_epochs(self, n_batches: int) -> int:
        """Number of epochs to train.

        Parameters
        ----------
        n_batches : int
            Steps of an epoch.

        Returns
        -------
        int
        """
        return max(self.epochs, math.ceil(self.steps / n_batches))


class MLP(nn.Module):
    """Fully connected features and a plain linear head.

    Parameters
    ----------
    n_features_in : int
        Number of inputs.
    n_outputs : int
        Number of outputs.
    hidden_layer_sizes : int or iterable of int, default=(100,)
        Width of each hidden layer; ``()`` is a linear model.
    activation : str or callable, default="relu"
        A key of `ACTIVATIONS`, or a callable that returns an ``nn.Module``.
    dropout : float, default=0.0
        Probability of dropping a hidden unit.
    bias : bool, default=True
        Whether the head has a bias.

    Examples
    --------
    >>> MLP(3, 2, hidden_layer_sizes=(4,)).head
    Linear(in_features=4, out_features=2, bias=True)
    """

    def __init__(
        self,
        n_features_in: int,
        n_outputs: int,
        hidden_layer_sizes: int | Iterable[int] = (100,),
        activation: str | Callable[[], nn.Module] = "relu",
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        _check_dropout(dropout)
        widths = [n_features_in, *_as_widths(hidden_layer_sizes)]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), _activation(activation)]
            layers += [nn.Dropout(dropout)] if dropout else []
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], n_outputs, bias=bias)

    def forward(self, X: Tensor) -> Tensor:
        """Predict rows.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, n_features_in)

        Returns
        -------
        torch.Tensor of shape (n_samples, n_outputs)
        """
        return self.head(self.features(X))


def _as_widths(sizes: int | Iterable[int]) -> list[int]:
    widths = list(sizes) if isinstance(sizes, Iterable) else [sizes]
    if not all(_is_width(width) for width in widths):
        raise ValueError(
            f"hidden_layer_sizes={shown(sizes)} must be positive integers, such as "
            "(64, 64)."
        )
    return [int(width) for width in widths]


def _is_width(width: object) -> bool:
    # To Python, True is an integer.
    return isinstance(width, Integral) and not isinstance(width, bool) and width > 0


def _check_dropout(dropout: float) -> None:
    if not isinstance(dropout, Real) or not 0 <= dropout <= 1:
        raise ValueError(f"dropout={shown(dropout)} must be between 0 and 1.")


def _activation(name: str | Callable[[], nn.Module]) -> nn.Module:
    if isinstance(name, str) and name in ACTIVATIONS:
        return ACTIVATIONS[name]()
    made = None
    # An instance would be called with no input; layers cannot share one that learns.
    if callable(name) and not isinstance(name, nn.Module):
        # A function such as torch.relu takes an input instead.
        with suppress(TypeError):
            made = name()
    if not isinstance(made, nn.Module):
        listed = (
            f"; choose one of {sorted(ACTIVATIONS)}, or pass a class or callable that "
            "makes an nn.Module."
        )
        raise ValueError(
            f"activation={shown(name)} is unknown"
            f"{did_you_mean(name, ACTIVATIONS) or listed}"
        )
    return made


_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def hooks_of(module: nn.Module) -> list[tuple[int, Callable]]:
    """Hooks that may replace what a module takes or returns, with their numbers.

    Parameters
    ----------
    module : nn.Module

    Returns
    -------
    list of (int, callable)
        Its own, and those that are registered for all modules.
    """
    own = [getattr(module, kind) for kind in _HOOKS]
    shared = [getattr(torch_module, f"_global{kind}") for kind in _HOOKS]
    return [pair for hooks in (*own, *shared) for pair in hooks.items()]


def has_own_forward(module: nn.Module) -> bool:
    """Whether a module may compute something other than its type does."""
    # An instance may have a forward assigned to it; hooks can replace input and output.
    return "forward" in vars(module) or bool(hooks_of(module))


def layers_of(module: nn.Module, name: str = "") -> Iterator[tuple[nn.Module, str]]:
    """Take nested ``nn.Sequential`` and `MLP` apart, in the order of their calls.

    Subclasses and modules with a hook are not taken apart. `AsMatrix` at the end is
    left out, together with a flatten layer that it undoes.

    Parameters
    ----------
    module : nn.Module
    name : str, default=""
        Its dotted name.

    Yields
    ------
    layer : nn.Module
    name : str
    """
    layers = list(_all_layers_of(module, name))
    for kind in (AsMatrix, nn.Flatten):
        last = layers[-1][0] if layers else None
        if type(last) is not kind or has_own_forward(last):
            break
        layers.pop()
    yield from layers


def _all_layers_of(module: nn.Module, name: str) -> Iterator[tuple[nn.Module, str]]:
    # An exact type, as the forward of a subclass may call its children differently.
    if type(module) in (nn.Sequential, MLP) and not has_own_forward(module):
        # named_children() skips the second use of a layer that is used twice.
        for child_name, child in module._modules.items():
            yield from _all_layers_of(child, f"{name}.{child_name}".lstrip("."))
    else:
        yield module, name


def uncompiled(module: nn.Module) -> nn.Module:
    """The module behind ``torch.compile``; any other one is returned as it is.

    Parameters
    ----------
    module : nn.Module

    Returns
    -------
    nn.Module
    """
    # ``torch.compile`` wraps a module and registers it under this name.
    return getattr(module, "_orig_mod", module)
