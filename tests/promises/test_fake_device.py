"""The imitated device of `fake_device` behaves as an accelerator does."""

import copy
import os
import pickle
import sys
from io import BytesIO
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
import torch
from fake_device import (
    DEVICE,
    DeviceTensor,
    fake_device,
    fork,
    needs_fake_device,
    runs_on_fake_device,
)
from problems import make_data
from skorch import NeuralNetRegressor
from skorch.callbacks import EarlyStopping
from torch import nn


def make_net(device, **params):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))
    defaults = {
        "optimizer": torch.optim.Adam,
        "lr": 0.01,
        "max_epochs": 3,
        "batch_size": 16,
        "verbose": 0,
    }
    return NeuralNetRegressor(module, device=device, **(defaults | params))


X, y = (part.astype("float32") for part in make_data(50, np.eye(3, 2)))


@runs_on_fake_device
def test_moves_there_and_back(device):
    here = torch.arange(6.0).reshape(2, 3)
    there = here.to(device)
    assert isinstance(there, DeviceTensor)
    assert there.device == torch.device(device, 0)
    assert there.to(device) is there
    assert type(there.cpu()) is torch.Tensor
    assert torch.equal(there.cpu(), here)
    assert there.tolist() == here.tolist()


@runs_on_fake_device
def test_is_a_copy(device):
    here = torch.zeros(3)
    there = here.to(device)
    here += 1
    assert there.tolist() == [0, 0, 0]
    here.copy_(there)
    assert here.tolist() == [0, 0, 0]


@runs_on_fake_device
def test_needs_a_move_to_numpy(device):
    there = torch.zeros(3, device=device)
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(there)


@runs_on_fake_device
def test_factories(device):
    there = torch.zeros(2, 3, device=device)
    for made in (
        there,
        torch.tensor([1.0, 2.0], device=device),
        torch.as_tensor(np.ones(2), device=device),
        torch.zeros_like(there),
        there.new_zeros(2),
        there.new_tensor([1.0]),
    ):
        assert made.device.type == device
    parameter = torch.tensor([1.0], device=device, requires_grad=True)
    assert parameter.is_leaf
    assert parameter.requires_grad
    assert torch.tensor([1.0]).device.type == "cpu"


@runs_on_fake_device
def test_arithmetic(device):
    a, b = torch.rand(2, 4, 3)
    there = (a.to(device) * b.to(device) - 1).relu() @ b.to(device).T
    assert there.device.type == device
    assert torch.equal(there.cpu(), (a * b - 1).relu() @ b.T)


@runs_on_fake_device
def test_in_place_and_views(device):
    there = torch.zeros(2, 3, device=device)
    alias = there
    there += 1
    there[0].mul_(5)
    there[:, 1] = 7
    assert alias is there
    assert there.tolist() == [[5, 7, 5], [1, 7, 1]]


@runs_on_fake_device
def test_numbers_and_indices_on_the_cpu_take_part(device):
    there = torch.arange(4.0, device=device)
    index = torch.tensor([2, 0])
    assert (there * torch.tensor(2.0)).tolist() == [0, 2, 4, 6]
    assert there[index].tolist() == [2, 0]
    there[index] = 9.0
    assert there.tolist() == [9, 1, 9, 3]


@runs_on_fake_device
def test_mixing_devices_raises(device):
    here, there = torch.ones(3), torch.ones(3, device=device)
    for mixed in (
        lambda: here + there,
        lambda: there.add_(here),
        lambda: torch.cat([here, there]),
        lambda: here[torch.zeros(1, dtype=torch.long, device=device)],
        lambda: nn.Linear(3, 1)(there),
        lambda: nn.Linear(3, 1).to(device)(here),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()


@runs_on_fake_device
def test_cpu_generator_raises(device):
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, generator=generator, device=device)
    torch.rand(3, generator=generator)


@runs_on_fake_device
def test_refuses_what_cuda_refuses(device):
    there = torch.ones(2, 2, device=device)
    with pytest.raises(RuntimeError, match="cannot pin"):
        there.pin_memory()
    with pytest.raises(RuntimeError, match="non_blocking"):
        there.to("cpu", non_blocking=True)
    torch.ones(2).to(device, non_blocking=True)


@runs_on_fake_device
def test_fused_kernel_needs_gradients_laid_out_like_weights(device):
    weight = nn.Parameter(torch.ones(2, 3, device=device))
    optimizer = torch.optim.Adam([weight], fused=True)
    weight.grad = torch.ones(2, 3, device=device)
    optimizer.step()
    weight.grad = torch.ones(3, 2, device=device).t()
    with pytest.raises(RuntimeError, match="layout"):
        optimizer.step()


