"""Networks: the package's MLP, and how the head of any module is found."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor, nn

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

_NONNEGATIVE = (
    nn.ReLU,
    nn.ReLU6,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.Softplus,
    nn.Softmax,
)
_SIGN_PRESERVING = (nn.Identity, nn.Dropout, nn.Flatten)


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
        A name of `ACTIVATIONS`, or a callable that returns an ``nn.Module``.
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
        widths = [n_features_in, *_as_widths(hidden_layer_sizes)]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), _activation(activation)]
            layers += [nn.Dropout(dropout)] if dropout else []
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], n_outputs, bias=bias)

    def forward(self, X: Tensor) -> Tensor:
        """Map (n_samples, n_features_in) to (n_samples, n_outputs)."""
        return self.head(self.features(X))


def _as_widths(sizes: int | Iterable[int]) -> list[int]:
    widths = list(sizes) if isinstance(sizes, Iterable) else [sizes]
    if not all(isinstance(width, Integral) and width > 0 for width in widths):
        raise ValueError(
            f"hidden_layer_sizes={sizes!r} must be positive integers, such as (64, 64)."
        )
    return [int(width) for width in widths]


def _activation(name: str | Callable[[], nn.Module]) -> nn.Module:
    if callable(name):
        return name()
    if name not in ACTIVATIONS:
        raise ValueError(
            f"activation={name!r} is unknown; choose one of {sorted(ACTIVATIONS)} or "
            "pass a callable that returns an nn.Module."
        )
    return ACTIVATIONS[name]()


def make_module(module, n_features_in: int, n_outputs: int, **kwargs) -> nn.Module:
    """Build a module from a class or callable.

    Parameters
    ----------
    module : callable
        Receives ``n_features_in`` and ``n_outputs`` if its signature has them.
    n_features_in, n_outputs : int
        Sizes of the data.
    **kwargs : object
        Further arguments.

    Returns
    -------
    nn.Module

    Raises
    ------
    TypeError
        If it returns something else, or the arguments do not fit.
    """
    signature = inspect.signature(module)
    for name, size in (("n_features_in", n_features_in), ("n_outputs", n_outputs)):
        if name in signature.parameters:
            kwargs.setdefault(name, size)
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        raise TypeError(
            f"module={module!r} {error}; its arguments are n_features_in, n_outputs "
            "and what is passed as module__name=value."
        ) from error
    made = module(**kwargs)
    if not isinstance(made, nn.Module):
        raise TypeError(f"module={module!r} returned {made!r}, not an nn.Module.")
    return made


@dataclass(frozen=True)
class Call:
    """One call of a layer during a forward pass."""

    name: str
    layer: nn.Module
    input: Tensor
    output: Tensor


@torch.no_grad()
def trace(module: nn.Module, X: Tensor) -> tuple[Tensor, list[Call]]:
    """Run a module in eval mode and record the calls of its layers, in order.

    Parameters
    ----------
    module : nn.Module
        Left in eval mode.
    X : torch.Tensor of shape (n_samples, n_features)
        A few rows.

    Returns
    -------
    output : torch.Tensor
    calls : list of Call
    """
    calls: list[Call] = []
    with ExitStack() as hooks:
        for name, layer in module.named_modules():
            if not list(layer.children()):

                def record(layer, args, output, name=name):
                    if args and isinstance(args[0], Tensor):
                        calls.append(Call(name, layer, args[0], output))

                hooks.callback(layer.register_forward_hook(record).remove)
        try:
            output = module.eval()(X)
        except RuntimeError as error:
            raise ValueError(
                f"module cannot take X with {X.shape[1]} features: {error}"
            ) from error
    return output, calls


def check_output(output, n_outputs: int) -> None:
    """Raise ValueError unless a module's output is (n_samples, n_outputs)."""
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output)
    if shape != (1, n_outputs):
        raise ValueError(
            f"module must map (n_samples, n_features) to (n_samples, {n_outputs}), but "
            f"for one sample it returned {shape}."
        )


def find_head(module: nn.Module, X: Tensor, n_outputs: int) -> str:
    """Find the ``nn.Linear`` whose output is the module's output.

    Parameters
    ----------
    module : nn.Module
    X : torch.Tensor of shape (1, n_features)
        Any row.
    n_outputs : int
        Width the output must have.

    Returns
    -------
    str
        Its dotted name, for ``module.get_submodule``.

    Raises
    ------
    ValueError
        If the module ends in something else, or is of another width.
    """
    output, calls = trace(module, X)
    check_output(output, n_outputs)
    last = next((call for call in reversed(calls) if call.output is output), None)
    if last is None or type(last.layer) is not nn.Linear:
        ending = "an operation" if last is None else type(last.layer).__name__
        raise ValueError(
            f"module must end in a plain nn.Linear with {n_outputs} outputs, but it "
            f"ends in {ending}; drop what follows the last nn.Linear "
            "(strategy='activation' puts an activation of its own there)."
        )
    if sum(call.layer is last.layer for call in calls) > 1 or last.input.dim() != 2:
        raise ValueError(
            "module must apply its last nn.Linear once, to (n_samples, n_hidden) "
            "features."
        )
    return last.name


def check_nonnegative_features(module: nn.Module, head: str, X: Tensor) -> None:
    """Raise ValueError unless what enters the head cannot be negative.

    Parameters
    ----------
    module : nn.Module
        The last layer before the head must be a known non-negative activation;
        dropout, identity and flatten may follow it.
    head : str
        Dotted name of the last ``nn.Linear``.
    X : torch.Tensor of shape (1, n_features)
        Any row.
    """
    _, calls = trace(module, X)
    source = next(call for call in calls if call.name == head).input
    for call in reversed(calls):
        if call.output is source and isinstance(call.layer, _NONNEGATIVE):
            return
        if call.output is source and isinstance(call.layer, _SIGN_PRESERVING):
            source = call.input
        elif call.output is source:
            break
    raise ValueError(
        "strategy='nonnegative_weights' needs features that cannot be negative: put "
        "an nn.ReLU, nn.Sigmoid or nn.Softplus layer before the last nn.Linear."
    )


def replace_layer(module: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Put a layer in the place of another, in place.

    Parameters
    ----------
    module : nn.Module
    name : str
        Dotted name of the layer to replace; ``""`` is the module itself.
    layer : nn.Module

    Returns
    -------
    nn.Module
        The module, or the layer if it replaced the whole module.
    """
    if not name:
        return layer
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, layer)
    return module


@contextmanager
def head_input(module: nn.Module, head: str) -> Iterator[list[Tensor]]:
    """Collect what enters the head while the context is open.

    Parameters
    ----------
    module : nn.Module
    head : str
        Dotted name of the head.

    Yields
    ------
    list of torch.Tensor of shape (batch, n_hidden)
        Grows by one tensor a forward pass.
    """
    seen: list[Tensor] = []
    hook = module.get_submodule(head).register_forward_pre_hook(
        lambda layer, args: seen.append(args[0])
    )
    try:
        yield seen
    finally:
        hook.remove()
