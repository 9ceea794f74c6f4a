"""Signals become a flag; a second one ends the process; handlers are put back."""

import os
import signal
import threading

import pytest

from userclue.train.interrupt import stop_on_signal


def test_first_signal_sets_the_flag_and_the_second_interrupts():
    with stop_on_signal() as request:
        assert request.received is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.received == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_come_back_even_after_an_error():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError), stop_on_signal():
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_is_left_alone():
    seen = []

    def work():
        before = signal.getsignal(signal.SIGTERM)
        with stop_on_signal() as request:
            seen.append((signal.getsignal(signal.SIGTERM) is before, request.received))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, None)]
