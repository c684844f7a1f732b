"""How a signal leaves a block, whatever happens to its exception on the way."""

import contextlib
import os
import signal
import time

import pytest

from simcse_jax.process import Terminated, unwinding_on_sigterm


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def wait(seconds=5.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


def ends(block):
    """Run a block that SIGTERM is to end."""
    with pytest.raises(Terminated):
        unwinding_on_sigterm()(block)()


def test_what_a_library_has_swallowed_comes_again():
    swallowed = []

    def block():
        try:
            terminate()
            wait()
        except BaseException as error:  # as some do while they are imported
            swallowed.append(type(error))
        wait()
        pytest.fail("the signal was lost")

    ends(block)
    assert swallowed == [Terminated]


def test_swallowed_at_the_very_end_it_ends_the_block():
    def block():
        with contextlib.suppress(Terminated):
            terminate()
            wait()

    ends(block)


def test_putting_things_in_order_is_not_disturbed():
    done = []

    def block():
        try:
            terminate()
            wait()
        finally:
            terminate()
            try:
                terminate()
                wait(0.5)
                raise ValueError
            except ValueError:
                wait(0.3)
            done.append(True)

    ends(block)
    assert done == [True]
    before = signal.getsignal(signal.SIGTERM)
    time.sleep(0.3)  # nothing comes later
    assert before == signal.SIG_DFL
