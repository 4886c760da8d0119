"""Forward and backward passes of several nets at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from sklpos.nets.hints import in_one_line
from sklpos.training.backprop import Backprop
from sklpos.training.joint.weights import JointWeights
from sklpos.training.rows import RowDataset

_ATEN = torch.ops.aten

# In place: the derivative of each follows from its output alone.
_FORWARD: dict[type, Callable] = {
    nn.ReLU: torch.relu_,
    nn.Tanh: torch.tanh_,
    nn.Sigmoid: torch.sigmoid_,
}


def _through_relu(gradient: Tensor, output: Tensor) -> None:
    _ATEN.threshold_backward.grad_input(gradient, output, 0, grad_input=gradient)


def _through_tanh(gradient: Tensor, output: Tensor) -> None:
    _ATEN.tanh_backward.grad_input(gradient, output, grad_input=gradient)


def _through_sigmoid(gradient: Tensor, output: Tensor) -> None:
    _ATEN.sigmoid_backward.grad_input(gradient, output, grad_input=gradient)


_BACKWARD: dict[type, Callable] = {
    nn.ReLU: _through_relu,
    nn.Tanh: _through_tanh,
    nn.Sigmoid: _through_sigmoid,
}


class PlainPasses:
    """Passes through linear layers and plain activations, by batched products.

    Parameters
    ----------
    layers : list of (str, type or None)
        Prefix of the weights of each linear layer, and the activation behind it.
    weights : JointWeights
    """

    def __init__(self, layers: list[tuple[str, type | None]], weights: JointWeights):
        self.layers = layers
        self.weights = weights
        # New memory takes longer than the arithmetic.
        self._memory: dict[tuple, Tensor] = {}

    @classmethod
    def of(cls, module: nn.Module, weights: JointWeights) -> PlainPasses | None:
        """Passes of nets, or None if their module needs autograd.

        Parameters
        ----------
        module : nn.Module
            That of any of the nets.
        weights : JointWeights
        """
        passes = Backprop.of(module)
        if passes is None:
            return None
        names = {part: name for name, part in module.named_modules()}
        layers: list[tuple[str, type | None]] = []
        for layer in passes.layers:
            if type(layer) is nn.Linear:
                prefix = f"{names[layer]}." if names[layer] else ""
                layers.append((prefix, None))
            elif type(layer) in _FORWARD:
                # The input of any other would be needed, which it changes.
                if not layers or layers[-1][1] is not None:
                    return None
                layers[-1] = (layers[-1][0], type(layer))
        # A layer that occurs twice has one gradient, which is a sum.
        twice = len({prefix for prefix, _ in layers}) < len(layers)
        return None if twice or not layers else cls(layers, weights)

    @torch.no_grad()
    def forward(self, X: Tensor) -> Tensor:
        """Outputs of the first nets, each for its own rows.

        Parameters
        ----------
        X : torch.Tensor of shape (n_first, batch, n_features)

        Returns
        -------
        torch.Tensor of shape (n_first, batch, n_outputs)
        """
        self._values = [X]
        for prefix, activation in self.layers:
            weight = self._of_first(f"{prefix}weight", X)
            shape = (*X.shape[:2], weight.shape[1])
            own = self._reused(prefix, shape, X)
            if f"{prefix}bias" in self.weights.by_name:
                bias = self._of_first(f"{prefix}bias", X)[:, None]
                torch.baddbmm(bias, self._values[-1], weight.mT, out=own)
            else:
                torch.bmm(self._values[-1], weight.mT, out=own)
            if activation is not None:
                _FORWARD[activation](own)
            self._values.append(own)
        return self._values[-1]

    @torch.no_grad()
    def backward(self, gradient: Tensor) -> list[Tensor]:
        """Gradients of the weights, in the order of `JointWeights.by_name`.

        Parameters
        ----------
        gradient : torch.Tensor of shape (n_first, batch, n_outputs)
            Of the loss, with respect to the outputs.

        Returns
        -------
        list of torch.Tensor of shape (n_first, ...)
        """
        found = {}
        *inputs, output = self._values
        layers = list(zip(self.layers, inputs, strict=True))
        for (prefix, activation), source in layers[::-1]:
            if activation is not None:
                _BACKWARD[activation](gradient, output)
            found[f"{prefix}weight"] = torch.bmm(gradient.mT, source)
            found[f"{prefix}bias"] = gradient.sum(1)
            if source is not inputs[0]:
                weight = self._of_first(f"{prefix}weight", source)
                own = self._reused(f"{prefix}gradient", source.shape, source)
                gradient = torch.bmm(gradient, weight, out=own)
            output = source
        return [found[name] for name in self.weights.by_name]

    def _of_first(self, name: str, like: Tensor) -> Tensor:
        return self.weights.by_name[name].detach()[: len(like)]

    def _reused(self, name: str, shape: tuple, like: Tensor) -> Tensor:
        key = name, *shape
        if key not in self._memory:
            self._memory[key] = like.new_empty(shape)
        return self._memory[key]


class MappedPasses:
    """Passes through any module, mapped over the nets, by autograd.

    Parameters
    ----------
    modules : list of nn.Module
        Of equal structure; the first one is run with the tensors of all.
    weights : JointWeights
    """

    def __init__(self, modules: list[nn.Module], weights: JointWeights):
        self.module = modules[0]
        self.weights = weights
        tables = [_untrained(module) for module in modules]
        self.others = {
            name: torch.stack([table[name] for table in tables]) for name in tables[0]
        }
        self.first_names = _first_names(self.module)
        self._run = vmap(self._run_one)

    def _run_one(self, weights: dict[str, Tensor], others: dict, X: Tensor) -> Tensor:
        known = {**weights, **others}
        tensors = {name: known[first] for name, first in self.first_names.items()}
        # torch's own tying does not give back the weights of a module in two places.
        return functional_call(self.module, tensors, (X,), tie_weights=False)

    def forward(self, X: Tensor) -> Tensor:
        """As `PlainPasses.forward`."""
        number = len(X)
        others = {name: value[:number] for name, value in self.others.items()}
        self._leaves = [value[:number] for value in self.weights.by_name.values()]
        weights = dict(zip(self.weights.by_name, self._leaves, strict=True))
        with torch.enable_grad():
            self._outputs = self._run(weights, others, X)
        return self._outputs.detach()

    def backward(self, gradient: Tensor) -> list[Tensor]:
        """As `PlainPasses.backward`."""
        return list(torch.autograd.grad(self._outputs, self._leaves, gradient))

    def check(self, X: Tensor) -> None:
        """Raise unless the module can be mapped over nets, and uses all its weights.

        Parameters
        ----------
        X : torch.Tensor of shape (n_nets, batch, n_features)

        Raises
        ------
        ValueError
        """
        try:
            self.backward(torch.ones_like(self.forward(X)))
        # torch cannot map every function, and says so in several ways.
        except (RuntimeError, ValueError) as error:
            name = type(self.module).__name__
            raise ValueError(
                f"module={name} cannot be trained together with others, because "
                f"torch.func.vmap fails ({in_one_line(error, 100)}); use GridSearchCV."
            ) from error


def _untrained(module: nn.Module) -> dict[str, Tensor]:
    weights = module.named_parameters()
    frozen = {name: own.detach() for name, own in weights if not own.requires_grad}
    return frozen | dict(module.named_buffers())


def _first_names(module: nn.Module) -> dict[str, str]:
    """Name under which each tensor is known, by its name in each layer."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    first = {id(tensor): name for name, tensor in tensors}
    return {
        name: first[id(tensor)]
        for prefix, layer in module.named_modules()
        for name, tensor in [
            *layer.named_parameters(prefix, recurse=False, remove_duplicate=False),
            *layer.named_buffers(prefix, recurse=False, remove_duplicate=False),
        ]
    }


def find_joint_passes(
    nets: list[Any], rows_of_nets: Sequence[RowDataset], weights: JointWeights
) -> PlainPasses | MappedPasses:
    """Passes of nets of the same structure.

    Parameters
    ----------
    nets : list of ConstrainedNet
    rows_of_nets : sequence of RowDataset
    weights : JointWeights

    Returns
    -------
    PlainPasses or MappedPasses

    Raises
    ------
    ValueError
        If their module cannot be mapped over them.
    """
    modules = [net.plain_module_ for net in nets]
    plain = PlainPasses.of(modules[0], weights)
    if plain is not None:
        return plain
    mapped = MappedPasses(modules, weights)
    mapped.check(torch.stack([rows.X[:1] for rows in rows_of_nets]))
    return mapped
