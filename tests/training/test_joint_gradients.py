"""Gradients that processes average: where they lie, and how many messages they take."""

import pytest
import torch
import torch.distributed as dist
from skorch.callbacks import Callback

from sklpos.distributed import fit_data_parallel
from sklpos.training.gradients import JointGradients


def make_weights(*dtypes):
    """One weight of each dtype, with a gradient of its own."""
    weights = [torch.zeros(2, k + 1, dtype=dtype) for k, dtype in enumerate(dtypes)]
    for k, weight in enumerate(weights):
        weight.grad = torch.full_like(weight, k + 1)
    return weights


def addresses(weights):
    return [weight.grad.data_ptr() for weight in weights]


def halve(joined):
    joined /= 2


def test_gradients_are_copied_to_the_same_place_in_every_step():
    gradients = JointGradients()
    weights = make_weights(torch.float32, torch.float32)
    gradients.average(weights, halve)
    first = addresses(weights)
    assert first[1] - first[0] == 2 * 4  # one behind the other
    again = make_weights(torch.float32, torch.float32)
    gradients.average(again, halve)
    assert addresses(again) == first
    assert [float(weight.grad.mean()) for weight in again] == [0.5, 1.0]


def test_fresh_gradients_leave_those_before_as_they_are():
    gradients = JointGradients()
    weights = make_weights(torch.float32)
    gradients.average(weights, halve, fresh=True)
    kept = weights[0].grad
    weights[0].grad = torch.full_like(weights[0], 8)
    gradients.average(weights, halve, fresh=True)
    assert float(kept.mean()) == 0.5
    assert float(weights[0].grad.mean()) == 4.0


def test_other_weights_get_a_place_of_their_own():
    gradients = JointGradients()
    gradients.average(make_weights(torch.float32), halve)
    weights = make_weights(torch.float32, torch.float64)
    gradients.average(weights, halve)
    assert [weight.grad.dtype for weight in weights] == [torch.float32, torch.float64]
    assert [float(weight.grad.mean()) for weight in weights] == [0.5, 1.0]


def test_a_gradient_that_another_process_has_is_taken_over():
    weights = make_weights(torch.float32, torch.float32, torch.float32)
    weights[0].grad = weights[1].grad = None
    sent = []

    def add_those_of_another(joined):
        sent.append(joined.tolist())
        joined[:2] += 3.0  # of the first weight
        joined[-3] += 1.0  # which that process uses
        joined /= 2

    JointGradients().average(weights, add_those_of_another)
    assert sent == [[0.0] * 6 + [3.0] * 6 + [0.0, 0.0, 1.0]]
    assert weights[0].grad.ravel().tolist() == [1.5, 1.5]
    assert weights[1].grad is None
    assert weights[2].grad.ravel().tolist() == [1.5] * 6


def test_a_sparse_gradient_becomes_dense():
    (weight,) = make_weights(torch.float32)
    weight.grad = weight.grad.to_sparse()
    JointGradients().average([weight], halve)
    assert weight.grad.ravel().tolist() == [0.5, 0.5]


def test_a_step_takes_one_message(alone, data, small, monkeypatch):
    sizes = []
    all_reduce = dist.all_reduce

    def counted(tensor, **kwargs):
        sizes.append(tensor.numel())
        return all_reduce(tensor, **kwargs)

    monkeypatch.setattr(dist, "all_reduce", counted)
    fit_data_parallel(small(batch_size=10, max_epochs=3), data.X, data.Y)
    n_weights, n_tensors = 3 * 8 + 8 + 8 * 2 + 2, 4
    of_an_epoch = [*[n_weights + n_tensors] * 4, 4, 4]  # steps; losses of them all
    assert sizes == of_an_epoch * 3


class Keeps(Callback):
    """Keeps the gradients of all steps, without copies."""

    def __init__(self):
        self.kept = []

    def on_grad_computed(self, net, **kwargs):
        self.kept += [weight.grad for weight in net.module_.parameters()]


def test_a_callback_may_keep_gradients(alone, data, small):
    kept = []
    for fit in (fit_data_parallel, lambda model, *rows: model.fit(*rows)):
        callback = Keeps()
        fit(small(batch_size=10, callbacks=[callback]), data.X, data.Y)
        kept.append(callback.kept)
    assert len(kept[0]) == len(kept[1]) == 5 * 4 * 4
    for own, its in zip(*kept, strict=True):
        torch.testing.assert_close(own, its)


@pytest.mark.parametrize("fresh", [False, True])
def test_without_weights_nothing_is_sent(fresh):
    JointGradients().average([], pytest.fail, fresh=fresh)