@runs_on_fake_device
def test_cannot_be_used_in_a_fork(device):
    layer = nn.Linear(2, 1).to(device)
    child = fork()
    if child == 0:
        try:
            layer.weight + 1
        except RuntimeError:
            os._exit(3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


@runs_on_fake_device
def test_backward_through_a_layer(device):
    torch.manual_seed(0)
    here = nn.Linear(3, 2)
    there = copy.deepcopy(here).to(device)
    X = torch.rand(5, 3)
    here(X).square().mean().backward()
    there(X.to(device)).square().mean().backward()
    for cpu, gpu in zip(here.parameters(), there.parameters(), strict=True):
        assert isinstance(gpu, nn.Parameter)
        assert gpu.grad.device.type == device
        assert torch.equal(gpu.grad.cpu(), cpu.grad)


@runs_on_fake_device
def test_copied_module_is_independent(device):
    layer = nn.Linear(3, 2).to(device)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        layer.weight.zero_()
    assert twin.weight.device.type == device
    assert twin.weight.requires_grad
    assert twin.weight.abs().sum().item() > 0


@runs_on_fake_device
def test_assignment_to_data(device):
    layer = nn.Linear(1, 1).to(device)
    layer.weight.data = torch.full((1, 1), 3.0, device=device)
    layer.weight.data *= 2
    assert layer.weight.tolist() == [[6]]


@runs_on_fake_device
def test_pickle_and_save(device):
    layer = nn.Linear(3, 2).to(device)
    twin = pickle.loads(pickle.dumps(layer))
    file = BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    for weight in (twin.weight, state["weight"]):
        assert weight.device.type == device
        assert torch.equal(weight, layer.weight)
    assert isinstance(twin.weight, nn.Parameter)
    file.seek(0)
    here = torch.load(file, weights_only=True, map_location="cpu")
    assert type(here["weight"]) is torch.Tensor


@pytest.mark.parametrize("name", ["SGD", "Adam", "LBFGS"])
@runs_on_fake_device
def test_optimizer_step(device, name):
    torch.manual_seed(0)
    here = nn.Linear(3, 1)
    there = copy.deepcopy(here).to(device)
    X, y = torch.rand(8, 3), torch.rand(8, 1)
    for module, inputs, target in ((here, X, y), (there, X.to(device), y.to(device))):
        optimizer = getattr(torch.optim, name)(module.parameters(), lr=0.1)

        def closure(module=module, inputs=inputs, target=target, optimizer=optimizer):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(module(inputs), target)
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
    assert there.weight.device.type == device
    assert torch.equal(there.weight.cpu(), here.weight)


@runs_on_fake_device
def test_skorch_net_equals_the_cpu(device):
    predictions = [make_net(name).fit(X, y).predict(X) for name in ("cpu", device)]
    assert isinstance(predictions[1], np.ndarray)
    np.testing.assert_array_equal(*predictions)


@runs_on_fake_device
def test_skorch_net_with_lbfgs_and_early_stopping(device):
    params = {
        "optimizer": torch.optim.LBFGS,
        "callbacks": [EarlyStopping(patience=2, load_best=True)],
        "optimizer__max_iter": 3,
        "batch_size": 64,
    }
    nets = [make_net(name, **params).fit(X, y) for name in ("cpu", device)]
    assert next(nets[1].module_.parameters()).device.type == device
    np.testing.assert_array_equal(*[net.predict(X) for net in nets])


@runs_on_fake_device
def test_ends_with_its_context(device):
    # `device` is in use around this test: a nested context must not end it
    with fake_device():
        pass
    assert torch.zeros(1, device=device).device.type == device
    assert torch.zeros(1).device.type == "cpu"


@runs_on_fake_device
def fail(device):
    raise ValueError(f"seen on {device}")


@needs_fake_device
def test_failures_reach_the_session():
    with pytest.raises(ValueError, match="seen on fakegpu"):
        fail()


@needs_fake_device
@pytest.mark.slow
def test_too_late_after_a_backward_pass():
    program = (
        "import torch; torch.ones(1, requires_grad=True).backward()\n"
        "from fake_device import fake_device\n"
        "with fake_device(): pass"
    )
    folder = Path(__file__).parents[1]
    late = run([sys.executable, "-c", program], cwd=folder, capture_output=True)
    assert late.returncode != 0
    assert b"before the first backward pass" in late.stderr


@needs_fake_device
def test_the_session_is_left_alone():
    torch.ones(1, requires_grad=True).backward()
    test_moves_there_and_back()
    with pytest.raises(RuntimeError):
        torch.zeros(1, device=DEVICE)
    assert torch.rand(2).device.type == "cpu"
    assert torch.utils.backend_registration._get_privateuse1_backend_name() != DEVICE
