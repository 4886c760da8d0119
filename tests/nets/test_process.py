"""Public calls leave their process as they found it."""

import signal
import threading
import warnings

import numpy as np
import pytest
import torch

from sklpos.nets import process
from sklpos.nets.precision import autocast_state
from sklpos.nets.process import leaves_no_trace, n_interrupts


def press():
    signal.raise_signal(signal.SIGINT)


def leave_everything_behind():
    torch.set_grad_enabled(False)
    torch.autocast("cpu", dtype=torch.bfloat16).__enter__()
    np.seterr(all="ignore")
    return n_interrupts()


def test_modes_are_restored():
    before = autocast_state(), np.geterr()
    assert leaves_no_trace(leave_everything_behind)() == 0
    assert torch.is_grad_enabled()
    assert (autocast_state(), np.geterr()) == before


def test_the_mode_of_the_caller_is_kept():
    with torch.no_grad(), torch.autocast("cpu"):
        leaves_no_trace(torch.set_grad_enabled)(True)
        leaves_no_trace(torch.set_autocast_enabled)("cpu", False)
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")


def test_only_the_outermost_call_restores():
    @leaves_no_trace
    def outer():
        leaves_no_trace(torch.set_grad_enabled)(False)
        return torch.is_grad_enabled()

    assert not outer()
    assert torch.is_grad_enabled()


def test_every_thread_has_calls_of_its_own():
    @leaves_no_trace
    def outer():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    def work():
        leaves_no_trace(leave_everything_behind)()
        seen.append(torch.is_grad_enabled())

    seen = []
    outer()
    assert seen == [True]


def test_filters_are_restored_where_ctrl_c_cut_a_context():
    before = warnings.filters

    @leaves_no_trace
    def cut():
        context = warnings.catch_warnings()
        context.__enter__()
        press()

    with pytest.raises(KeyboardInterrupt):
        cut()
    assert warnings.filters is before


def test_contexts_close_with_the_call(monkeypatch):
    """And not when the exception is forgotten, which may be much later."""
    closed = []

    def suspended():
        try:
            yield
        finally:
            closed.append(torch.is_grad_enabled())
            torch.set_grad_enabled(False)

    @leaves_no_trace
    def cut():
        generator = suspended()
        next(generator)
        press()

    with pytest.raises(KeyboardInterrupt) as caught:
        cut()
    assert closed == [True]
    assert torch.is_grad_enabled()
    assert caught.value.__traceback__ is not None


def test_ctrl_c_waits_while_something_is_put_back(monkeypatch):
    order = []

    def slow():
        order.append("begun")
        press()
        order.append("done")

    monkeypatch.setattr(process, "_RELEASES", [slow])
    with pytest.raises(KeyboardInterrupt):
        leaves_no_trace(torch.set_grad_enabled)(False)
    # A second time because the first one ended with an exception.
    assert order[:2] == ["begun", "done"]
    assert torch.is_grad_enabled()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_is_counted_and_passed_on():
    @leaves_no_trace
    def survive():
        try:
            press()
        except KeyboardInterrupt:
            return n_interrupts()

    assert survive() == 1
    assert n_interrupts() == 0


@pytest.mark.global_state
def test_the_handler_of_the_user_hears_ctrl_c():
    heard = []
    before = signal.signal(signal.SIGINT, lambda *args: heard.append(n_interrupts()))
    own = signal.getsignal(signal.SIGINT)
    try:
        leaves_no_trace(press)()
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [0]


@pytest.mark.global_state
def test_a_handler_that_a_callback_installs_stays():
    heard = []

    def install():
        inner = signal.getsignal(signal.SIGINT)

        def own(*args):
            heard.append(True)
            inner(*args)

        signal.signal(signal.SIGINT, own)

    before = signal.getsignal(signal.SIGINT)
    try:
        leaves_no_trace(install)()
        assert signal.getsignal(signal.SIGINT) is not before
        # It hands Ctrl-C to a handler whose call has ended.
        with pytest.raises(KeyboardInterrupt):
            press()
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [True]
